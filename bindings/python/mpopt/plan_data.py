"""Replicas of a stage, their gradients and the optimizer's state (ZeRO-0 and 1)."""

from __future__ import annotations

import math
from typing import Any, Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from .plan_common import DTYPES, DTensor, Partial, Replicate, local
from .plan_ties import TiedGroup

# Makes an optimizer of the tensors to update, by the names of their parameters.
Optimizer = Callable[[dict], torch.optim.Optimizer]

# The names that PyTorch 2.13 prefers, and those before it.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class Bucket:
    """
    The parameters of one dtype in two flat buffers, weights and gradients, so that the data axis needs one
    collective each. With ZeRO-1 a rank updates only its slice [start, end) of the flat weights, which `group` shares
    out; ranks in `copies` have the same slice.
    """

    def __init__(
        self, named: list[tuple[str, nn.Parameter]], group: Any, copies: Any | None, dtypes: dict, zero: bool
    ):
        self.group, self.copies, self.ranks = group, copies, dist.get_world_size(group)
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
        self.starts: dict[str, int] = {}  # where a master begins in this rank's part of its parameter
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
                self.named[name], self.starts[name] = master, low - offset
            offset = span.stop

    def synchronize(self) -> None:
        """Sums the gradients over the data axis, those that this rank updates at least."""
        mine = self.gradients[self.start : self.end]
        if self.zero and dist.get_backend(self.group) != "gloo":
            reduce_scatter(mine, self.gradients, group=self.group)
        elif self.ranks > 1:
            dist.all_reduce(self.gradients, group=self.group)
        if self.copies:
            dist.all_reduce(mine, group=self.copies)

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


def like(value: Tensor, parameter: nn.Parameter) -> nn.Parameter:
    """A parameter sharded as the given one whose local part is `value`."""
    if isinstance(parameter, DTensor):
        mesh, placements = parameter.device_mesh, parameter.placements
        shape, stride = parameter.shape, parameter.stride()
        value = DTensor.from_local(value, mesh, placements, run_check=False, shape=shape, stride=stride)
    return nn.Parameter(value, requires_grad=parameter.requires_grad)


def replace_parameters(model: nn.Module, moved: dict[nn.Parameter, nn.Parameter]) -> None:
    """Puts other parameters in the place of a model's, wherever it uses them."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = moved.get(parameter, parameter)


def shard_axes(mesh: DeviceMesh) -> tuple[str, str | None]:
    """The axis whose ranks share out a ZeRO state, and the one whose ranks hold the same part, if there are such."""
    return ("shards", "replicas") if "shards" in mesh.mesh_dim_names else ("data", None)


class DataParallel:
    """
    Accumulates the gradients of all micro-batches into flat buffers as the backward passes produce them,
    averages them over micro-batches and the data axis, and steps the optimizer.
    """

    def __init__(self, model: nn.Module, plan: dict, mesh: DeviceMesh, optimizer: Optimizer, ties: list[TiedGroup]):
        self.mesh = mesh
        self.scale = 1 / (plan["schedule"]["microBatches"] * mesh["data"].size())
        dtypes = {what: DTYPES[plan["job"]["dtypes"][what]] for what in ("gradients", "optimizer")}
        by_dtype: dict[torch.dtype, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                by_dtype.setdefault(parameter.dtype, []).append((name, parameter))
        zero = plan["optimizer"]["zero"] == 1
        shards, copies = shard_axes(mesh) if zero else ("data", None)
        groups = mesh[shards].get_group(), mesh[copies].get_group() if copies else None
        self.buckets = [Bucket(named, *groups, dtypes, zero) for named in by_dtype.values()]
        self.views = {p: view for bucket in self.buckets for p, view in bucket.views.items()}
        moved = {old: new for bucket in self.buckets for old, new in bucket.moved.items()}
        # Gradients that tensor ranks hold as partial sums: norms of this rank's heads, and what DTensor says.
        self.partial = {new: self.views[new] for old, new in moved.items() if hasattr(old, "partial_over_tensor")}
        replace_parameters(model, moved)
        for parameter in moved.values():
            parameter.register_post_accumulate_grad_hook(self.accumulate)
        self.tied = [(self.views[model.get_parameter(tie.name)], tie.group) for tie in ties]
        named = {name: master for bucket in self.buckets for name, master in bucket.named.items()}
        self.optimizer = optimizer(named) if named else None

    @property
    def held(self) -> int:
        """Elements whose optimizer state this rank holds."""
        return sum(master.numel() for bucket in self.buckets for master, _, _ in bucket.segments)

    def parts(self) -> dict[str, tuple[Tensor, int]]:
        """What the optimizer updates, by the parameter's name, and where it begins in this rank's part of that."""
        return {name: (master, bucket.starts[name]) for bucket in self.buckets for name, master in bucket.named.items()}

    def start_of(self, _name: str) -> int:
        """Where what a rank holds of a parameter begins in the part that tensor parallelism leaves it: it holds all."""
        return 0

    @torch.no_grad()
    def take(self) -> None:
        """Brings the weights up to masters that were changed from outside."""
        for bucket in self.buckets:
            bucket.store_weights()

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


def apply_data_parallel(
    model: nn.Module, plan: dict, mesh: DeviceMesh, optimizer: Optimizer, ties: list[TiedGroup]
) -> DataParallel:
    """Makes the replicas of one stage equal and joins them; `optimizer` receives name to tensor."""
    for tie in ties:
        tie.share(model.get_parameter(tie.name))
    for axis in ("tensor", "data"):
        group = mesh[axis].get_group()
        ranks = dist.get_process_group_ranks(group)
        for parameter in model.parameters() if len(ranks) > 1 else ():
            if axis == "data" or not isinstance(parameter, DTensor) or parameter.placements == (Replicate(),):
                dist.broadcast(local(parameter).data, src=ranks[0], group=group)
    return DataParallel(model, plan, mesh, optimizer, ties)
