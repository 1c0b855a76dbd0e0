"""Plan files: an `mpopt.plan/1` document with the table of its schedule."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any, Callable

from .errors import PlanError, require_torch
from .plan_check import require_runnable
from .plan_table import find_table

if TYPE_CHECKING:
    import torch

    from .planned import Planned

__all__ = ["Plan", "load", "load_plan"]


class Plan:
    """A plan that can be applied, as `load` reads it."""

    def __init__(self, document: dict[str, Any], table: str | None = None):
        """`table` holds the schedule's actions as CSV, where the schedule needs them."""
        self.document, self.table = document, table

    @property
    def name(self) -> str:
        return self.document["name"]

    @property
    def world_size(self) -> int:
        """Ranks that the plan takes."""
        return math.prod(self.document["mesh"]["sizes"])

    def apply(
        self,
        model: torch.nn.Module,
        *,
        loss_fn: Callable[[Any, torch.Tensor], torch.Tensor],
        optimizer: Callable[[dict[str, torch.Tensor]], torch.optim.Optimizer],
        initialize: Callable[[torch.nn.Module], None] | None = None,
    ) -> Planned:
        """
        Starts the process group where none runs, cuts `model` down to this rank's part and returns what trains it:
        see `Planned.setup` for the arguments. Raises PlanError where ranks or model do not fit the plan.
        """
        require_torch()
        from .planned import Planned

        planned = Planned(self.document, self.table)
        planned.setup(model, loss_fn, optimizer, initialize)
        return planned


def load(path: str | os.PathLike[str] | None = None) -> Plan:
    """
    The plan at `path`, or at $MPOPT_PLAN, with its schedule. Raises PlanError where it breaks an invariant or asks for
    what nothing here does. Needs no PyTorch.
    """
    path = os.fspath(path or os.environ.get("MPOPT_PLAN", "plan.json"))
    plan = load_plan(path)
    return Plan(plan, find_table(plan, path))


def load_plan(path: str) -> dict[str, Any]:
    """The document at `path`, under the conditions of `load`."""
    plan = read_plan(path)
    require_runnable(plan)
    return plan


def read_plan(path: str) -> dict[str, Any]:
    """The document at `path`, of whatever content."""
    try:
        with open(path, encoding="utf-8") as file:
            plan = json.load(file)
    except OSError as error:
        raise PlanError(f"Expected a plan at {path} but found none: {error.strerror}.") from error
    except ValueError as error:
        raise PlanError(f"Expected an mpopt.plan/1 document at {path} but it is no JSON: {error}.") from error
    found = plan.get("schema") if isinstance(plan, dict) else type(plan).__name__
    if found != "mpopt.plan/1":
        raise PlanError(f"Expected an mpopt.plan/1 document at {path} but found {found!r}.")
    return plan
