"""
A pipeline schedule as a table of actions, one row a pipeline rank (`0F3`: forward of stage 0, micro-batch 3; B
backward, I its input half, W its weight half). Needs no PyTorch.

The table comes from the plan's `schedule.actions`, from $MPOPT_SCHEDULE or from `schedule.csv` beside the plan, which
mpopt writes.
"""

from __future__ import annotations

import collections
import os
import re

from .errors import PlanError

SPLIT_BACKWARDS = ("interleaved-zb", "zbv", "dualpipev")
COMPUTE = re.compile(r"(\d+)([FBIW])(\d+)")
OTHER = re.compile(r"(\d+)(SEND_F|RECV_F|SEND_B|RECV_B)(\d+)|(\d+)(UNSHARD|RESHARD|REDUCE_GRAD)")


def is_plain(plan: dict) -> bool:
    """One stage a pipeline rank under 1F1B or GPipe, which the name alone says."""
    schedule, stages = plan["schedule"], plan["stages"]
    one_each = all(stage["rank"] == i for i, stage in enumerate(stages))
    return not schedule.get("actions") and one_each and schedule["name"] in ("1f1b", "gpipe")


def splits_backwards(plan: dict, table: str | None) -> bool:
    """Whether some backward passes run in two halves."""
    if len(plan["stages"]) == 1:
        return False
    return bool(re.search(r"\d[IW]\d", table)) if table else plan["schedule"]["name"] in SPLIT_BACKWARDS


def find_table(plan: dict, plan_path: str) -> str | None:
    """
    The text of the plan's table of actions: its own, that of $MPOPT_SCHEDULE where $MPOPT_PLAN is this plan, or
    `schedule.csv` beside it. None where the schedule's name says all, or where there is no table.
    """
    if plan["schedule"].get("actions"):
        return "\n".join(plan["schedule"]["actions"]) + "\n"
    if is_plain(plan) or len(plan["stages"]) == 1:
        return None
    beside = os.path.join(os.path.dirname(os.path.abspath(plan_path)), "schedule.csv")
    given = os.environ.get("MPOPT_SCHEDULE")
    if given and os.path.abspath(os.environ.get("MPOPT_PLAN", "")) == os.path.abspath(plan_path):
        beside = given
    if not os.path.exists(beside):
        return None
    with open(beside, encoding="utf-8") as file:
        return file.read()


def check_table(table: str, plan: dict) -> str:
    """
    PyTorch's name for the table's form, once every stage runs every micro-batch forward and backward once, on the
    rank that the plan says. PyTorch itself passes actions that stand twice.
    """
    rows = [row.split(",") for row in table.rstrip("\n").split("\n")]
    ranks = 1 + max(stage["rank"] for stage in plan["stages"])
    if len(rows) != ranks:
        raise PlanError(f"Expected {ranks} rows in the schedule, one a pipeline rank, but found {len(rows)}.")
    counts: collections.Counter = collections.Counter()
    form = "compute_only"
    for rank, row in enumerate(rows):
        for cell in (cell.strip() for cell in row):
            pair = re.fullmatch(r"\(([^;()]*);([^;()]*)\)OVERLAP_F_B", cell)
            for action in pair.groups() if pair else [cell] if cell else []:
                compute = COMPUTE.fullmatch(action)
                other = None if compute else OTHER.fullmatch(action)
                if not compute and (pair or not other):
                    place = f"row {rank + 1} of the schedule"
                    raise PlanError(f"Expected an action such as 0F3 in {place} but found {cell}.")
                stage = int(compute[1] if compute else other[1] or other[4])
                if stage >= len(plan["stages"]) or plan["stages"][stage]["rank"] != rank:
                    raise PlanError(f"Expected the plan's stages of rank {rank} in its row but found {action}.")
                if compute:
                    counts[stage, compute[2], int(compute[3])] += 1
                else:
                    form = "compute_comms"
    micro_batches = plan["schedule"]["microBatches"]
    whole, halves = {"F": 1, "B": 1, "I": 0, "W": 0}, {"F": 1, "B": 0, "I": 1, "W": 1}
    for stage in range(len(plan["stages"])):
        for batch in range(micro_batches):
            found = {kind: counts[stage, kind, batch] for kind in "FBIW"}
            if found not in (whole, halves):
                raise PlanError(
                    f"Expected one forward and one backward of stage {stage} and micro-batch {batch} in the "
                    f"schedule but found {found}."
                )
    if sum(counts.values()) != sum(count for key, count in counts.items() if key[2] < micro_batches):
        raise PlanError(f"Expected {micro_batches} micro-batches in the schedule but found more.")
    return form
