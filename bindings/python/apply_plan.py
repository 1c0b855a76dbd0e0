"""
Train a model under an mpopt plan. Needs PyTorch and the files plan_*.py beside this one, nothing else: PyTorch >=
2.4 for one stage a rank under 1F1B or GPipe; other schedules are tested with 2.13, which split backwards need.

    planned = Planned.from_file("plan.json")
    planned.setup(model, loss_fn, optimizer=lambda named: torch.optim.AdamW(named.values(), lr=3e-4))
    for inputs, targets in batches:
        loss = planned.train_step(planned.local_batch(inputs), planned.local_batch(targets))

The model is built alike on every rank (same seed, same checkpoint) or on the meta device. `loss_fn(logits,
targets)` returns the mean over its micro-batch. The model's `forward(tokens)` calls its embedding, then its
blocks, then the final norm and the head, under the module names of the plan. On a stage that does not hold
them these modules pass their input through, so the same `forward` takes hidden states [batch, sequence, hidden]
there. A model that computes anything else between embedding and first block cannot be cut this way.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import hashlib
import itertools
import json
import math
import os
from typing import Any, Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.parallel import loss_parallel

from plan_common import DTYPES, PlanError, local
from plan_data import apply_data_parallel
from plan_recompute import DeferredWeights, apply_recompute
from plan_schedule import StageModule, find_table, make_schedule, splits_backwards
from plan_sharded import ShardedParallel
from plan_tensor import apply_tensor_parallel
from plan_ties import find_ties, retie, tie_across_stages

__all__ = ["Planned", "PlanError", "load_plan", "local"]

# Plan and mesh


def load_plan(path: str) -> dict:
    """Reads an `mpopt.plan/1` document."""
    with open(path, encoding="utf-8") as file:
        plan = json.load(file)
    if plan.get("schema") != "mpopt.plan/1":
        raise PlanError(f"Expected an mpopt.plan/1 document at {path} but found {plan.get('schema')!r}.")
    refuse(plan)
    return plan


def refuse(plan: dict) -> None:
    """Raises where the plan asks for what nothing here does."""
    dtypes, optimizer = plan["job"]["dtypes"], plan["optimizer"]
    for what in ("parameters", "gradients", "optimizer"):
        if dtypes[what] not in DTYPES:
            raise PlanError(f"Expected f32 or bf16 for the {what} but the plan says {dtypes[what]}.")
    if dtypes.get("linear", dtypes["parameters"]) != dtypes["parameters"]:
        raise PlanError(f"Expected linear layers in the parameters' type but the plan says {dtypes['linear']}.")
    if "microBatchGradients" in dtypes:
        raise PlanError("Expected one sum of gradients but the plan keeps those of a micro-batch beside it.")
    if "context" in plan["mesh"]["axes"]:
        raise PlanError("Expected whole sequences on every rank but the plan has a context axis.")
    if "experts" in plan["mesh"] or "expertCapacity" in plan["job"]:
        raise PlanError("Expected experts as the model runs them but the plan divides them or their capacity.")
    if optimizer.get("offload", "none") != "none":
        raise PlanError(f"Expected all in device memory but the plan offloads: {optimizer['offload']}.")
    architecture = plan["model"].get("architecture") or {}
    if architecture.get("nextTokenPredictions"):
        raise PlanError("Expected one prediction a token but the plan's model makes further ones.")


def device_type(plan: dict) -> str:
    """`cpu` or `cuda` (ROCm answers to `cuda` too); MPOPT_DEVICE overrides the plan."""
    return os.environ.get("MPOPT_DEVICE") or ("cpu" if plan["cluster"]["deviceType"] == "cpu" else "cuda")


def build_mesh(plan: dict, table: str | None = None) -> DeviceMesh:
    """
    Starts the process group and lays the plan's mesh over its ranks, once the ranks are known to agree on the plan
    and its schedule's table.
    """
    axes, sizes = list(plan["mesh"]["axes"]), list(plan["mesh"]["sizes"])
    world = math.prod(sizes)
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != world:
        shape = " x ".join(f"{axis} {size}" for axis, size in zip(axes, sizes))
        raise PlanError(f"Expected {world} ranks for the plan's mesh ({shape}) but found WORLD_SIZE={found}.")
    expected = [list(row) for row in itertools.product(*map(range, sizes))]
    if plan["rankTable"] != expected:
        raise PlanError("Expected the plan's rank table to number the mesh row by row but it does not.")
    for axis in ("tensor", "data", "pipeline"):
        if axis not in axes:
            axes.insert(0, axis)
            sizes.insert(0, 1)
    at = axes.index("data")
    shards = plan["optimizer"].get("shards", sizes[at])
    if sizes[at] % shards:
        raise PlanError(f"Expected sharding groups that divide {sizes[at]} data ranks but found {shards}.")
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
    digests: list = [None] * world
    digest = hashlib.sha256(json.dumps([plan, table], sort_keys=True).encode()).hexdigest()
    dist.all_gather_object(digests, digest)
    for rank, other in enumerate(digests):
        if other != digests[0]:
            raise PlanError(f"Expected the same plan on every rank but rank {rank} read another than rank 0.")
    mesh = init_device_mesh(device, tuple(sizes), mesh_dim_names=tuple(axes))
    if "shards" in axes:
        mesh["replicas", "shards"]._flatten("data")
    return mesh


# Pipeline stages


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


# The plan on this rank


class Planned:
    """A plan applied to this rank."""

    def __init__(self, plan: dict, table: str | None = None):
        """`table` holds the schedule's actions as CSV, where the schedule needs them."""
        self.plan, self.table = plan, table
        self.mesh = build_mesh(plan, table)
        rank, ranks = self.mesh.get_local_rank("pipeline"), self.mesh["pipeline"].size()
        self.stages = [stage for stage in plan["stages"] if stage["rank"] == rank]
        kind = device_type(plan)
        self.device = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
        found = collections.Counter(stage["rank"] for stage in plan["stages"])
        if sorted(found) != list(range(ranks)) or len(set(found.values())) > 1:
            raise PlanError(
                f"Expected equally many stages on each of {ranks} pipeline ranks but the plan has {dict(found)}."
            )
        if plan["optimizer"]["zero"] > 1 and (len(self.stages) > 1 or splits_backwards(plan, table)):
            raise PlanError(
                f"Expected one stage a rank and whole backward passes for ZeRO-{plan['optimizer']['zero']} but the "
                f"schedule is {plan['schedule']['name']}."
            )
        batch = plan["batch"]
        self.local_sequences = batch["micro"] * plan["schedule"]["microBatches"]
        if self.local_sequences * self.mesh["data"].size() != batch["global"]:
            raise PlanError(
                f"Expected micro-batch x micro-batches x data ranks to be the global batch {batch['global']} but "
                f"found {self.local_sequences * self.mesh['data'].size()}."
            )

    @classmethod
    def from_file(cls, path: str | None = None) -> Planned:
        """Loads the plan at `path`, or at $MPOPT_PLAN, with its schedule, and starts the process group."""
        path = path or os.environ.get("MPOPT_PLAN", "plan.json")
        plan = load_plan(path)
        return cls(plan, find_table(plan, path))

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
        split_logits = apply_tensor_parallel(model, self.plan, self.mesh)
        split = splits_backwards(self.plan, self.table)
        deferred = [DeferredWeights() if split else None for _ in self.stages]
        for stage, weights in zip(self.stages, deferred):
            apply_recompute(model, stage, weights)
        ties_between = tie_across_stages(model, names, self.mesh)
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
        self.loss_context = loss_parallel if split_logits else contextlib.nullcontext
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
