"""
What `mpopt launch` reads of a run: on stdout of rank 0 a line a step, `MPOPT_STEP {"step": 3, "seconds": 0.12, "loss":
7.6}`, and `MPOPT_DONE {...}` at the end. Works in any training script, under a plan or not.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from typing import Any

__all__ = ["peak_memory_bytes", "report_done", "report_step", "timed_step"]

WARM_UP_STEPS = 2


class Report:
    """The steps of one run so far."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def step(self, seconds: float, loss: Any = None, step: int | None = None) -> None:
        number = len(self.seconds) if step is None else step
        self.seconds.append(float(seconds))
        value = None if loss is None else float(loss)
        if value is not None and not math.isfinite(value):
            value = None  # JSON has no word for it
        if rank() == 0:
            write("MPOPT_STEP", step=number, seconds=float(seconds), loss=value)

    def done(self) -> None:
        peaks: list[Any] = [peak_memory_bytes()]
        group = distributed()
        if group:
            peaks = [None] * group.get_world_size()
            group.all_gather_object(peaks, peak_memory_bytes())
        median = statistics.median(self.seconds[WARM_UP_STEPS:] or self.seconds) if self.seconds else None
        if rank() == 0:
            write("MPOPT_DONE", steps=len(self.seconds), medianStepSeconds=median, peakMemoryBytes=peaks)


report = Report()


def report_step(*, seconds: float, loss: Any = None, step: int | None = None) -> None:
    """
    Reports one optimizer step: its wall-clock seconds and the mean loss of the global batch (a number or a tensor of
    one element). Steps count from 0 where `step` is omitted. Every rank may call it; rank 0 prints, and needs the loss.
    """
    report.step(seconds, loss, step)


def report_done() -> None:
    """
    Reports the end of the run with the median step and the peak memory of every rank. Every rank of the process group
    must call it.
    """
    report.done()


class timed_step:
    """
    Times the step inside and reports it: `with mpopt.timed_step() as step: step.loss = ...`. It waits for the loss and
    for what runs on the device. A step that raises is not reported.
    """

    loss: Any = None

    def __init__(self, step: int | None = None):
        self.step = step

    def __enter__(self) -> timed_step:
        self.start = time.perf_counter()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            return
        loss = None if self.loss is None else float(self.loss)
        torch = sys.modules.get("torch")
        if torch and torch.cuda.is_initialized():
            torch.cuda.synchronize()
        report_step(seconds=time.perf_counter() - self.start, loss=loss, step=self.step)


def write(kind: str, **fields: Any) -> None:
    # One write, so that lines of several ranks do not mix.
    sys.stdout.write(f"{kind} {json.dumps(fields)}\n")
    sys.stdout.flush()


def distributed() -> Any:
    """`torch.distributed` where a process group runs; a script that has not loaded it has none."""
    module = sys.modules.get("torch.distributed")
    return module if module and module.is_available() and module.is_initialized() else None


def rank() -> int:
    group = distributed()
    return group.get_rank() if group else int(os.environ.get("RANK", "0"))


def peak_memory_bytes() -> int | None:
    """Most memory that this rank has held: allocated on a GPU, resident on a CPU; None where nobody counts it."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
