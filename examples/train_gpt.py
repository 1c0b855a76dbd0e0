"""Train a small decoder under an mpopt plan, on synthetic text.

    mpopt launch plan.json -- python examples/train_gpt.py --steps 20
    python examples/train_gpt.py --plan plan.json --steps 20 --reference   # unsharded, in one process

The model is plain PyTorch with the module names that the plan uses: GPT-2's (layer norm, learned positions,
GELU) or Llama's (RMS norm, rotary positions, gated MLP, grouped keys and values). Rank 0 prints one line a
step, `MPOPT_STEP {"step": 3, "seconds": 0.12, "loss": 7.6}`, and `MPOPT_DONE {...}` at the end.

With `--checkpoint DIR` the whole state is saved there every few steps, in a form that any other plan of the model can
load. Under MPOPT_RESUME, which `mpopt launch --elastic` sets when it goes on after a rank has died, or with `--resume`,
training goes on from there.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import statistics
import sys
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from apply_plan import Planned, PlanError, load_plan


class RMSNorm(nn.Module):
    def __init__(self, size: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon))


class CoreAttention(nn.Module):
    """Causal attention over [batch, sequence, heads * head size]; the shapes tell how many heads there are."""

    def __init__(self, head_size: int, theta: float | None):
        super().__init__()
        self.head_size, self.theta = head_size, theta

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (x.unflatten(-1, (-1, self.head_size)).transpose(1, 2) for x in (query, key, value))
        if self.theta is not None:
            cosine, sine = rotation(query.shape[-2], self.head_size, self.theta, query.dtype, query.device)
            query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)


@functools.cache
def rotation(length: int, size: int, theta: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, size / 2] of rotary positions (RoFormer, arXiv:2104.09864)."""
    frequency = theta ** (-torch.arange(size // 2, device=device, dtype=torch.float32) / (size // 2))
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turns the features of every head by its position, in the half-split layout of Llama's checkpoints."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class GPT2Attention(nn.Module):
    def __init__(self, a: dict):
        super().__init__()
        width = a["heads"] * a["headSize"]
        self.core_attention = CoreAttention(a["headSize"], theta=None)
        self.c_attn = nn.Linear(a["hidden"], 3 * width, bias=a["attentionBias"])
        self.c_proj = nn.Linear(width, a["hidden"], bias=a["attentionBias"])

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.core_attention(*self.c_attn(x).chunk(3, dim=-1)))


class GPT2MLP(nn.Module):
    def __init__(self, a: dict):
        super().__init__()
        self.c_fc = nn.Linear(a["hidden"], a["ffn"], bias=a["mlpBias"])
        self.c_proj = nn.Linear(a["ffn"], a["hidden"], bias=a["mlpBias"])

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class GPT2Block(nn.Module):
    def __init__(self, a: dict):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(a["hidden"]), GPT2Attention(a)
        self.ln_2, self.mlp = nn.LayerNorm(a["hidden"]), GPT2MLP(a)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2Body(nn.Module):
    def __init__(self, a: dict):
        super().__init__()
        self.wte = nn.Embedding(a["vocabulary"], a["hidden"])
        self.wpe = nn.Embedding(a["maxSequence"], a["hidden"])
        self.h = nn.ModuleList(GPT2Block(a) for _ in range(a["layers"]))
        self.ln_f = nn.LayerNorm(a["hidden"])

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)[None]
        x = self.wte(x) + self.wpe(positions)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class GPT2(nn.Module):
    def __init__(self, a: dict):
        super().__init__()
        self.transformer = GPT2Body(a)
        self.lm_head = nn.Linear(a["hidden"], a["vocabulary"], bias=False)
        if a["tiedEmbeddings"]:
            self.lm_head.weight = self.transformer.wte.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.lm_head(self.transformer(x))


