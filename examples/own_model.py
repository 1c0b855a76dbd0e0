"""A model of your own under a plan, started by torchrun, with the Python package `mpopt`.

    npx mpopt export plan.json --to torch -o out
    out/run.sh examples/own_model.py --steps 20 --checkpoint out/checkpoint

or, where the package is installed, without the exported folder:

    torchrun --nproc-per-node 2 examples/own_model.py --plan plan.json

The model is an ordinary module under the names that the plan's stages use, here those of Llama-like models. Started
again, under this plan or another one of the model, it goes on from the checkpoint.
"""

from __future__ import annotations

import argparse
import os
import sys

import mpopt
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Causal attention; under tensor parallelism a rank has some of the heads, as the shapes tell."""

    def __init__(self, hidden: int, heads: int, key_value_heads: int, size: int):
        super().__init__()
        self.size = size
        self.q_proj = nn.Linear(hidden, heads * size, bias=False)
        self.k_proj = nn.Linear(hidden, key_value_heads * size, bias=False)
        self.v_proj = nn.Linear(hidden, key_value_heads * size, bias=False)
        self.o_proj = nn.Linear(heads * size, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        output = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(output.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, hidden: int, ffn: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, ffn, bias=False)
        self.up_proj = nn.Linear(hidden, ffn, bias=False)
        self.down_proj = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class RMSNorm(nn.Module):
    def __init__(self, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


class Block(nn.Module):
    def __init__(self, sizes: dict):
        super().__init__()
        hidden = sizes["hidden"]
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(hidden), RMSNorm(hidden)
        self.self_attn = Attention(hidden, sizes["heads"], sizes["keyValueHeads"], sizes["headSize"])
        self.mlp = MLP(hidden, sizes["ffn"])

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, sizes: dict):
        super().__init__()
        self.embed_tokens = nn.Embedding(sizes["vocabulary"], sizes["hidden"])
        self.layers = nn.ModuleList(Block(sizes) for _ in range(sizes["layers"]))
        self.norm = RMSNorm(sizes["hidden"])

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed_tokens(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class LanguageModel(nn.Module):
    def __init__(self, sizes: dict):
        super().__init__()
        self.model = Body(sizes)
        self.lm_head = nn.Linear(sizes["hidden"], sizes["vocabulary"], bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.lm_head(self.model(x))


def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def batches(plan: dict, first: int, end: int):
    """Global batches of steps [first, end): sequences that count, so that there is something to learn."""
    batch, vocabulary = plan["batch"], plan["model"]["architecture"]["vocabulary"]
    for step in range(first, end):
        start = torch.randint(vocabulary, (batch["global"], 1), generator=torch.Generator().manual_seed(step))
        tokens = (start + torch.arange(batch["sequence"] + 1)) % vocabulary
        yield tokens[:, :-1], tokens[:, 1:]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a model of your own under an mpopt plan.")
    parser.add_argument("--plan", help="default: $MPOPT_PLAN")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--checkpoint", help="folder to go on from and to save to")
    options = parser.parse_args()

    plan = mpopt.load(options.plan)
    torch.manual_seed(0)  # alike on every rank
    planned = plan.apply(
        LanguageModel(plan.document["model"]["architecture"]),
        loss_fn=loss_fn,
        optimizer=lambda named: torch.optim.AdamW(named.values(), lr=2e-3),
    )
    first = 0
    if options.checkpoint and os.path.exists(options.checkpoint):
        first = planned.load(options.checkpoint)["step"]
    for i, (inputs, targets) in enumerate(batches(plan.document, first, first + options.steps)):
        with mpopt.timed_step(first + i) as step:
            step.loss = planned.train_step(planned.local_batch(inputs), planned.local_batch(targets))
    if options.checkpoint:
        planned.save(options.checkpoint, {"step": first + options.steps})
    mpopt.report_done()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except mpopt.PlanError as error:
        sys.exit(f"own_model.py: {error}")
    # Threads of the communication library may outlive it on the way out and abort a run that has ended well.
    sys.stdout.flush()
    os._exit(0)
