"""The ranks that were started, compared with those that a plan takes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from typing import Any

from .errors import PlanError
from .plan_document import Plan

__all__ = ["check_same_plan", "check_world", "check_world_size"]


def check_world(plan: Plan | dict[str, Any]) -> None:
    """
    Raises PlanError where WORLD_SIZE is not what the plan takes and, once a process group runs, where its ranks have
    read different plans: every rank must call it then. `Plan.apply` does so by itself.
    """
    document, table = (plan.document, plan.table) if isinstance(plan, Plan) else (plan, None)
    check_world_size(document)
    # Without the module nobody has started a group.
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        check_same_plan(document, table)


def check_world_size(plan: dict[str, Any]) -> None:
    """Raises where another number of ranks was started."""
    axes, sizes = plan["mesh"]["axes"], plan["mesh"]["sizes"]
    world, found = math.prod(sizes), os.environ.get("WORLD_SIZE", "1")
    if found != str(world):
        shape = " x ".join(f"{axis} {size}" for axis, size in zip(axes, sizes))
        raise PlanError(f"Expected {world} ranks for the plan's mesh ({shape}) but found WORLD_SIZE={found}.")


def check_same_plan(plan: dict[str, Any], table: str | None) -> None:
    """Raises on every rank where ranks of the process group have different plans or tables."""
    import torch.distributed as dist

    digest = hashlib.sha256(json.dumps([plan, table], sort_keys=True).encode()).hexdigest()
    digests: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, digest)
    for rank, other in enumerate(digests):
        if other != digests[0]:
            raise PlanError(f"Expected the same plan on every rank but rank {rank} read another than rank 0.")
