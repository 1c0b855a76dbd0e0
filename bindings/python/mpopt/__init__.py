"""
Train PyTorch models under plans of mpopt.

    import mpopt

    plan = mpopt.load("plan.json")
    planned = plan.apply(model, loss_fn=loss_fn, optimizer=lambda named: torch.optim.AdamW(named.values(), lr=3e-4))
    for inputs, targets in batches:
        with mpopt.timed_step() as step:
            step.loss = planned.train_step(planned.local_batch(inputs), planned.local_batch(targets))
    mpopt.report_done()

Plans are read and checked without PyTorch; the names that need it load it when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import PlanError, require_torch
from .plan_document import Plan, load, load_plan
from .reporting import report_done, report_step, timed_step
from .world import check_world

if TYPE_CHECKING:
    from .plan_common import local
    from .planned import Planned

__version__ = "0.1.0"

__all__ = [
    "Plan",
    "PlanError",
    "Planned",
    "check_world",
    "load",
    "load_plan",
    "local",
    "report_done",
    "report_step",
    "timed_step",
]


def __getattr__(name: str) -> Any:
    if name not in ("Planned", "local"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_torch()
    from .plan_common import local
    from .planned import Planned

    return {"Planned": Planned, "local": local}[name]