class LlamaAttention(nn.Module):
    def __init__(self, a: dict):
        super().__init__()
        size, bias = a["headSize"], a["attentionBias"]
        self.core_attention = CoreAttention(size, a.get("ropeTheta", 10000.0))
        self.q_proj = nn.Linear(a["hidden"], a["heads"] * size, bias=bias)
        self.k_proj = nn.Linear(a["hidden"], a["keyValueHeads"] * size, bias=bias)
        self.v_proj = nn.Linear(a["hidden"], a["keyValueHeads"] * size, bias=bias)
        self.o_proj = nn.Linear(a["heads"] * size, a["hidden"], bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.o_proj(self.core_attention(self.q_proj(x), self.k_proj(x), self.v_proj(x)))


class LlamaMLP(nn.Module):
    def __init__(self, a: dict):
        super().__init__()
        self.gate_proj = nn.Linear(a["hidden"], a["ffn"], bias=a["mlpBias"])
        self.up_proj = nn.Linear(a["hidden"], a["ffn"], bias=a["mlpBias"])
        self.down_proj = nn.Linear(a["ffn"], a["hidden"], bias=a["mlpBias"])

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaBlock(nn.Module):
    def __init__(self, a: dict):
        super().__init__()
        epsilon = a.get("normEpsilon", 1e-5)
        self.input_layernorm, self.self_attn = RMSNorm(a["hidden"], epsilon), LlamaAttention(a)
        self.post_attention_layernorm, self.mlp = RMSNorm(a["hidden"], epsilon), LlamaMLP(a)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaBody(nn.Module):
    def __init__(self, a: dict):
        super().__init__()
        self.embed_tokens = nn.Embedding(a["vocabulary"], a["hidden"])
        self.layers = nn.ModuleList(LlamaBlock(a) for _ in range(a["layers"]))
        self.norm = RMSNorm(a["hidden"], a.get("normEpsilon", 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed_tokens(x)
        for block in self.layers:
            x = block(x)
        return self.norm(x)


class Llama(nn.Module):
    def __init__(self, a: dict):
        super().__init__()
        self.model = LlamaBody(a)
        self.lm_head = nn.Linear(a["hidden"], a["vocabulary"], bias=False)
        if a["tiedEmbeddings"]:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.lm_head(self.model(x))


def build_model(plan: dict, seed: int) -> nn.Module:
    """The plan's architecture, initialised alike on every rank."""
    a = plan["model"].get("architecture")
    if a is None:
        raise PlanError("Expected model.architecture in the plan, to build the model from, but found none.")
    gpt2 = a["norm"] == "layer_norm" and a["positions"] == "learned" and not a["gated"]
    gpt2 = gpt2 and a["keyValueHeads"] == a["heads"]
    llama = a["norm"] == "rms_norm" and a["positions"] == "rotary" and a["gated"] and a["activation"] == "silu"
    special = [what for what in ("experts", "latent", "parallelResidual", "queryKeyNorm") if a.get(what)]
    if special or not (gpt2 or llama):
        what = f"{a['family']} with {special[0]}" if special else a["family"]
        raise PlanError(f"Expected a GPT-2-like or Llama-like model but the plan is for {what}.")
    torch.manual_seed(seed)
    model = GPT2(a) if gpt2 else Llama(a)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.02)
    return model


def make_batch(plan: dict, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """The global batch of one step: counting sequences, so that the next token can be learnt."""
    batch, vocabulary = plan["batch"], plan["model"]["architecture"]["vocabulary"]
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    start = torch.randint(vocabulary, (batch["global"], 1), generator=generator)
    tokens = (start + 7 * torch.arange(batch["sequence"] + 1)) % vocabulary
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def report(kind: str, **fields: object) -> None:
    # One write, so that lines of several ranks do not mix.
    sys.stdout.write(f"{kind} {json.dumps(fields)}\n")
    sys.stdout.flush()


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory that this rank has held: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def has_checkpoint(folder: str) -> bool:
    """Whether rank 0 sees one, so that all ranks agree. What a save was cut off from replacing counts."""
    found = [any(os.path.isdir(path) for path in (folder, f"{folder}.previous"))]
    dist.broadcast_object_list(found)
    return found[0]


class Reference:
    """The unsharded model in one process: the same batches, the same micro-batch size."""

    def __init__(self, plan: dict, model: nn.Module, learning_rate: float):
        self.model, self.micro = model, plan["batch"]["micro"]
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)

    def train_step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        parts = list(zip(inputs.split(self.micro), targets.split(self.micro)))
        total = torch.zeros(())
        for x, y in parts:
            loss = loss_fn(self.model(x), y) / len(parts)
            loss.backward()
            total += loss.detach()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small decoder under an mpopt plan.")
    parser.add_argument("--plan", default=os.environ.get("MPOPT_PLAN", "plan.json"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--reference", action="store_true", help="train the unsharded model in one process")
    parser.add_argument("--checkpoint", metavar="DIR", help="save the training state into this folder")
    parser.add_argument("--save-every", type=int, default=10, metavar="N", help="steps between two saves")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    options = parser.parse_args()
    if options.checkpoint and options.reference:
        parser.error("--checkpoint saves what a plan shards: it does not go with --reference")
    if options.save_every < 1:
        parser.error(f"--save-every takes a number of at least 1, not {options.save_every}")
    if options.resume and not options.checkpoint:
        parser.error("--resume goes on from the folder that --checkpoint names")
    torch.set_num_threads(int(os.environ.get("MPOPT_THREADS", "1")))

    if options.reference:
        plan = load_plan(options.plan)
        model = build_model(plan, options.seed)
        trainer, device, first = Reference(plan, model, options.learning_rate), torch.device("cpu"), True
    else:
        trainer = Planned.from_file(options.plan)
        plan, device, first = trainer.plan, trainer.device, dist.get_rank() == 0
        model = build_model(plan, options.seed)
        trainer.setup(
            model,
            loss_fn,
            # One kernel reads and writes every state once; the default takes a dozen passes on a processor.
            optimizer=lambda named: torch.optim.AdamW(named.values(), lr=options.learning_rate, fused=True),
        )

    begin = 0
    resume = options.resume or os.environ.get("MPOPT_RESUME") == "1"
    if options.checkpoint and resume and has_checkpoint(options.checkpoint):
        begin = trainer.load(options.checkpoint)["step"]

    times = []
    for step in range(begin, options.steps):
        inputs, targets = make_batch(plan, options.seed, step)
        if not options.reference:
            inputs, targets = trainer.local_batch(inputs), trainer.local_batch(targets)
        start = time.perf_counter()
        loss = trainer.train_step(inputs, targets).item()  # reading the loss waits for the step to end
        times.append(time.perf_counter() - start)
        if first:
            report("MPOPT_STEP", step=step, seconds=times[-1], loss=loss)
        if options.checkpoint and ((step + 1) % options.save_every == 0 or step + 1 == options.steps):
            trainer.save(options.checkpoint, {"step": step + 1})

    peaks: list = [peak_memory_bytes(device)]
    if not options.reference:
        peaks = [None] * dist.get_world_size()
        dist.all_gather_object(peaks, peak_memory_bytes(device))
    if first:
        median = statistics.median(times[2:] or times) if times else None
        report("MPOPT_DONE", steps=len(times), medianStepSeconds=median, peakMemoryBytes=peaks)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main()
    except PlanError as error:
        sys.exit(f"train_gpt.py: {error}")
    # Threads of the communication library may outlive it on the way out and abort a run that has ended well.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
