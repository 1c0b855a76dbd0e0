"""
A model trained under a plan. Needs PyTorch and nothing else: PyTorch >= 2.4 for one stage a rank under 1F1B or GPipe;
other schedules are tested with 2.13, which split backwards need.

    planned = mpopt.load("plan.json").apply(model, loss_fn=loss_fn, optimizer=make_optimizer)
    for inputs, targets in batches:
        loss = planned.train_step(planned.local_batch(inputs), planned.local_batch(targets))

The model is built alike on every rank (same seed, same checkpoint) or on the meta device. `loss_fn(logits,
targets)` returns the mean over its micro-batch. The model's `forward(tokens)` calls its embedding, then its
blocks, then the final norm and the head, under the module names of the plan. On a stage that does not hold
them these modules pass their input through, so the same `forward` takes hidden states [batch, sequence, hidden]
there. A model that computes anything else between embedding and first block cannot be cut this way.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor.parallel import loss_parallel

from .plan_check import require_runnable
from .plan_common import DTYPES, PlanError
from .plan_data import DataParallel, apply_data_parallel
from .plan_document import load
from .plan_layout import find_layouts
from .plan_mesh import build_mesh, device_type
from .plan_recompute import DeferredWeights, apply_recompute
from .plan_schedule import StageModule, make_schedule
from .plan_sharded import ShardedParallel
from .plan_stages import split_stages
from .plan_table import splits_backwards
from .plan_tensor import apply_tensor_parallel
from .plan_ties import find_ties, retie, tie_across_stages

__all__ = ["Planned"]


class Planned:
    """A plan applied to this rank."""

    def __init__(self, plan: dict, table: str | None = None):
        """`table` holds the schedule's actions as CSV, where the schedule needs them."""
        require_runnable(plan, table)
        self.plan, self.table = plan, table
        self.mesh = build_mesh(plan, table)
        rank = self.mesh.get_local_rank("pipeline")
        self.stages = [stage for stage in plan["stages"] if stage["rank"] == rank]
        kind = device_type(plan)
        self.device = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
        self.local_sequences = plan["batch"]["micro"] * plan["schedule"]["microBatches"]

    @classmethod
    def from_file(cls, path: str | os.PathLike[str] | None = None) -> Planned:
        """Loads the plan at `path`, or at $MPOPT_PLAN, with its schedule, and starts the process group."""
        plan = load(path)
        return cls(plan.document, plan.table)

    def setup(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Tensor], Tensor],
        optimizer: Callable[[dict[str, Tensor]], torch.optim.Optimizer],
        initialize: Callable[[nn.Module], None] | None = None,
    ) -> nn.Module:
        """
        Cuts `model` down to this rank's part, in place. `optimizer` receives parameter names with the
        tensors to update (with ZeRO-1 flat slices, above it shards). A model on the meta device needs
        `initialize`, which fills the parameters of the rank's stages once they have memory (above ZeRO-1 its shards
        of them, as DTensors).
        """
        names = find_ties(model)
        parts = split_stages(model, self.plan, [stage["index"] for stage in self.stages])
        dtype = DTYPES[self.plan["job"]["dtypes"]["parameters"]]
        meta = any(p.is_meta for p in model.parameters())
        if meta and initialize is None:
            raise PlanError("Expected `initialize` for a model on the meta device but found none.")
        ties = find_ties(model)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)  # parameters only: rotary tables stay exact
        sharded = self.plan["optimizer"]["zero"] > 1
        if not sharded:  # else shards alone may fit the device
            model.to_empty(device=self.device) if meta else model.to(self.device)
        retie(model, ties)
        if meta and not sharded:
            initialize(model)
        tensor = apply_tensor_parallel(model, self.plan, self.mesh)
        self.model, self.layouts = model, find_layouts(model, names, tensor.fused, self.mesh)
        split = splits_backwards(self.plan, self.table)
        deferred = [DeferredWeights() if split else None for _ in self.stages]
        for stage, weights in zip(self.stages, deferred):
            apply_recompute(model, stage, weights)
        ties_between = tie_across_stages(model, names, self.mesh)
        self.data_parallel: DataParallel | ShardedParallel
        if sharded:
            self.data_parallel = ShardedParallel(
                model,
                self.stages[0],
                self.plan,
                self.mesh,
                self.device,
                optimizer,
                ties_between,
                initialize if meta else None,
            )
        else:
            self.data_parallel = apply_data_parallel(model, self.plan, self.mesh, optimizer, ties_between)
        count = len(self.plan["stages"])
        self.modules = [
            StageModule(part, stage["index"], count, loss_fn, weights)
            for part, stage, weights in zip(parts, self.stages, deferred)
        ]
        self.schedule = make_schedule(
            self.modules, self.plan, self.mesh, self.device, self.table, self.data_parallel.collect
        )
        self.loss_context = loss_parallel if tensor.logits else contextlib.nullcontext
        return model

    def local_batch(self, batch: Tensor) -> Tensor:
        """This data rank's sequences of a global batch [global, ...]."""
        return batch.chunk(self.mesh["data"].size())[self.mesh["data"].get_local_rank()]

    def train_step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """
        One optimizer step over this data rank's sequences [micro * microBatches, sequence]. Returns the mean
        loss of the global batch, on every rank.
        """
        if inputs.shape[0] != self.local_sequences or targets.shape[0] != self.local_sequences:
            raise PlanError(
                f"Expected {self.local_sequences} sequences a data rank but found {inputs.shape[0]} inputs and "
                f"{targets.shape[0]} targets."
            )
        with self.loss_context():
            losses = self.schedule(inputs.to(self.device), targets.to(self.device))
        self.data_parallel.step()
        replicas = self.mesh["data"].size() * self.mesh["tensor"].size()
        total = torch.stack(losses).mean() / replicas if losses else torch.zeros((), device=self.device)
        total = total.to(torch.float32)
        dist.all_reduce(total)
        return total

    def save(self, folder: str | os.PathLike[str], extra: dict[str, Any] | None = None) -> None:
        """
        Writes parameters, buffers and the optimizer's state between two steps, so that any plan of the model can
        load them. `extra` is yours, as JSON holds it (the step, the state of a schedule). Every rank must call it, and
        see the same folder. What `folder` held before is replaced once the new is whole.
        """
        from . import plan_checkpoint

        plan_checkpoint.save(self, folder, extra or {})

    def load(self, folder: str | os.PathLike[str]) -> dict[str, Any]:
        """
        Reads what `save` wrote under this plan or another one of the model, and returns its `extra`. Every rank must
        call it, after `setup`. Raises PlanError where the checkpoint is of another model or optimizer.
        """
        from . import plan_checkpoint

        return plan_checkpoint.load(self, folder)
