"""Tensor parallelism of one stage, from the placements of a plan's operators."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from .plan_common import DTensor, PlanError, Replicate, Shard
from .plan_ties import find_ties, retie


class GatherInput(ParallelStyle):
    """
    Gives an attention or an MLP its input as one replicated DTensor. Its projections then share one
    all-gather forward (sequence parallel) and one reduction backward, instead of one each.
    """

    def __init__(self, layout: Any, local: bool = False):
        self.layout, self.local = layout, local

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        def gather(x: Tensor) -> Tensor:
            if not isinstance(x, DTensor):
                x = DTensor.from_local(x, mesh, (self.layout,), run_check=False)
            x = x.redistribute(placements=(Replicate(),))
            return x.to_local() if self.local else x

        def before(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            if args:
                return (gather(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": gather(kwargs["hidden_states"])}

        module.register_forward_pre_hook(before, with_kwargs=True)
        return module


class ScatterOutput(ParallelStyle):
    """Keeps this rank's part of the sequence of a replicated module's output."""

    def _apply(self, module: nn.Module, mesh: DeviceMesh) -> nn.Module:
        def after(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
            full = DTensor.from_local(output, mesh, (Replicate(),), run_check=False)
            return full.redistribute(placements=(Shard(output.ndim - 2),)).to_local()

        module.register_forward_hook(after)
        return module


class FusedColwiseParallel(ColwiseParallel):
    """
    Column-splits a projection whose rows are several projections one after the other (q, k, v), so that
    each rank holds its heads of every one. The sharded parameter's rows are therefore grouped by rank.
    """

    def __init__(self, sections: list[int], ranks: int):
        super().__init__()
        chunks = [rows.chunk(ranks) for rows in torch.arange(sum(sections)).split(sections)]
        self.order = torch.cat([section[rank] for rank in range(ranks) for section in chunks])

    def _partition_linear_fn(self, name: str, module: nn.Module, device_mesh: DeviceMesh) -> None:
        for parameter in module.parameters():
            parameter.data = parameter.data[self.order.to(parameter.device)]
        super()._partition_linear_fn(name, module, device_mesh)


def operator_role(module: nn.Module, inputs: list[str], outputs: list[str]) -> str | None:
    """
    How an operator's placements split its module: `column`, `row` or None. Activations are [batch, sequence,
    features...], so Shard(2) and above splits features; a weight's Shard(0) is its output rows or vocabulary.
    """

    def features(placement: str) -> bool:
        return placement.startswith("Shard") and int(placement[6:-1]) >= 2

    if isinstance(module, nn.Embedding):
        if outputs[0] == "Partial" or ("Shard(0)" in inputs and outputs[0] != "Shard(0)"):
            return "row"
        return "column" if features(outputs[0]) else None
    if isinstance(module, nn.Linear):
        if outputs[0] == "Partial" or features(inputs[0]):
            return "row"
        return "column" if features(outputs[0]) else None
    return None


def module_roles(model: nn.Module, plan: dict) -> dict[str, str]:
    """Module name to `column` or `row`, from the plan's operators."""
    roles: dict[str, str] = {}
    for operator in plan["operators"]:
        sharding = operator["sharding"].get("tensor")
        patterns = "|".join(re.escape(name).replace(r"\*", r"\d+") for name in operator["modules"])
        if sharding is None or not patterns:
            continue
        for name, module in model.named_modules():
            if name in roles or not re.fullmatch(patterns, name):
                continue
            if type(module).__name__ == "Conv1D":
                raise PlanError(f"Expected nn.Linear for {name} but found Conv1D, which DTensor cannot split.")
            role = operator_role(module, sharding["inputs"], sharding["outputs"])
            if role:
                roles[name] = role
    return roles


def in_block(name: str) -> bool:
    """Whether a module lies inside a numbered block; a linear layer outside is the head."""
    return any(part.isdigit() for part in name.split("."))


