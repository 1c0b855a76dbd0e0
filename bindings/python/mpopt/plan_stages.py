"""A model cut into the plan's pipeline stages."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .errors import PlanError


class PassThrough(nn.Module):
    """Stands where another stage holds the module."""

    def forward(self, x: Any, *_args: Any, **_kwargs: Any) -> Any:
        return x


class AddNothing(nn.Module):
    """Stands for a position embedding that the first stage has already added."""

    def forward(self, *_args: Any, **_kwargs: Any) -> Tensor:
        return torch.zeros(())


def split_stages(model: nn.Module, plan: dict, indices: list[int]) -> list[nn.Module]:
    """
    Keeps what the stages `indices` run and drops the rest, in place. Names in the state dict stay as they are.
    Returns a module for each stage: the model itself for a single one, otherwise models that share its modules.
    """
    owner = {name: stage["index"] for stage in plan["stages"] for name in stage["modules"]}
    names = dict(model.named_modules())
    missing = [name for name in owner if name not in names]
    if missing:
        raise PlanError(f"Expected a module {missing[0]} in the model, as the plan names it, but there is none.")
    embeddings = [name for name in owner if isinstance(names[name], nn.Embedding)]
    head = next((stage["index"] for stage in plan["stages"] if stage["head"]), len(plan["stages"]) - 1)
    placed = {id(p) for name in owner for p in names[name].parameters()}

    def stage_of(path: str, module: nn.Module) -> int | None:
        if path in owner:
            return owner[path]
        free = [name for name, p in module.named_parameters() if id(p) not in placed]
        if free:
            raise PlanError(f"Expected every parameter on a stage but the plan places {path}.{free[0]} on none.")
        if next(module.parameters(), None) is not None:
            return head  # a head tied to the embedding, which the plan names only once
        return 0 if isinstance(module, nn.Dropout) else None

    def visit(parent: nn.Module, prefix: str, kept: list[int], shared: bool) -> nn.Module:
        if shared:
            parent = copy.copy(parent)
            parent._modules = dict(parent._modules)
        for name, module in list(parent.named_children()):
            path = f"{prefix}{name}"
            if path not in owner and any(other.startswith(f"{path}.") for other in owner):
                parent._modules[name] = visit(module, f"{path}.", kept, shared)
                continue
            if stage_of(path, module) in (None, *kept):
                continue
            if isinstance(parent, nn.ModuleList):
                del parent._modules[name]  # `del parent[i]` would renumber the blocks that stay
            else:
                parent._modules[name] = AddNothing() if path in embeddings[1:] else PassThrough()
        return parent

    views = [visit(model, "", [index], shared=True) for index in indices] if len(indices) > 1 else [model]
    visit(model, "", indices, shared=False)
    return views
