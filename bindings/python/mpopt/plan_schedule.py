"""
The pipeline schedule of an mpopt plan, run by torch.distributed.pipelining.

Plain 1F1B and GPipe of one stage a rank run in PyTorch's classes. Every other schedule is a table of actions
(`plan_table`), which PyTorch's runtime executes in that order.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import tempfile
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, schedules

from .plan_common import DTYPES, DTensor, PlanError
from .plan_recompute import DeferredWeights
from .plan_table import check_table, is_plain, splits_backwards

# PyTorch's own classes, for plans without a table; what they execute is the schedule of that name.
CLASSES = {
    "interleaved": "Interleaved1F1B",
    "looped-bfs": "LoopedBFS",
    "interleaved-zb": "InterleavedZeroBubble",
    "zbv": "ZBVZeroBubble",
    "dualpipev": "DualPipeV",
}
# Before, weight halves took wrong gradients of chunked outputs and of parameters used twice, without a word
# (pytorch/pytorch issues 170277 and 180952).
SPLIT_BACKWARD_SINCE = (2, 13)


# Stages


class StageModule(nn.Module):
    """One stage as the schedules call it: hidden states in and out, and the loss from the last one."""

    def __init__(
        self, model: nn.Module, index: int, count: int, loss_fn: Callable, deferred: DeferredWeights | None
    ):
        super().__init__()
        self.model, self.loss_fn, self.deferred = model, loss_fn, deferred
        self.index, self.first, self.last = index, index == 0, index == count - 1
        self.embedded = "inputs_embeds" in inspect.signature(model.forward).parameters

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        output = self.model(x) if self.first or not self.embedded else self.model(inputs_embeds=x)
        output = getattr(output, "logits", getattr(output, "last_hidden_state", output))
        if not self.last:
            output = output.to_local() if isinstance(output, DTensor) else output
            # The runtime detaches the output of a split backward in place, which views and inputs do not stand.
            return output.clone() if output is x or output._is_view() else output
        # The loss leaves the stage, not the logits: the schedule keeps what the last stage returns. A new tensor
        # and no view, so that the schedule can let go of the graph behind it.
        loss = self.loss_fn(output, targets)
        return torch.stack([loss.full_tensor() if isinstance(loss, DTensor) else loss])


class PlannedStage(PipelineStage):
    """A stage whose weight halves reach the optimizer, those of recomputed blocks among them."""

    def __init__(self, stage: StageModule, collect: Callable[[nn.Module], None], **options: Any):
        super().__init__(stage, stage.index, **options)
        self.collect = collect

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, full_backward: bool = True, **kwargs: Any) -> None:
        with self.pass_of("whole" if full_backward else "input", bwd_chunk_id):
            super().backward_one_chunk(bwd_chunk_id, *args, full_backward=full_backward, **kwargs)

    def backward_weight_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        # PyTorch leaves the whole backward pass of the first stage to its weight half.
        with self.pass_of("whole", bwd_chunk_id) if self.is_first else contextlib.nullcontext():
            super().backward_weight_one_chunk(bwd_chunk_id, *args, **kwargs)
        self.submod.deferred.run(bwd_chunk_id)
        # These gradients are assigned, so that no hook of the parameter has seen them.
        self.collect(self.submod)

    def pass_of(self, running: str, micro_batch: int) -> Any:
        deferred = self.submod.deferred
        return deferred.backward(running, micro_batch) if deferred else contextlib.nullcontext()


def stage_examples(stage: StageModule, plan: dict, device: torch.device) -> dict:
    """What a stage receives and returns: PyTorch 2.4 and 2.5 do not find it out themselves."""
    batch, tensor = plan["batch"], dict(zip(plan["mesh"]["axes"], plan["mesh"]["sizes"])).get("tensor", 1)
    length = batch["sequence"] // (tensor if plan["mesh"]["sequenceParallel"] else 1)
    dtype, width = DTYPES[plan["job"]["dtypes"]["parameters"]], plan["model"]["architecture"]["hidden"]
    hidden = torch.empty(batch["micro"], length, width, dtype=dtype, device=device)
    tokens = torch.empty(batch["micro"], batch["sequence"], dtype=torch.long, device=device)
    return {
        "input_args": (tokens if stage.first else hidden,),
        "output_args": (torch.empty(1, device=device) if stage.last else hidden,),
    }


# The schedule


def check_version(name: str) -> None:
    """Refuses split backwards on a PyTorch that computes them wrongly."""
    found = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if found < SPLIT_BACKWARD_SINCE:
        wanted = ".".join(map(str, SPLIT_BACKWARD_SINCE))
        raise PlanError(f"Expected PyTorch {wanted} or newer for the schedule {name} but found {torch.__version__}.")


def load_table(stages: list[PlannedStage], table: str, form: str, options: dict) -> Any:
    """PyTorch's runtime with a table of actions. It reads files only."""
    runtime = getattr(schedules, "_PipelineScheduleRuntime", None)
    if runtime is None:
        raise PlanError(f"Expected a PyTorch that runs schedule tables but found {torch.__version__}.")
    schedule = runtime(stages, **options)
    handle, path = tempfile.mkstemp(suffix=".csv")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(table)
        schedule._load_csv(path, format=form)
    finally:
        os.unlink(path)
    return schedule