def fused_sections(name: str, module: nn.Linear, plan: dict) -> list[int] | None:
    """Rows of each projection in a fused one, or None for a plain one."""
    architecture = plan["model"].get("architecture") or {}
    leaf = name.rpartition(".")[2]
    if leaf in ("c_attn", "qkv_proj", "Wqkv") and architecture:
        query, key = (architecture[what] * architecture["headSize"] for what in ("heads", "keyValueHeads"))
        if query + 2 * key == module.out_features:
            return [query, key, key]
    if leaf == "gate_up_proj":
        return [module.out_features // 2] * 2
    return None


HEAD_COUNTS = ("num_heads", "num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "n_kv_heads")


class TensorSplit(NamedTuple):
    """What `apply_tensor_parallel` leaves to know."""

    #: Whether the logits stay split over the vocabulary: forward and backward must run under `loss_parallel` then.
    logits: bool
    #: Rows of each projection in the fused ones, by module: their rows are grouped by rank.
    fused: dict[str, list[int]]


def apply_tensor_parallel(model: nn.Module, plan: dict, mesh: DeviceMesh) -> TensorSplit:
    """Splits the modules of one stage over the tensor axis."""
    ranks = mesh["tensor"].size()
    if ranks == 1:
        return TensorSplit(False, {})
    sequence = plan["mesh"]["sequenceParallel"]
    residual = Shard(1) if sequence else Replicate()
    roles = module_roles(model, plan)
    ties = find_ties(model)
    children: dict[str, set[str]] = {}
    for name, role in roles.items():
        if isinstance(model.get_submodule(name), nn.Linear) and in_block(name):
            children.setdefault(name.rpartition(".")[0], set()).add(role)
    gathered = [parent for parent, found in children.items() if "column" in found]

    styles: dict[str, ParallelStyle] = {}
    for parent in gathered:
        styles[parent] = GatherInput(residual)
        module = model.get_submodule(parent)
        for attribute in HEAD_COUNTS:
            if isinstance(getattr(module, attribute, None), int) and "row" in children[parent]:
                setattr(module, attribute, getattr(module, attribute) // ranks)
    split = TensorSplit(False, {})
    for name, module in model.named_modules():
        parent, role = name.rpartition(".")[0], roles.get(name)
        found = children.get(parent, set())
        if isinstance(module, nn.Embedding):
            if role == "row":
                styles[name] = RowwiseParallel(input_layouts=Replicate(), output_layouts=residual)
            elif role == "column":
                styles[name] = ColwiseParallel(output_layouts=residual)
            elif sequence:
                styles[name] = ScatterOutput()
        elif isinstance(module, nn.Linear) and not in_block(name):
            if role == "column":
                split = split._replace(logits=True)
                styles[name] = ColwiseParallel(input_layouts=residual, use_local_output=False)
            elif role == "row":
                styles[name] = RowwiseParallel(input_layouts=residual)
            elif sequence:
                styles[name] = GatherInput(residual, local=True)
        elif isinstance(module, nn.Linear):
            if role == "row":
                source = Shard(-1) if "column" in found else residual
                styles[name] = RowwiseParallel(input_layouts=source, output_layouts=residual)
            elif role == "column" and "row" not in found:
                styles[name] = ColwiseParallel(output_layouts=residual)
            elif role == "column":
                sections = fused_sections(name, module, plan)
                styles[name] = FusedColwiseParallel(sections, ranks) if sections else ColwiseParallel()
                if sections:
                    split.fused[name] = sections
            elif parent in gathered:
                styles[name] = GatherInput(residual, local=True)
        elif "norm" in type(module).__name__.lower() and next(module.parameters(), None) is not None:
            if any(name.startswith(f"{parent}.") for parent in gathered):
                for parameter in module.parameters():
                    parameter.partial_over_tensor = True  # a norm of this rank's heads only
            elif sequence:
                styles[name] = SequenceParallel()
    parallelize_module(model, mesh["tensor"], styles)
    retie(model, ties)
    return split
