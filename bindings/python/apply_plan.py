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
import re
from typing import Any, Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)

from plan_recompute import ATTENTION, DeferredWeights, recompute_deferred, recomputed
from plan_schedule import DTYPES, PlanError, StageModule, find_table, make_schedule, splits_backwards

try:
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
except ImportError:  # PyTorch 2.4
    from torch.distributed._tensor import DTensor, Partial, Replicate, Shard

# The names that PyTorch 2.13 prefers, and those before it.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

# Plan and mesh


def load_plan(path: str) -> dict:
    """Reads an `mpopt.plan/1` document."""
    with open(path, encoding="utf-8") as file:
        plan = json.load(file)
    if plan.get("schema") != "mpopt.plan/1":
        raise PlanError(f"Expected an mpopt.plan/1 document at {path} but found {plan.get('schema')!r}.")
    if plan["optimizer"]["zero"] > 1:
        raise PlanError(f"Expected ZeRO stage 0 or 1 but the plan says {plan['optimizer']['zero']}.")
    for what, dtype in plan["job"]["dtypes"].items():
        if dtype not in DTYPES:
            raise PlanError(f"Expected f32 or bf16 for the {what} but the plan says {dtype}.")
    return plan


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
    return init_device_mesh(device, tuple(sizes), mesh_dim_names=tuple(axes))


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


# Tensor parallelism


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


def apply_tensor_parallel(model: nn.Module, plan: dict, mesh: DeviceMesh) -> bool:
    """
    Splits the modules of one stage over the tensor axis. Returns whether the logits stay split over the
    vocabulary, in which case forward and backward must run under `loss_parallel`.
    """
    ranks = mesh["tensor"].size()
    if ranks == 1:
        return False
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
    split_logits = False
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
                split_logits = True
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
    return split_logits


# Recomputation


def apply_recompute(model: nn.Module, stage: dict, deferred: DeferredWeights | None = None) -> None:
    """
    Recomputes whole blocks (`full`) or their attention (`selective`) in the backward pass; with `deferred`, under
    schedules that split it.
    """
    for name in stage["modules"]:
        if stage["recompute"] == "none" or not name.rpartition(".")[2].isdigit():
            continue
        module = model.get_submodule(name)
        if stage["recompute"] == "selective":
            parts = {path.rpartition(".")[2]: part for path, part in module.named_modules()}
            module = next((parts[part] for part in ATTENTION if part in parts), None)
            if module is None:
                raise PlanError(f"Expected an attention module in {name} to recompute but found none.")
        forward = module.forward
        module.forward = recompute_deferred(module, forward, deferred) if deferred else recomputed(forward)


# Data parallelism and the optimizer


class Bucket:
    """
    The parameters of one dtype in two flat buffers, weights and gradients, so that the data axis needs one
    collective each. With ZeRO-1 a rank updates only its slice [start, end) of the flat weights.
    """

    def __init__(self, named: list[tuple[str, nn.Parameter]], group: Any, dtypes: dict, zero: bool):
        self.group, self.ranks = group, dist.get_world_size(group)
        self.zero = zero and self.ranks > 1
        first = local(named[0][1])
        total = sum(local(p).numel() for _, p in named)
        padded = math.ceil(total / self.ranks) * self.ranks
        self.weights = torch.zeros(padded, dtype=first.dtype, device=first.device)
        self.gradients = torch.zeros(padded, dtype=dtypes["gradients"], device=first.device)
        share = padded // self.ranks
        self.start = dist.get_rank(group) * share if self.zero else 0
        self.end = self.start + share if self.zero else padded

        self.moved: dict[nn.Parameter, nn.Parameter] = {}  # the model's parameter to the one in the buffer
        self.views: dict[nn.Parameter, Tensor] = {}
        self.segments: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self.named: dict[str, nn.Parameter] = {}
        offset = 0
        for name, parameter in named:
            value = local(parameter)
            span = slice(offset, offset + value.numel())
            self.weights[span] = value.detach().reshape(-1)
            moved = like(self.weights[span].view(value.shape), parameter)
            self.moved[parameter] = moved
            self.views[moved] = self.gradients[span].view(value.shape)
            low, high = max(span.start, self.start), min(span.stop, self.end)
            if low < high:
                shape = (high - low,) if self.zero else value.shape
                weight = self.weights[low:high].view(shape)
                master = nn.Parameter(weight.to(dtypes["optimizer"]))  # shares memory where the dtypes agree
                self.segments.append((master, weight, self.gradients[low:high].view(shape)))
                self.named[name] = master
            offset = span.stop

    def synchronize(self) -> None:
        """Sums the gradients over the data axis."""
        if self.ranks == 1:
            return
        if self.zero and dist.get_backend(self.group) != "gloo":
            reduce_scatter(self.gradients[self.start : self.end], self.gradients, group=self.group)
        else:
            dist.all_reduce(self.gradients, group=self.group)

    def load_gradients(self) -> None:
        for master, _, gradient in self.segments:
            master.grad = gradient.to(master.dtype)

    def store_weights(self) -> None:
        for master, weight, _ in self.segments:
            if master.data_ptr() != weight.data_ptr():
                weight.copy_(master)
        if self.zero:
            mine = self.weights[self.start : self.end].clone()
            all_gather(self.weights, mine, group=self.group)
        self.gradients.zero_()


