"""
Gradients (ZeRO-2) or parameters too (ZeRO-3) sharded over replicas, by FSDP2. It needs
PyTorch >= 2.6.
"""

from __future__ import annotations

import math
from typing import Any, Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from .plan_common import DTYPES, DTensor, PlanError, local
from .plan_data import Optimizer, like, replace_parameters, shard_axes
from .plan_ties import TiedGroup, find_ties, retie

try:
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
except ImportError:  # PyTorch 2.5 and before
    fully_shard = None


class ShardedParallel:
    """
    Shards of the parameters of one stage, kept in the optimizer's type, with their gradients. A block gathers its
    parameters to compute with them and scatters their gradients, every micro-batch. ZeRO-3 lets go of what was
    gathered behind each pass, ZeRO-2 behind the step. Where groups of replicas hold the same shards, their gradients
    are summed once a step.
    """

    def __init__(
        self,
        model: nn.Module,
        stage: dict,
        plan: dict,
        mesh: DeviceMesh,
        device: torch.device,
        optimizer: Optimizer,
        ties: list[TiedGroup],
        initialize: Callable[[nn.Module], None] | None,
    ):
        if fully_shard is None:
            raise PlanError(f"Expected PyTorch 2.6 or newer for ZeRO-2 and 3 but found {torch.__version__}.")
        self.model, self.keeps = model, plan["optimizer"]["zero"] == 2
        axis, self.copies = shard_axes(mesh)
        self.tensor_group = mesh.get_group("tensor")
        self.scale = 1 / plan["schedule"]["microBatches"]
        # Gradients that tensor ranks hold as partial sums without saying so: norms of this rank's heads.
        self.partial = {name for name, p in model.named_parameters() if hasattr(p, "partial_over_tensor")}
        dtypes = {what: DTYPES[plan["job"]["dtypes"][what]] for what in ("parameters", "gradients", "optimizer")}
        rank, ranks = mesh.get_local_rank(axis), mesh[axis].size()
        # FSDP2 divides the rows of what this rank holds as torch.chunk does.
        self.starts = {name: shard_start(local(p).shape, rank, ranks) for name, p in model.named_parameters()}
        wide = {p: like(local(p).detach().to(dtypes["optimizer"]), p) for p in model.parameters()}
        replace_parameters(model, wide)
        shard_modules(model, stage["modules"], mesh[axis], dtypes, reshard=not self.keeps)
        if initialize:
            shared = find_ties(model)
            model.to_empty(device=device)
            retie(model, shared)
            initialize(model)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.share(mesh)
        self.ties = []
        for tie in ties:
            tie.share(self.parameters[tie.name])
            self.ties.append((self.parameters[tie.name], tie.group))
        # A rank's shard of a short parameter may be empty.
        self.masters = {
            name: nn.Parameter(local(p).detach()) for name, p in self.parameters.items() if local(p).numel()
        }
        self.optimizer = optimizer(dict(self.masters)) if self.masters else None

    @torch.no_grad()
    def share(self, mesh: DeviceMesh) -> None:
        """Makes shards equal that several ranks hold: in other groups of replicas, and of what tensor ranks share."""
        for axis in [self.copies, "tensor"] if self.copies else ["tensor"]:
            ranks = dist.get_process_group_ranks(mesh.get_group(axis))
            for parameter in self.parameters.values() if len(ranks) > 1 else ():
                if local(parameter).numel() and not (axis == "tensor" and is_split(parameter, axis)):
                    dist.broadcast(local(parameter), src=ranks[0], group=mesh.get_group(axis))
        self.copies_group = mesh.get_group(self.copies) if self.copies else None

    @property
    def held(self) -> int:
        """Elements whose optimizer state this rank holds."""
        return sum(master.numel() for master in self.masters.values())

    def parts(self) -> dict[str, tuple[Tensor, int]]:
        """What the optimizer updates, by the parameter's name, and where it begins in this rank's part of that."""
        self.follow()
        return {name: (master, self.starts[name]) for name, master in self.masters.items()}

    def start_of(self, name: str) -> int:
        """Where what a rank holds of a parameter begins in the part that tensor parallelism leaves it."""
        return self.starts[name]

    def follow(self) -> None:
        """Points the masters to the shards, which FSDP2 may have moved."""
        for name, master in self.masters.items():
            master.data = local(self.parameters[name]).detach()

    def take(self) -> None:
        """Nothing: the masters are the weights."""

    def collect(self, module: nn.Module) -> None:
        """Nothing: no backward pass is split here."""

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = {name: local(p.grad) for name, p in self.parameters.items()}
        if self.partial:
            sum_over(self.tensor_group, [gradients[name] for name in sorted(self.partial)])
        for parameter, group in self.ties:
            sum_over(group, [local(parameter.grad)])
        scale = self.scale
        if self.copies_group:
            sum_over(self.copies_group, list(gradients.values()))
            scale /= dist.get_world_size(self.copies_group)
        self.follow()
        for name, master in self.masters.items():
            master.grad = gradients[name].mul_(scale)
        if self.optimizer:
            self.optimizer.step()
        for master in self.masters.values():
            master.grad = None
        for parameter in self.parameters.values():
            parameter.grad = None
        if self.keeps:
            for module in self.model.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()


def shard_modules(
    model: nn.Module, modules: list[str], mesh: DeviceMesh, dtypes: dict[str, torch.dtype], reshard: bool
) -> None:
    """Shards each module that the plan names by itself, and with the model what is left: parameters that two share."""
    policy = MixedPrecisionPolicy(
        param_dtype=dtypes["parameters"], reduce_dtype=dtypes["gradients"], cast_forward_inputs=False
    )
    options = {"mesh": mesh, "mp_policy": policy, "reshard_after_forward": reshard}
    shared = {name for group in find_ties(model) for name in group}
    for name in modules:
        module = model.get_submodule(name)
        names = [f"{name}.{leaf}" for leaf, _ in module.named_parameters(remove_duplicate=False)]
        if names and not shared.intersection(names):
            fully_shard(module, **options)
    fully_shard(model, **options)
    if not reshard:
        model.set_reshard_after_backward(False)


def shard_start(shape: torch.Size, rank: int, ranks: int) -> int:
    """Flat index at which a rank's share of the rows of a tensor begins."""
    rows = shape[0] if shape else 1
    return min(rank * math.ceil(rows / ranks), rows) * math.prod(shape[1:])


def is_split(parameter: nn.Parameter, axis: str) -> bool:
    """Whether ranks of one axis hold different parts of a parameter."""
    if not isinstance(parameter, DTensor):
        return False
    names = parameter.device_mesh.mesh_dim_names or ()
    return any(name == axis and at.is_shard() for name, at in zip(names, parameter.placements))


def sum_over(group: Any, tensors: list[Tensor]) -> None:
    """Sums tensors over a group whose ranks have them in the same shapes, in one collective."""
    if dist.get_world_size(group) == 1 or not sum(tensor.numel() for tensor in tensors):
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat, group=group)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(part.view(tensor.shape))
