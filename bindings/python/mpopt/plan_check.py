"""Whether a plan holds its invariants, and whether what is here can run it. Needs no PyTorch."""

from __future__ import annotations

import collections
import itertools
import math
from typing import Any, Iterator

from .errors import PlanError
from .plan_table import splits_backwards

__all__ = ["broken", "refused", "require_runnable"]

AXES = ("pipeline", "data", "context", "tensor")
DTYPE_NAMES = ("f32", "bf16")
FIELDS = {
    "mesh": ("axes", "sizes", "sequenceParallel"),
    "schedule": ("name", "microBatches"),
    "batch": ("global", "micro", "sequence"),
    "optimizer": ("zero",),
    "model": ("blockLayers",),
    "cluster": ("deviceType",),
    "job": ("dtypes",),
}
STAGE_FIELDS = ("index", "rank", "devices", "layers", "embedding", "head", "modules", "recompute")


def require_runnable(plan: dict[str, Any], table: str | None = None) -> None:
    """Raises PlanError with the first sentence that `broken` or `refused` has."""
    for problem in broken(plan):
        raise PlanError(problem)
    for problem in refused(plan, table):
        raise PlanError(problem)


def broken(plan: dict[str, Any]) -> Iterator[str]:
    """The invariants that a plan breaks, a sentence each."""
    missing = list(missing_fields(plan))
    yield from missing
    if not missing:
        yield from mesh_problems(plan)
        yield from stage_problems(plan)
        yield from batch_problems(plan)


def missing_fields(plan: dict[str, Any]) -> Iterator[str]:
    for part in ("rankTable", "stages", "operators"):
        if not isinstance(plan.get(part), list):
            yield f"Expected a list {part} in the plan but found none."
    for part, names in FIELDS.items():
        found = plan.get(part)
        for name in names:
            if not isinstance(found, dict) or name not in found:
                yield f"Expected {part}.{name} in the plan but found none."
    stages = plan.get("stages")
    for i, stage in enumerate(stages if isinstance(stages, list) else []):
        for name in STAGE_FIELDS:
            if not isinstance(stage, dict) or name not in stage:
                yield f"Expected stages[{i}].{name} in the plan but found none."


def mesh_problems(plan: dict[str, Any]) -> Iterator[str]:
    axes, sizes = plan["mesh"]["axes"], plan["mesh"]["sizes"]
    if len(axes) != len(sizes) or len(set(axes)) != len(axes) or not set(axes) <= set(AXES):
        yield f"Expected one size for each axis of the mesh but found axes {axes} and sizes {sizes}."
        return
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        yield f"Expected a positive size for each axis of the mesh but found {sizes}."
        return
    if plan["rankTable"] != [list(row) for row in itertools.product(*map(range, sizes))]:
        yield "Expected the plan's rank table to number the mesh row by row but it does not."
    devices = plan["cluster"].get("devices", math.prod(sizes))
    if devices != math.prod(sizes):
        yield f"Expected degrees that multiply to {devices} devices but found {' x '.join(map(str, sizes))}."
    data, shards = degree(plan, "data"), plan["optimizer"].get("shards")
    if shards is not None and (shards < 1 or data % shards):
        yield f"Expected sharding groups that divide {data} data ranks but found {shards}."


def stage_problems(plan: dict[str, Any]) -> Iterator[str]:
    stages, ranks = plan["stages"], degree(plan, "pipeline")
    end = 0
    for i, stage in enumerate(stages):
        layers = stage["layers"]
        if stage["index"] != i or layers["start"] != end or layers["end"] < end:
            yield (
                f"Expected stage {i} to go on at layer {end} but found stage {stage['index']} with layers "
                f"{layers['start']} to {layers['end']}."
            )
        end = layers["end"]
    if end != plan["model"]["blockLayers"]:
        yield f"Expected {plan['model']['blockLayers']} layers in the stages but found {end}."
    for what, place in (("embedding", 0), ("head", len(stages) - 1)):
        found = [stage["index"] for stage in stages if stage[what]]
        if found != [place]:
            yield f"Expected the {what} on stage {place} alone but found it on {found or 'none'}."
    counts = collections.Counter(name for stage in stages for name in stage["modules"])
    for name in (name for name, count in counts.items() if count > 1):
        yield f"Expected each module on one stage but found {name} on several."
    held = collections.Counter(stage["rank"] for stage in stages)
    if sorted(held) != list(range(ranks)) or len(set(held.values())) > 1:
        yield f"Expected equally many stages on each of {ranks} pipeline ranks but the plan has {dict(held)}."
    at = plan["mesh"]["axes"].index("pipeline") if "pipeline" in plan["mesh"]["axes"] else None
    for stage in stages:
        holders = [
            rank for rank, row in enumerate(plan["rankTable"]) if at is None or row[at : at + 1] == [stage["rank"]]
        ]
        if stage["devices"] != holders:
            yield f"Expected stage {stage['index']} on the ranks {holders} but found {stage['devices']}."


def batch_problems(plan: dict[str, Any]) -> Iterator[str]:
    batch, tensor = plan["batch"], degree(plan, "tensor")
    total = batch["micro"] * plan["schedule"]["microBatches"] * degree(plan, "data")
    if total != batch["global"]:
        yield (
            f"Expected micro-batch x micro-batches x data ranks to be the global batch {batch['global']} but found "
            f"{total}."
        )
    if plan["mesh"]["sequenceParallel"] and batch["sequence"] % tensor:
        yield f"Expected a sequence that {tensor} tensor ranks divide but found {batch['sequence']} tokens."


def refused(plan: dict[str, Any], table: str | None = None) -> Iterator[str]:
    """What a plan asks for and nothing here does, a sentence each. `table` is the schedule's, where it has one."""
    dtypes, optimizer = plan["job"]["dtypes"], plan["optimizer"]
    for what in ("parameters", "gradients", "optimizer"):
        if dtypes[what] not in DTYPE_NAMES:
            yield f"Expected f32 or bf16 for the {what} but the plan says {dtypes[what]}."
    if dtypes.get("linear", dtypes["parameters"]) != dtypes["parameters"]:
        yield f"Expected linear layers in the parameters' type but the plan says {dtypes['linear']}."
    if "microBatchGradients" in dtypes:
        yield "Expected one sum of gradients but the plan keeps those of a micro-batch beside it."
    if "context" in plan["mesh"]["axes"]:
        yield "Expected whole sequences on every rank but the plan has a context axis."
    if "experts" in plan["mesh"] or "expertCapacity" in plan["job"]:
        yield "Expected experts as the model runs them but the plan divides them or their capacity."
    if optimizer.get("offload", "none") != "none":
        yield f"Expected all in device memory but the plan offloads: {optimizer['offload']}."
    architecture = plan["model"].get("architecture") or {}
    if architecture.get("nextTokenPredictions"):
        yield "Expected one prediction a token but the plan's model makes further ones."
    several = len(plan["stages"]) > degree(plan, "pipeline")
    if optimizer["zero"] > 1 and (several or splits_backwards(plan, table)):
        yield (
            f"Expected one stage a rank and whole backward passes for ZeRO-{optimizer['zero']} but the schedule is "
            f"{plan['schedule']['name']}."
        )


def degree(plan: dict[str, Any], axis: str) -> int:
    """Ranks on one axis of the mesh; 1 where the mesh lacks it."""
    return dict(zip(plan["mesh"]["axes"], plan["mesh"]["sizes"])).get(axis, 1)
