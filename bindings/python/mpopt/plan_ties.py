"""Parameters that modules or stages share."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from .plan_common import PlanError, local


def find_ties(model: nn.Module) -> list[list[str]]:
    """Groups of names that share one parameter."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def retie(model: nn.Module, ties: list[list[str]]) -> None:
    """Shares tied parameters again after something has replaced them one by one."""
    for group in ties:
        here = [name for name in group if has_parameter(model, name)]
        for name in here[1:]:
            first, other = model.get_parameter(here[0]), model.get_parameter(name)
            if getattr(first, "placements", None) != getattr(other, "placements", None):
                raise PlanError(f"Expected one sharding for the tied {here[0]} and {name} but the plan has two.")
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, first)


def has_parameter(model: nn.Module, name: str) -> bool:
    return any(name == other for other, _ in model.named_parameters(remove_duplicate=False))


class TiedGroup:
    """A parameter that stages share (embedding and head), with the group that sums its gradients."""

    def __init__(self, name: str, group: Any):
        self.name, self.group = name, group

    def share(self, parameter: Tensor) -> None:
        """Makes the copies of the parameter equal, or of this rank's shard of it."""
        if local(parameter).numel():
            dist.broadcast(local(parameter).data, src=dist.get_process_group_ranks(self.group)[0], group=self.group)


def tie_across_stages(model: nn.Module, names: list[list[str]], mesh: DeviceMesh) -> list[TiedGroup]:
    """
    Finds the parameters that stages share, by the names that tied them in the whole model. Every rank must call it:
    groups are created together.
    """
    if mesh["pipeline"].size() == 1:
        return []
    held = [next((name for name in group if has_parameter(model, name)), None) for group in names]
    everywhere: list = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, [name is not None for name in held])
    grid = mesh.mesh.movedim(mesh.mesh_dim_names.index("pipeline"), 0).flatten(1)
    found = []
    for tie, name in enumerate(held):
        for column in grid.T.tolist():
            ranks = [rank for rank in column if everywhere[rank][tie]]
            if len(ranks) < 2:
                continue
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                found.append(TiedGroup(name, group))
    return found
