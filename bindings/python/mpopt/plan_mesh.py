"""The plan's mesh over the ranks that were started."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from .world import check_same_plan, check_world_size


def device_type(plan: dict) -> str:
    """`cpu` or `cuda` (ROCm answers to `cuda` too); MPOPT_DEVICE overrides the plan."""
    return os.environ.get("MPOPT_DEVICE") or ("cpu" if plan["cluster"]["deviceType"] == "cpu" else "cuda")


def build_mesh(plan: dict, table: str | None = None) -> DeviceMesh:
    """
    Starts the process group and lays the plan's mesh over its ranks, once the ranks are known to agree on the plan
    and its schedule's table.
    """
    check_world_size(plan)
    axes, sizes = list(plan["mesh"]["axes"]), list(plan["mesh"]["sizes"])
    for axis in ("tensor", "data", "pipeline"):
        if axis not in axes:
            axes.insert(0, axis)
            sizes.insert(0, 1)
    at = axes.index("data")
    shards = plan["optimizer"].get("shards", sizes[at])
    if shards < sizes[at]:
        # Neighbours share out the state; groups of them are replicas.
        axes[at : at + 1], sizes[at : at + 1] = ["replicas", "shards"], [sizes[at] // shards, shards]

    device = device_type(plan)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not dist.is_initialized():
        backend = "nccl" if device == "cuda" else "gloo"
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    check_same_plan(plan, table)
    mesh = init_device_mesh(device, tuple(sizes), mesh_dim_names=tuple(axes))
    if "shards" in axes:
        mesh["replicas", "shards"]._flatten("data")
    return mesh
