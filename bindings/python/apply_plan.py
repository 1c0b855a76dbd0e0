"""The names of the package `mpopt` that applies a plan, for scripts beside an exported plan."""

from mpopt import Planned, PlanError, load_plan, local

__all__ = ["Planned", "PlanError", "load_plan", "local"]
