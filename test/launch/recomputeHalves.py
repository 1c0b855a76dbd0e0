"""
Compares a recomputed block's gradients with those of the block as it is: dropout, a keyword, two outputs of which one
has no gradient.

stdout: JSON, the largest difference of a gradient by pass: `whole`, `input` and `probe`, and whether a probe left the
weights alone.
"""

import json
import sys

import torch
from mpopt.plan_recompute import DeferredWeights, recompute_deferred
from torch import nn
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.dropout = nn.Linear(8, 16), nn.Linear(16, 8), nn.Dropout(0.5)

    def forward(self, x, scale=None):
        hidden = self.dropout(torch.relu(self.up(x)))
        return x + scale * self.down(hidden), hidden.detach()


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(3)), nn.LayerNorm(8)

    def forward(self, x, scale):
        for block in self.blocks:
            x, _ = block(x, scale=scale)
        return self.norm(x)


def gradients(running: str | None, recompute: bool) -> tuple[list, Stack]:
    """Gradients of the input and of every weight."""
    stack, deferred = Stack(), DeferredWeights()
    for block in stack.blocks if recompute else []:
        block.forward = recompute_deferred(block, block.forward, deferred)
    torch.manual_seed(2)
    x = torch.randn(4, 8, requires_grad=True)
    output, gradient = stack(x, torch.tensor(0.5)), torch.randn(4, 8)
    torch.manual_seed(3)  # what the forward drew must not be drawn anew
    weights = list(stack.parameters())
    if not recompute or running is None:
        found = torch.autograd.grad(output, [x] if recompute else [x, *weights], gradient)
    elif running == "whole":
        with deferred.backward("whole", 0):
            output.backward(gradient)
        found = [x.grad, *(weight.grad for weight in weights)]
    else:
        with deferred.backward("input", 0):
            (first,), groups = stage_backward_input([output], [gradient], [x], iter(weights))
        stage_backward_weight(iter(weights), groups)
        deferred.run(0)
        found = [first, *(weight.grad for weight in weights)]
    return list(found), stack


wanted, _ = gradients("whole", recompute=False)
answer = {}
for name, running in (("whole", "whole"), ("input", "input"), ("probe", None)):
    found, stack = gradients(running, recompute=True)
    answer[name] = max(float((a - b).abs().max()) for a, b in zip(found, wanted))
    answer[f"{name}Gradients"] = len(found)
answer["untouched"] = all(weight.grad is None for weight in stack.parameters())
json.dump(answer, sys.stdout)
