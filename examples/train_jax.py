"""Train a small Llama-like decoder with JAX under an mpopt plan, on synthetic text.

    mpopt export plan.json --to jax -o out
    out/run.sh examples/train_jax.py --steps 20
    out/run.sh examples/train_jax.py --steps 20 --reference   # unsharded, on one device

On processors XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight devices. Process 0 prints one line a step,
`MPOPT_STEP {"step": 3, "seconds": 0.12, "loss": 7.6}`.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time

import plan_sharding as plan

plan.initialize()  # before anything else of JAX

import jax
import jax.numpy as jnp
import numpy as np


def init_params(a: dict, seed: int) -> dict:
    """Master weights by the names of the plan's modules; kernels are [inputs, outputs]."""
    key = jax.random.key(seed)
    count = iter(range(1 << 20))

    def normal(*shape: int) -> jax.Array:
        return 0.02 * jax.random.normal(jax.random.fold_in(key, next(count)), shape, jnp.float32)

    hidden, size = a["hidden"], a["headSize"]
    ones = functools.partial(jnp.ones, (hidden,), jnp.float32)

    def block() -> dict:
        heads = {"q_proj": a["heads"], "k_proj": a["keyValueHeads"], "v_proj": a["keyValueHeads"]}
        attention = {name: {"kernel": normal(hidden, count * size)} for name, count in heads.items()}
        return {
            "input_layernorm": {"scale": ones()},
            "self_attn": {**attention, "o_proj": {"kernel": normal(a["heads"] * size, hidden)}},
            "post_attention_layernorm": {"scale": ones()},
            "mlp": {
                "gate_proj": {"kernel": normal(hidden, a["ffn"])},
                "up_proj": {"kernel": normal(hidden, a["ffn"])},
                "down_proj": {"kernel": normal(a["ffn"], hidden)},
            },
        }

    body = {
        "embed_tokens": {"embedding": normal(a["vocabulary"], hidden)},
        "layers": {str(i): block() for i in range(a["layers"])},
        "norm": {"scale": ones()},
    }
    return {"model": body, "lm_head": {"kernel": normal(hidden, a["vocabulary"])}}


def rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x.astype(jnp.float32) ** 2, -1, keepdims=True) + epsilon).astype(x.dtype) * scale


def rotate(x: jax.Array, theta: float) -> jax.Array:
    """Rotary positions over [batch, sequence, heads, size], in the half-split layout (RoFormer, arXiv:2104.09864)."""
    half = x.shape[-1] // 2
    angle = jnp.arange(x.shape[1])[:, None] * theta ** (-jnp.arange(half) / half)
    cosine, sine = jnp.cos(angle)[:, None].astype(x.dtype), jnp.sin(angle)[:, None].astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate((first * cosine - second * sine, second * cosine + first * sine), -1)