def local(parameter: Tensor) -> Tensor:
    """The part of a parameter that this rank stores."""
    with torch.no_grad():
        return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def like(value: Tensor, parameter: nn.Parameter) -> nn.Parameter:
    """A parameter sharded as the given one whose local part is `value`."""
    if not isinstance(parameter, DTensor):
        return nn.Parameter(value)
    mesh, placements = parameter.device_mesh, parameter.placements
    shape, stride = parameter.shape, parameter.stride()
    return nn.Parameter(DTensor.from_local(value, mesh, placements, run_check=False, shape=shape, stride=stride))


class DataParallel:
    """
    Accumulates the gradients of all micro-batches into flat buffers as the backward passes produce them,
    averages them over micro-batches and the data axis, and steps the optimizer.
    """

    def __init__(self, model: nn.Module, plan: dict, mesh: DeviceMesh, optimizer: Callable, ties: list[TiedGroup]):
        self.mesh = mesh
        self.scale = 1 / (plan["schedule"]["microBatches"] * mesh["data"].size())
        dtypes = {what: DTYPES[dtype] for what, dtype in plan["job"]["dtypes"].items()}
        by_dtype: dict[torch.dtype, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                by_dtype.setdefault(parameter.dtype, []).append((name, parameter))
        zero, group = plan["optimizer"]["zero"] == 1, mesh.get_group("data")
        self.buckets = [Bucket(named, group, dtypes, zero) for named in by_dtype.values()]
        self.views = {p: view for bucket in self.buckets for p, view in bucket.views.items()}
        moved = {old: new for bucket in self.buckets for old, new in bucket.moved.items()}
        # Gradients that tensor ranks hold as partial sums: norms of this rank's heads, and what DTensor says.
        self.partial = {new: self.views[new] for old, new in moved.items() if hasattr(old, "partial_over_tensor")}
        for module in model.modules():
            for name, parameter in module._parameters.items():
                module._parameters[name] = moved.get(parameter, parameter)
        for parameter in moved.values():
            parameter.register_post_accumulate_grad_hook(self.accumulate)
        self.tied = [(self.views[model.get_parameter(tie.name)], tie.group) for tie in ties]
        named = {name: master for bucket in self.buckets for name, master in bucket.named.items()}
        self.optimizer = optimizer(named) if named else None

    def collect(self, module: nn.Module) -> None:
        """Accumulates the gradients of a stage that were assigned without a backward pass to its parameters."""
        for parameter in module.parameters():
            if parameter.grad is not None:
                self.accumulate(parameter)

    @torch.no_grad()
    def accumulate(self, parameter: nn.Parameter) -> None:
        gradient, view = parameter.grad, self.views[parameter]
        parameter.grad = None
        if isinstance(gradient, DTensor):
            if all(isinstance(placement, Partial) for placement in gradient.placements):
                self.partial[parameter] = view  # summed once a step instead of once a micro-batch
            elif gradient.placements != parameter.placements:
                gradient = gradient.redistribute(placements=parameter.placements)
            gradient = gradient.to_local()
        view.add_(gradient)

    @torch.no_grad()
    def step(self) -> None:
        if self.partial:
            flat = torch.cat([view.reshape(-1) for view in self.partial.values()])
            dist.all_reduce(flat, group=self.mesh.get_group("tensor"))
            parts = flat.split([view.numel() for view in self.partial.values()])
            for view, part in zip(self.partial.values(), parts):
                view.copy_(part.view(view.shape))
        for view, group in self.tied:
            dist.all_reduce(view, group=group)
        for bucket in self.buckets:
            bucket.gradients.mul_(self.scale)
            bucket.synchronize()
            bucket.load_gradients()
        if self.optimizer:
            self.optimizer.step()
        for bucket in self.buckets:
            bucket.store_weights()


class TiedGroup:
    """A parameter that two stages share (embedding and head), with the group that sums its gradients."""

    def __init__(self, name: str, group: Any):
        self.name, self.group = name, group


def tie_across_stages(model: nn.Module, names: list[list[str]], mesh: DeviceMesh) -> list[TiedGroup]:
    """
    Finds the parameters that stages share, by the names that tied them in the whole model, and makes their
    copies equal. Every rank must call it: groups are created together.
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
                parameter = model.get_parameter(name)
                dist.broadcast(local(parameter).data, src=ranks[0], group=group)
                found.append(TiedGroup(name, group))
    return found


def apply_data_parallel(
    model: nn.Module, plan: dict, mesh: DeviceMesh, optimizer: Callable, ties: list[TiedGroup]
) -> DataParallel:
    """Makes the replicas of one stage equal and joins them; `optimizer` receives name to tensor."""
    for axis in ("tensor", "data"):
        ranks = dist.get_process_group_ranks(mesh.get_group(axis))
        for parameter in model.parameters() if len(ranks) > 1 else ():
            if axis == "data" or not isinstance(parameter, DTensor) or parameter.placements == (Replicate(),):
                dist.broadcast(local(parameter).data, src=ranks[0], group=mesh.get_group(axis))
    return DataParallel(model, plan, mesh, optimizer, ties)


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
        tensors to update (with ZeRO-1 flat slices). A model on the meta device needs `initialize`, which
        fills the parameters of the rank's stages once they have memory.
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
        model.to_empty(device=self.device) if meta else model.to(self.device)
        retie(model, ties)
        if meta:
            initialize(model)
        split_logits = apply_tensor_parallel(model, self.plan, self.mesh)
        split = splits_backwards(self.plan, self.table)
        deferred = [DeferredWeights() if split else None for _ in self.stages]
        for stage, weights in zip(self.stages, deferred):
            apply_recompute(model, stage, weights)
        ties_between = tie_across_stages(model, names, self.mesh)
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
        return batch.chunk(self.mesh["data"].size())[self.mesh.get_local_rank("data")]

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
