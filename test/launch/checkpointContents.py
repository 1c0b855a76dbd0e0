"""
What a checkpoint holds beside f32 parameters that are trained: f32 weights behind bf16 ones, frozen parameters, buffers.
A model on the meta device reads it under the second plan and goes on as the first one does.

Arguments: the checkpoint's folder, then two plans' files. Runs on the ranks that torchrun started.
"""

import json
import sys

import mpopt
import torch
import torch.distributed as dist
from train_gpt import build_model, loss_fn, make_batch

STEPS = 3


def apply(path: str, meta: bool) -> mpopt.Planned:
    plan = mpopt.load(path)
    with torch.device("meta" if meta else "cpu"):
        model = build_model(plan.document, 1)
        body = model.transformer
        body.wpe.weight.requires_grad_(False)
        body.h[0].register_buffer("calls", torch.zeros(3) if meta else torch.tensor([1.0, 2.0, 3.0]))
        body.h[0].register_buffer("scratch", torch.zeros(2), persistent=False)
    return plan.apply(
        model,
        loss_fn=loss_fn,
        optimizer=lambda named: torch.optim.AdamW(named.values(), lr=2e-3),
        initialize=lambda part: None,  # the checkpoint has it all
    )


def train(planned: mpopt.Planned, first: int) -> list:
    batches = [make_batch(planned.plan, 1, step) for step in range(first, first + STEPS)]
    return [planned.train_step(*map(planned.local_batch, batch)).item() for batch in batches]


folder, one, other = sys.argv[1:]
torch.set_num_threads(1)
planned = apply(one, meta=False)
frozen = planned.model.transformer.wpe.weight.detach().clone()
train(planned, 0)
planned.save(folder)
answer = {"went on": train(planned, STEPS)}
loaded = apply(other, meta=True)
extra = loaded.load(folder)
answer["extra"] = extra
answer["calls"] = loaded.model.transformer.h[0].calls.tolist()
held = loaded.model.transformer.wpe.weight.detach()
held = held.full_tensor() if hasattr(held, "full_tensor") else held
answer["frozen"] = (held.float() - frozen.float()).abs().max().item()
answer["loaded"] = train(loaded, STEPS)
if dist.get_rank() == 0:
    print(f"CHECKED {json.dumps(answer)}", flush=True)
dist.barrier()
dist.destroy_process_group()
