"""Trains a small decoder with DeepSpeed under a plan, on random tokens.

    npx mpopt export plan.json --to deepspeed -o out
    out/run.sh examples/deepspeed/train.py --steps 20

For plans of Llama-like models without tensor parallelism: AutoTP splits the projections of models that it knows.
"""

import argparse
import json
import os

import deepspeed
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """Causal attention and a gated MLP, each behind a norm."""

    def __init__(self, hidden, heads, ffn):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.gate, self.up = nn.Linear(hidden, ffn, bias=False), nn.Linear(hidden, ffn, bias=False)
        self.down = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x):
        parts = self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """Its blocks carry the names that plans of Llama-like models use."""

    def __init__(self, embedding, blocks, head):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = embedding
        self.model.layers = nn.ModuleList(blocks)
        self.head = head

    def forward(self, tokens):
        x = self.model.embed_tokens(tokens)
        for block in self.model.layers:
            x = block(x)
        return self.head(x)


def loss_of(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--local_rank", type=int, default=0, help="set by the launcher")
    options = parser.parse_args()
    with open(os.environ["MPOPT_PLAN"], encoding="utf-8") as file:
        plan = json.load(file)
    sizes = dict(zip(plan["mesh"]["axes"], plan["mesh"]["sizes"]))
    if sizes.get("tensor", 1) > 1:
        raise SystemExit("Expected a plan without tensor parallelism, which this example's model does not have.")
    model = plan["model"]["architecture"]
    micro, sequence = plan["batch"]["micro"], plan["batch"]["sequence"]
    pipelined = sizes.get("pipeline", 1) > 1
    deepspeed.init_distributed()
    torch.manual_seed(0)
    hidden, vocabulary = model["hidden"], model["vocabulary"]
    embedding = nn.Embedding(vocabulary, hidden)
    blocks = [Block(hidden, model["heads"], model["ffn"]) for _ in range(model["layers"])]
    head = nn.Sequential(nn.RMSNorm(hidden), nn.Linear(hidden, vocabulary, bias=False))
    if pipelined:
        from plan_deepspeed import PlannedPipeline

        net = PlannedPipeline([embedding, *blocks, head], loss_fn=loss_of)
    else:
        from plan_deepspeed import prepare

        net = prepare(Decoder(embedding, blocks, head))
    engine, *_ = deepspeed.initialize(
        model=net,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-4),
        model_parameters=[parameter for parameter in net.parameters() if parameter.requires_grad],
        config=os.environ["MPOPT_DEEPSPEED_CONFIG"],
    )
    # Ranks of one pipeline read the same batches, replicas different ones.
    replica = engine.grid.get_data_parallel_rank() if pipelined else torch.distributed.get_rank()
    generator = torch.Generator().manual_seed(replica)

    def batches():
        while True:
            tokens = torch.randint(vocabulary, (micro, sequence + 1), generator=generator).to(engine.device)
            yield tokens[:, :-1], tokens[:, 1:]

    data = batches()
    for step in range(options.steps):
        if pipelined:
            loss = engine.train_batch(data_iter=data)
        else:
            for _ in range(engine.gradient_accumulation_steps()):
                inputs, targets = next(data)
                loss = loss_of(engine(inputs), targets)
                engine.backward(loss)
                engine.step()
        if torch.distributed.get_rank() == 0:
            print(f"step {step} loss {float(loss):.4f}", flush=True)


if __name__ == "__main__":
    main()
