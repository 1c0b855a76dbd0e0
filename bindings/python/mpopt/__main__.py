"""
Checks plan files: `python -m mpopt check plan.json`. Exit status 0 where all hold, 1 where one does not, 2 for a wrong
call.
"""

from __future__ import annotations

import argparse
import sys

from .errors import PlanError
from .plan_check import broken, refused
from .plan_document import Plan, read_plan
from .plan_table import check_table, find_table


def check(path: str) -> list[str]:
    """All that is wrong with the plan at `path`, a sentence each."""
    try:
        plan = read_plan(path)
    except PlanError as error:
        return [str(error)]
    problems = list(broken(plan))
    if problems:
        return problems
    table = find_table(plan, path)
    problems = list(refused(plan, table))
    if table is not None:
        try:
            check_table(table, plan)
        except PlanError as error:
            problems.append(str(error))
    return problems


def describe(plan: dict) -> str:
    """The plan's degrees in words."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in zip(plan["mesh"]["axes"], plan["mesh"]["sizes"]))
    schedule, batch = plan["schedule"], plan["batch"]
    stages = len(plan["stages"])
    return (
        f"{Plan(plan).world_size} ranks ({mesh}), {stages} {'stage' if stages == 1 else 'stages'}, {schedule['name']}, "
        f"{schedule['microBatches']} micro-batches of {batch['micro']} sequences, ZeRO-{plan['optimizer']['zero']}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mpopt", description="Plans of mpopt in Python.")
    commands = parser.add_subparsers(dest="command", required=True)
    checked = commands.add_parser("check", help="whether plans hold their invariants and run under PyTorch here")
    checked.add_argument("plan", nargs="+", help="an mpopt.plan/1 file")
    status = 0
    for path in parser.parse_args(arguments).plan:
        problems = check(path)
        for problem in problems:
            print(f"{path}: {problem}", file=sys.stderr)
        if problems:
            status = 1
        else:
            print(f"{path}: {describe(read_plan(path))}")
    return status


if __name__ == "__main__":
    sys.exit(main())
