"""
Trains one model under one plan after the other, each from the checkpoint of the one before, on the ranks that torchrun
started. `extra` carries the losses so far, and from one start of the ranks to the next.

Arguments: the checkpoint's folder, the steps under each plan, then the plans' files. With `--reference` at the end rank
0 compares all losses with the unsharded model's.
"""

import json
import os
import sys

import mpopt
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from train_gpt import Reference, build_model, loss_fn, make_batch

RATE = 2e-3


def adam(named: dict) -> torch.optim.Optimizer:
    return torch.optim.AdamW(named.values(), lr=RATE)


def train(planned: mpopt.Planned, losses: list, steps: int) -> None:
    for _ in range(steps):
        inputs, targets = (planned.local_batch(each) for each in make_batch(planned.plan, 1, len(losses)))
        losses.append(planned.train_step(inputs, targets).item())


def apply(plan: mpopt.Plan, seed: int, changes: dict, optimizer=adam) -> mpopt.Planned:
    model = build_model({**plan.document, "model": {**plan.document["model"], **changes}}, seed)
    return plan.apply(model, loss_fn=loss_fn, optimizer=optimizer)


def message(work) -> str:
    try:
        work()
    except mpopt.PlanError as error:
        return str(error)
    return "nothing"


folder, steps = sys.argv[1], int(sys.argv[2])
paths = [path for path in sys.argv[3:] if not path.startswith("--")]
torch.set_num_threads(1)
losses: list = []
for path in paths:
    plan = mpopt.load(path)
    there = os.path.exists(folder)
    planned = apply(plan, 99 if there else 1, {})  # what is not loaded would show
    if there:
        losses = planned.load(folder)["losses"]
    train(planned, losses, steps)
    for group in planned.data_parallel.optimizer.param_groups:
        group["lr"] = RATE * (1 + len(losses) / 10)  # as a schedule does: the next plan has to find it
    planned.save(folder, {"losses": losses})

# What cannot be saved or loaded is said, and leaves what is there alone.
first = dist.get_rank() == 0
said = {}
other = f"{folder}-other"
if first:
    os.makedirs(other, exist_ok=True)
    open(os.path.join(other, "thesis.tex"), "w").close()
dist.barrier()
said["other files"] = message(lambda: planned.save(other))
said["no JSON"] = message(lambda: planned.save(folder, {"what": {1, 2}}))
said["nothing there"] = message(lambda: planned.load(f"{folder}-absent"))
wide = {"architecture": {**plan.document["model"]["architecture"], "vocabulary": 112}}
said["another model"] = message(lambda: apply(plan, 1, wide).load(folder))
plain = apply(plan, 1, {}, lambda named: torch.optim.SGD(named.values(), lr=RATE))
said["another optimizer"] = message(lambda: plain.load(folder))
# A save that was cut off between its two renames.
dist.barrier()
if first:
    os.rename(folder, f"{folder}.previous")
dist.barrier()
said["cut off"] = message(lambda: planned.load(folder))
dist.barrier()
if first:
    os.rename(f"{folder}.previous", folder)

answer = {"losses": losses, "said": said, "files": sorted(os.listdir(other))}
if sys.argv[-1] == "--reference":
    document = mpopt.load(paths[0]).document
    reference = Reference(document, build_model(document, 1), RATE)
    written = f"{folder}-pytorch"
    if first:
        answer["reference"] = []
        for step in range(len(losses)):
            if step and step % steps == 0:
                reference.optimizer.param_groups[0]["lr"] = RATE * (1 + step / 10)
            answer["reference"].append(reference.train_step(*make_batch(document, 1, step)).item())
        # PyTorch's own reader, into the unsharded model.
        model = build_model(document, 99)
        dcp.load({"model": dict(model.named_parameters())}, checkpoint_id=folder, no_dist=True)
        batch = make_batch(document, 1, len(losses))
        with torch.no_grad():
            answer["next"] = [loss_fn(each(batch[0]), batch[1]).item() for each in (model, reference.model)]
        # Its own writer, of the unsharded model and its optimizer.
        states = {name: reference.optimizer.state[p] for name, p in reference.model.named_parameters()}
        whole = {"model": reference.model.state_dict(), "optimizer": {"state": states}}
        dcp.save(whole, checkpoint_id=written, no_dist=True)
    dist.barrier()
    planned = apply(plan, 98, {})
    planned.load(written)
    count = len(losses)
    train(planned, losses, 3)
    answer["losses"], answer["after"] = losses[:count], losses[count:]
    if first:
        reference.optimizer.param_groups[0]["lr"] = RATE
        batches = [make_batch(document, 1, step) for step in range(count, count + 3)]
        answer["afterReference"] = [reference.train_step(*batch).item() for batch in batches]
if first:
    print(f"CHECKED {json.dumps(answer)}", flush=True)
dist.barrier()
dist.destroy_process_group()
