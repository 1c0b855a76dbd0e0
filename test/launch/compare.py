"""
Trains each plan given on the ranks that torchrun started, and on rank 0 the unsharded model beside it.

Arguments: the number of steps, the learning rate, then the plans' files.
"""

import json
import sys

import torch
import torch.distributed as dist
from apply_plan import Planned, local
from train_gpt import GPT2Block, LlamaBlock, Reference, build_model, loss_fn, make_batch

forwards = 0
for block in (GPT2Block, LlamaBlock):

    def counted(self, x, forward=block.forward):
        global forwards
        forwards += 1
        return forward(self, x)

    block.forward = counted


def train(path: str, steps: int, rate: float) -> None:
    global forwards
    planned = Planned.from_file(path)
    plan = planned.plan
    model = build_model(plan, seed=1)
    planned.setup(model, loss_fn, optimizer=lambda named: torch.optim.AdamW(named.values(), lr=rate))
    reference = Reference(plan, build_model(plan, seed=1), rate) if dist.get_rank() == 0 else None
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
        "optimizer": sum(master.numel() for b in planned.data_parallel.buckets for master, _, _ in b.segments),
        "forwards": last_forwards,
        "names": [name for name, _ in model.named_parameters()],
    }
    ranks: list = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, held)
    if reference:
        sys.stdout.write(f"COMPARED {json.dumps({'losses': losses, 'reference': expected, 'ranks': ranks})}\n")
        sys.stdout.flush()


torch.set_num_threads(1)
for path in sys.argv[3:]:
    train(path, int(sys.argv[1]), float(sys.argv[2]))
dist.barrier()
dist.destroy_process_group()
