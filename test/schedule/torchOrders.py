"""Orders that PyTorch's own pipeline schedules build, without process groups and devices.

stdin: JSON list of {"class", "ranks", "chunks", "microBatches"}.
stdout: JSON list, one entry each: {"error"} where the class refuses the sizes, else {"orders", "lowered"?}: one list
of cells such as 0F3 a rank, idle steps left out; lowered is the order with transfers and sharding actions.

Multi-stage classes build their order when made; only these attributes of their stages are read. ScheduleGPipe and
Schedule1F1B execute theirs in _step_microbatches: a stage that records its calls shows it. Their _get_pipeline_order
is not used: in PyTorch 2.13, 1F1B's starts the last rank at micro-batch 1 and ends it behind the last one.
"""
import json
import sys
import types

import torch
from torch.distributed.pipelining import schedules


class RecordingStage:
    """A stage that notes what it is asked to compute; no transfers, no tensors."""

    is_first = is_last = False
    has_backward = True

    def __init__(self, stage, stages):
        self.stage_index, self.num_stages = stage, stages
        self.cells = []

    def forward_one_chunk(self, micro_batch, *_args, **_kwargs):
        self.cells.append(f"{self.stage_index}F{micro_batch}")

    def backward_one_chunk(self, micro_batch, **_kwargs):
        self.cells.append(f"{self.stage_index}B{micro_batch}")

    def no_transfers(self, _micro_batch):
        return []

    get_fwd_recv_ops = get_fwd_send_ops = get_bwd_recv_ops = get_bwd_send_ops = no_transfers

    def perform_reduce_grad(self, _factor):
        pass


def executed(name, ranks, micro_batches):
    orders = []
    for rank in range(ranks):
        stage = RecordingStage(rank, ranks)
        schedule = schedules.get_schedule_class(name)(stage, micro_batches)
        schedule._initialize_stage = lambda *_: None
        schedule._step_microbatches([()] * micro_batches, [{}] * micro_batches)
        orders.append(stage.cells)
    return {"orders": orders}


def built(name, ranks, chunks, micro_batches):
    stages = [
        types.SimpleNamespace(
            num_stages=ranks * chunks, group_size=ranks, group_rank=0, stage_index=chunk, submod=torch.nn.Identity()
        )
        for chunk in range(chunks)
    ]
    schedule = schedules.get_schedule_class(name)(stages, micro_batches)
    orders = [[str(action) for action in schedule.pipeline_order[rank] if action is not None] for rank in range(ranks)]
    lowered = [[str(action) for action in schedule.pipeline_order_with_comms[rank]] for rank in range(ranks)]
    return {"orders": orders, "lowered": lowered}


answers = []
for case in json.load(sys.stdin):
    name, ranks, micro_batches = case["class"], case["ranks"], case["microBatches"]
    try:
        if name in ("GPipe", "1F1B"):
            answers.append(executed(name, ranks, micro_batches))
        else:
            answers.append(built(name, ranks, case["chunks"], micro_batches))
    except ValueError as error:
        answers.append({"error": str(error)})
json.dump({"torch": torch.__version__, "answers": answers}, sys.stdout)
