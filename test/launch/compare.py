"""
Trains each plan given on the ranks that torchrun started, and on rank 0 the unsharded model beside it.

Arguments: the number of steps, the learning rate, then the plans' files.
"""

import contextlib
import json
import sys

import torch
import torch.distributed as dist
from apply_plan import Planned, local
from torch.distributed.tensor import DTensor, distribute_tensor
from train_gpt import GPT2Block, LlamaBlock, Reference, build_model, loss_fn, make_batch

forwards = 0
for block in (GPT2Block, LlamaBlock):

    def counted(self, x, forward=block.forward):
        global forwards
        forwards += 1
        return forward(self, x)

    block.forward = counted


class MixedReference(Reference):
    """The unsharded model in bf16, with f32 gradients and f32 weights for the optimizer."""

    def __init__(self, plan: dict, model: torch.nn.Module, learning_rate: float):
        super().__init__(plan, model.to(torch.bfloat16), learning_rate)
        self.masters = [torch.nn.Parameter(p.detach().float()) for p in model.parameters()]
        self.optimizer = torch.optim.AdamW(self.masters, lr=learning_rate)

    def train_step(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        parts = list(zip(inputs.split(self.micro), targets.split(self.micro)))
        total = torch.zeros(())
        for x, y in parts:
            loss = loss_fn(self.model(x), y)
            loss.backward()
            total += loss.detach() / len(parts)
            for master, parameter in zip(self.masters, self.model.parameters()):
                gradient = parameter.grad.float() / len(parts)
                master.grad = gradient if master.grad is None else master.grad + gradient
                parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for master, parameter in zip(self.masters, self.model.parameters()):
                parameter.copy_(master)
        return total


@torch.no_grad()
def fill(part: torch.nn.Module, whole: torch.nn.Module) -> None:
    """Gives a part of a model, or its shards, the values of a whole one."""
    for name, parameter in part.named_parameters():
        value = whole.get_parameter(name)
        if isinstance(parameter, DTensor):
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        local(parameter).copy_(local(value))


def train(path: str, steps: int, rate: float) -> None:
    global forwards
    planned = Planned.from_file(path)
    plan = planned.plan
    with torch.device("meta") if plan["name"].startswith("meta") else contextlib.nullcontext():
        model = build_model(plan, seed=1)
    planned.setup(
        model,
        loss_fn,
        optimizer=lambda named: torch.optim.AdamW(named.values(), lr=rate),
        initialize=lambda part: fill(part, build_model(plan, seed=1)),
    )
    mixed = plan["job"]["dtypes"]["parameters"] == "bf16"
    kind = MixedReference if mixed else Reference
    reference = kind(plan, build_model(plan, seed=1), rate) if dist.get_rank() == 0 else None
    losses, expected = [], []
    for step in range(steps):
        inputs, targets = make_batch(plan, seed=1, step=step)
        forwards = 0
        losses.append(planned.train_step(planned.local_batch(inputs), planned.local_batch(targets)).item())
        last_forwards = forwards
        if reference:
            expected.append(reference.train_step(inputs, targets).item())
    held = {
        "parameters": sum(local(p).numel() for p in set(model.parameters())),
        "optimizer": planned.data_parallel.held,
        "forwards": last_forwards,
        "names": [name for name, _ in model.named_parameters()],
    }
    ranks: list = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, held)
    if reference:
        whole = sum(p.numel() for p in build_model(plan, seed=1).parameters())
        found = {"losses": losses, "reference": expected, "whole": whole, "ranks": ranks}
        sys.stdout.write(f"COMPARED {json.dumps(found)}\n")
        sys.stdout.flush()


torch.set_num_threads(1)
for path in sys.argv[3:]:
    train(path, int(sys.argv[1]), float(sys.argv[2]))
dist.barrier()
dist.destroy_process_group()
