"""Runs schedule CSVs in PyTorch's pipeline runtime on gloo ranks and compares them with the unsplit model.

stdin: JSON list of {"name", "csv", "form", "ranks", "stages", "microBatches"}; csv is the text.
stdout: JSON list, one entry each: {"name", "loss", "losses", "unsplitLoss", "gradientDifference", "gradients"}: the
mean of the micro-batches' losses and their number, the largest difference of a gradient from the unsplit model's over
that gradient's size, and how many gradients were compared.
"""
import datetime
import json
import os
import re
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.distributed.pipelining import PipelineStage, schedules

# So that rounding stays far below what a lost or doubled micro-batch would change.
torch.set_default_dtype(torch.float64)
WIDTH = 8
ROWS = 2  # of one micro-batch


def make_stage(index):
    torch.manual_seed(index)
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, WIDTH))


def make_batch(case):
    torch.manual_seed(1000)
    rows = ROWS * case["microBatches"]
    return torch.randn(rows, WIDTH), torch.randn(rows, WIDTH)


def run_case(case, rank, folder):
    """What this rank sees of one schedule: losses where it holds the last stage, gradients of its stages."""
    path = os.path.join(folder, f"{case['name']}.{case['ranks']}.{case['form']}.csv")
    if rank == 0:
        with open(path, "w") as file:
            file.write(case["csv"])
    dist.barrier()
    row = case["csv"].splitlines()[rank]
    own = sorted({int(stage) for stage in re.findall(r"(\d+)[FBIW]\d", row)})
    modules = {stage: make_stage(stage) for stage in own}
    stages = [PipelineStage(modules[stage], stage, case["stages"], torch.device("cpu")) for stage in own]
    loss = torch.nn.functional.mse_loss
    runtime = schedules._PipelineScheduleRuntime(stages, n_microbatches=case["microBatches"], loss_fn=loss)
    runtime._load_csv(path, format=case["form"])
    inputs, targets = make_batch(case)
    losses = []
    last = case["stages"] - 1 in own
    runtime.step(*([inputs] if 0 in own else []), target=targets if last else None, losses=losses)
    gradients = {
        f"{s}.{name}": parameter.grad.tolist()
        for s, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    return {"losses": [float(each) for each in losses] if last else None, "gradients": gradients}


def work(rank, ranks, cases, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous{ranks}",
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=30),
    )
    answers = [run_case(case, rank, folder) for case in cases]
    with open(os.path.join(folder, f"answers.{ranks}.{rank}"), "w") as file:
        json.dump(answers, file)
    dist.barrier()
    dist.destroy_process_group()


def compare(case, seen):
    model = torch.nn.Sequential(*(make_stage(stage) for stage in range(case["stages"])))
    inputs, targets = make_batch(case)
    loss = torch.nn.functional.mse_loss(model(inputs), targets)
    loss.backward()
    wanted = {name: parameter.grad for name, parameter in model.named_parameters()}
    found = {name: torch.tensor(value) for rank in seen for name, value in rank["gradients"].items()}
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        raise SystemExit(f"{case['name']}: no gradient of {', '.join(missing)}")
    losses = [rank["losses"] for rank in seen if rank["losses"] is not None]
    return {
        "name": case["name"],
        "loss": sum(losses[0]) / case["microBatches"],
        "losses": len(losses[0]),
        "unsplitLoss": float(loss),
        "gradientDifference": max(
            float((found[name] - wanted[name]).abs().max() / wanted[name].abs().max()) for name in wanted
        ),
        "gradients": len(found),
    }


if __name__ == "__main__":
    given = json.load(sys.stdin)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for ranks in sorted({case["ranks"] for case in given}):
            cases = [case for case in given if case["ranks"] == ranks]
            # Forked after the import, which takes longest.
            torch.multiprocessing.start_processes(
                work, (ranks, cases, folder), nprocs=ranks, start_method="fork"
            )
            answers = []
            for rank in range(ranks):
                with open(os.path.join(folder, f"answers.{ranks}.{rank}")) as file:
                    answers.append(json.load(file))
            results += [compare(case, seen) for case, seen in zip(cases, zip(*answers))]
    json.dump(results, sys.stdout)