def build_schedule(stages: list[PlannedStage], plan: dict, table: str | None) -> Any:
    """PyTorch's schedule object for this rank's stages."""
    name = plan["schedule"]["name"]
    if splits_backwards(plan, table):
        check_version(name)
    options = {"n_microbatches": plan["schedule"]["microBatches"], "loss_fn": lambda loss, _targets: loss.sum()}
    kind: Any = schedules.PipelineScheduleMulti
    if table is None and is_plain(plan):
        kind = ScheduleGPipe if name == "gpipe" else Schedule1F1B
    if "scale_grads" in inspect.signature(kind).parameters:
        options["scale_grads"] = False
    if table is not None:
        return load_table(stages, table, check_table(table, plan), options)
    if is_plain(plan):
        return kind(stages[0], **options)
    known = getattr(schedules, f"Schedule{CLASSES.get(name, '')}", None)
    if known is None:
        raise PlanError(
            f"Expected schedule.csv beside the plan for the schedule {name} but found none: "
            "write it with `mpopt export --to torch`."
        )
    schedule = known(stages, **options)
    for stage, rank in schedule.stage_index_to_group_rank.items():
        if plan["stages"][stage]["rank"] != rank:
            raise PlanError(f"Expected stage {stage} on rank {rank} for {name} but the plan says otherwise.")
    return schedule


def make_schedule(
    modules: list[StageModule],
    plan: dict,
    mesh: DeviceMesh,
    device: torch.device,
    table: str | None,
    collect: Callable[[nn.Module], None],
) -> Callable[[Any, Any], list[Tensor]]:
    """
    A function of one data rank's inputs and targets that runs every micro-batch forward and backward through
    this rank's stages and returns their losses (where the last stage is; elsewhere none). Gradients are sums over
    micro-batches. `collect` is called with a stage that holds weight gradients which no hook has seen.
    """
    count = plan["schedule"]["microBatches"]
    if len(plan["stages"]) == 1:

        def accumulate(inputs: Tensor, targets: Tensor) -> list[Tensor]:
            losses = []
            for x, y in zip(inputs.chunk(count), targets.chunk(count)):
                loss = modules[0](x, y)
                loss.backward()
                losses.append(loss.detach())
            return losses

        return accumulate

    options = {"num_stages": len(plan["stages"]), "device": device, "group": mesh.get_group("pipeline")}
    wants_examples = inspect.signature(PipelineStage).parameters["input_args"].default is inspect.Parameter.empty
    stages = [
        PlannedStage(
            module, collect, **options, **(stage_examples(module, plan, device) if wants_examples else {})
        )
        for module in modules
    ]
    schedule = build_schedule(stages, plan, table)
    first, last = any(module.first for module in modules), any(module.last for module in modules)

    def run(inputs: Tensor, targets: Tensor) -> list[Tensor]:
        losses: list[Tensor] = []
        wanted = {"target": targets, "losses": losses, "targets": targets} if last else {}
        schedule.step(*([inputs] if first else []), **wanted)
        return [loss.detach() for loss in losses]

    return run