class Decoder:
    """The forward pass; `constrain` and `remat` are the plan's, or do nothing."""

    def __init__(self, a: dict, planned: bool):
        self.a = a
        self.constrain = plan.constrain if planned else lambda x, kind: x
        self.remat = plan.remat if planned else lambda block, layer: block
        self.gather = plan.gather if planned else lambda tree, path: tree
        self.remat_attention = plan.remat_attention if planned else lambda core, layer: core

    def attention(self, p: dict, x: jax.Array, layer: int) -> jax.Array:
        size, theta = self.a["headSize"], self.a.get("ropeTheta", 10000.0)
        split = lambda y: self.constrain(self.constrain(y, "features").reshape(*y.shape[:2], -1, size), "heads")
        query, key, value = (split(x @ p[f"{name}_proj"]["kernel"]) for name in "qkv")
        query, key = rotate(query, theta), rotate(key, theta)
        core = functools.partial(jax.nn.dot_product_attention, is_causal=True)
        out = self.constrain(self.remat_attention(core, layer)(query, key, value), "heads")
        return self.constrain(out.reshape(*x.shape[:2], -1), "features") @ p["o_proj"]["kernel"]

    def block(self, p: dict, x: jax.Array, layer: int) -> jax.Array:
        p, epsilon = self.gather(p, f"model/layers/{layer}"), self.a.get("normEpsilon", 1e-5)
        h = rms_norm(x, p["input_layernorm"]["scale"], epsilon)
        x = self.constrain(x + self.attention(p["self_attn"], h, layer), "residual")
        h = rms_norm(x, p["post_attention_layernorm"]["scale"], epsilon)
        gate = jax.nn.silu(h @ p["mlp"]["gate_proj"]["kernel"]) * (h @ p["mlp"]["up_proj"]["kernel"])
        return self.constrain(x + self.constrain(gate, "features") @ p["mlp"]["down_proj"]["kernel"], "residual")

    def loss(self, params: dict, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        tokens, targets = (self.constrain(each, "tokens") for each in batch)
        ends = {"model": {name: params["model"][name] for name in ("embed_tokens", "norm")}, "lm_head": params["lm_head"]}
        ends = self.gather(ends, "")
        x = self.constrain(jnp.take(ends["model"]["embed_tokens"]["embedding"], tokens, axis=0), "residual")
        for i in range(self.a["layers"]):
            x = self.remat(functools.partial(self.block, layer=i), i)(params["model"]["layers"][str(i)], x)
        x = rms_norm(x, ends["model"]["norm"]["scale"], self.a.get("normEpsilon", 1e-5))
        logits = self.constrain(x @ ends["lm_head"]["kernel"], "logits").astype(jnp.float32)
        # Read as a product, the target's logit needs no gather over a split vocabulary.
        target = jnp.sum(jax.nn.one_hot(targets, logits.shape[-1]) * logits, -1)
        return jnp.mean(jax.nn.logsumexp(logits, -1) - target)


def adam(state: dict, gradients: dict, rate: float) -> dict:
    """One step of Adam on master weights and moments, which lie over the ranks as the plan shards them."""
    step = state["step"] + 1
    moment = lambda beta, power: lambda m, g: beta * m + (1 - beta) * g.astype(m.dtype) ** power
    first = jax.tree.map(moment(0.9, 1), state["first"], gradients)
    second = jax.tree.map(moment(0.95, 2), state["second"], gradients)

    def update(w: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        return w - rate * (m / (1 - 0.9**step)) / (jnp.sqrt(v / (1 - 0.95**step)) + 1e-8)

    return {"step": step, "master": jax.tree.map(update, state["master"], first, second), "first": first, "second": second}


def make_batch(a: dict, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The global batch of one step: counting sequences, so that the next token can be learnt."""
    start = np.random.default_rng((seed, step)).integers(a["vocabulary"], size=(plan.GLOBAL_BATCH, 1))
    tokens = (start + 7 * np.arange(plan.SEQUENCE + 1)) % a["vocabulary"]
    return tokens[:, :-1].astype(np.int32), tokens[:, 1:].astype(np.int32)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small decoder with JAX under an mpopt plan.")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--reference", action="store_true", help="train the unsharded model on one device")
    options = parser.parse_args()
    with open(os.environ["MPOPT_PLAN"], encoding="utf-8") as file:
        a = json.load(file)["model"].get("architecture")
    if not a or a["norm"] != "rms_norm" or a["positions"] != "rotary" or not a["gated"] or a.get("experts"):
        raise plan.PlanError("Expected a plan for a dense Llama-like model but found another.")

    planned = not options.reference
    decoder = Decoder(a, planned)
    gradients_of = plan.accumulate(decoder.loss) if planned else jax.value_and_grad(decoder.loss)
    to_params = plan.to_params if planned else lambda w: jax.tree.map(lambda x: x.astype(plan.PARAMETER_DTYPE), w)

    def step(state: dict, params: dict, batch: tuple) -> tuple[dict, dict, jax.Array]:
        loss, gradients = gradients_of(params, batch)
        state = adam(state, gradients, options.learning_rate)
        return state, to_params(state["master"]), loss

    def initial() -> dict:
        master = jax.tree.map(lambda w: w.astype(plan.OPTIMIZER_DTYPE), init_params(a, options.seed))
        zeros = lambda: jax.tree.map(jnp.zeros_like, master)
        return {"step": jnp.zeros((), jnp.int32), "master": master, "first": zeros(), "second": zeros()}

    places = plan.state_shardings(jax.eval_shape(initial)) if planned else None
    state = jax.jit(initial, out_shardings=places)()
    params = jax.jit(to_params)(state["master"])
    # State and parameters come back where they were, so that one compilation serves all steps.
    places = (places, plan.param_shardings(params), None) if planned else None
    step = jax.jit(step, out_shardings=places, donate_argnums=(0, 1))
    for i in range(options.steps):
        batch = make_batch(a, options.seed, i)
        batch = plan.shard_batch(batch) if planned else batch
        start = time.perf_counter()
        state, params, loss = step(state, params, batch)
        loss = float(loss)  # waits for the step to end
        if jax.process_index() == 0:
            fields = {"step": i, "seconds": time.perf_counter() - start, "loss": loss}
            sys.stdout.write(f"MPOPT_STEP {json.dumps(fields)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except plan.PlanError as error:
        sys.exit(f"train_jax.py: {error}")
