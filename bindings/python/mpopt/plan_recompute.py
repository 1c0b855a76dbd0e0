"""Recomputation of blocks in the backward pass, under split backwards as well."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, get_device_states, set_device_states

from .plan_common import PlanError

ATTENTION = ("core_attention", "core_attn", "attn", "self_attn", "attention", "self_attention")


class DeferredWeights:
    """
    Weight halves of one stage's recomputed blocks, and which half of a micro-batch's backward pass is running:
    `input` puts the weight halves off to `run`. Outside a pass (None) the weights get no gradients: PyTorch looks
    for the shapes of gradients with backward passes of its own.
    """

    def __init__(self) -> None:
        self.running: str | None = None
        self.micro_batch = -1
        self.halves: dict[int, list[Callable[[], None]]] = {}

    @contextlib.contextmanager
    def backward(self, running: str, micro_batch: int) -> Iterator[None]:
        """Inside, a `whole` backward pass of a micro-batch or its `input` half."""
        self.running, self.micro_batch = running, micro_batch
        try:
            yield
        finally:
            self.running = None

    def put_off(self, half: Callable[[], None]) -> None:
        self.halves.setdefault(self.micro_batch, []).append(half)

    def run(self, micro_batch: int) -> None:
        """Assigns the weights' gradients of a micro-batch, or adds to those that are there."""
        for half in self.halves.pop(micro_batch, []):
            half()


class RecomputedBlock(torch.autograd.Function):
    """
    A block that keeps its inputs alone. PyTorch's checkpoint recomputes for every graph that a backward pass runs
    through, and split backwards run through one a weight: this one recomputes once and keeps the graph for the
    weight half.
    """

    @staticmethod
    def forward(ctx: Any, block: nn.Module, run: Callable, deferred: DeferredWeights, *inputs: Tensor) -> Any:
        ctx.block, ctx.run, ctx.deferred = block, run, deferred
        ctx.save_for_backward(*inputs)
        ctx.random, ctx.device_random = torch.get_rng_state(), get_device_states(*inputs)
        return run(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple:
        devices, states = ctx.device_random
        inputs = [each.detach().requires_grad_() for each in ctx.saved_tensors]
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.set_rng_state(ctx.random)
            set_device_states(devices, states)
            outputs = ctx.run(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        wanted = [
            (output, gradient)
            for output, gradient in zip(outputs, gradients)
            if gradient is not None and isinstance(output, Tensor) and output.requires_grad
        ]
        ends, given = [output for output, _ in wanted], [gradient for _, gradient in wanted]
        if ctx.deferred.running is None:
            return None, None, None, *torch.autograd.grad(ends, inputs, given, allow_unused=True)
        if ctx.deferred.running == "whole":
            torch.autograd.backward(ends, given)
            return None, None, None, *(each.grad for each in inputs)

        from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

        weights = [parameter for parameter in ctx.block.parameters() if parameter.requires_grad]
        with torch.enable_grad():
            # PyTorch detaches what it is given in place, which views do not stand.
            ends = [output.clone() if output._is_view() else output for output in ends]
            found, groups = stage_backward_input(ends, given, inputs, iter(weights))
        ctx.deferred.put_off(lambda: stage_backward_weight(iter(weights), groups))
        return None, None, None, *found


def recompute_deferred(block: nn.Module, forward: Callable, deferred: DeferredWeights) -> Callable:
    """`forward` of a block, recomputed in the input half of its backward pass."""

    def recomputed(*args: Any, **kwargs: Any) -> Any:
        values = [*args, *kwargs.values()]
        places = [i for i, value in enumerate(values) if isinstance(value, Tensor) and value.requires_grad]

        def run(*inputs: Tensor) -> Any:
            given = list(values)
            for place, value in zip(places, inputs):
                given[place] = value
            return forward(*given[: len(args)], **dict(zip(kwargs, given[len(args) :])))

        inputs = [values[place] for place in places]
        # The function keeps the inputs; the closure must not keep the graph behind them.
        for place in places:
            values[place] = None
        return RecomputedBlock.apply(block, run, deferred, *inputs) if inputs else forward(*args, **kwargs)

    return recomputed


def recomputed(forward: Callable) -> Callable:
    return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)


def apply_recompute(model: nn.Module, stage: dict, deferred: DeferredWeights | None = None) -> None:
    """
    Recomputes whole blocks (`full`) or their attention (`selective`) in the backward pass, and the stage's first
    `recomputeLayers` blocks whole whatever the others do; with `deferred`, under schedules that split it.
    """
    blocks = [name for name in stage["modules"] if name.rpartition(".")[2].isdigit()]
    for i, name in enumerate(blocks):
        module, kind = model.get_submodule(name), stage["recompute"]
        if i < stage.get("recomputeLayers", 0):
            kind = "full"
        if kind == "none":
            continue
        if kind == "selective":
            parts = {path.rpartition(".")[2]: part for path, part in module.named_modules()}
            module = next((parts[part] for part in ATTENTION if part in parts), None)
            if module is None:
                raise PlanError(f"Expected an attention module in {name} to recompute but found none.")
        forward = module.forward
        module.forward = recompute_deferred(module, forward, deferred) if deferred else recomputed(forward)
