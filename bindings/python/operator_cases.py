"""The operators that `measure_operators.py` times, as a PyTorch model on processors runs them.

`work` counts what mpopt's cost model counts: FLOPs of linear and attention (causal: half of the square),
else bytes: inputs and outputs forward; inputs twice and outputs once backward; the dense gradient of the
table and the output of an embedding backward; two reads and a write of accumulation; gradient, parameter and
twice the moments of the optimizer.
"""

from __future__ import annotations

FLOAT = 4  # bytes of an f32


class Case:
    """
    One operator at one size. `forward()` runs `count` instances and returns (outputs, their gradients); a case
    without gradients returns None. Work is that of one instance.
    """

    def __init__(self, operator, name, shape, count, forward, forward_work, backward_work=0.0, unit="byte"):
        self.operator, self.name, self.shape, self.count = operator, name, shape, count
        self.forward, self.unit = forward, unit
        self.forward_work, self.backward_work = forward_work, backward_work


def drop_gradient(tensor):
    """Frees the gradient of a leaf as soon as it is there."""
    tensor.requires_grad_()
    tensor.register_post_accumulate_grad_hook(lambda leaf: setattr(leaf, "grad", None))
    return tensor


def leaf(torch, *shape):
    return drop_gradient(torch.randn(*shape))


def layers(*modules):
    for module in modules:
        for parameter in module.parameters():
            drop_gradient(parameter)
    return modules


def chain(torch, start, steps):
    """Runs the steps one after the other; the gradient enters at the end."""
    gradient = torch.randn_like(start)

    def forward():
        h = start
        for step in steps:
            h = step(h)
        return [h], [gradient]

    return forward


def each(torch, step, starts):
    """Runs the step on every start; a gradient enters at each output."""
    gradients = [torch.randn_like(step(*start)) for start in starts]
    return lambda: ([step(*start) for start in starts], gradients)


def linear(torch, tokens, inner, outer, pairs):
    """Projections up and down in turn: [tokens, inner] x [inner, outer]."""
    modules = layers(*(torch.nn.Linear(*(size if i % 2 == 0 else size[::-1]))
                       for i, size in enumerate([(inner, outer)] * (2 * pairs))))  # fmt: skip
    flops = 2 * tokens * inner * outer
    forward = chain(torch, leaf(torch, tokens, inner), modules)
    shape = {"m": tokens, "n": outer, "k": inner}
    return Case("linear", None, shape, 2 * pairs, forward, flops, 2 * flops, "flop")


def attention(torch, batch, heads, sequence, size, count):
    """Causal attention over a fused projection [batch, sequence, 3 x heads x size], with its layout changes."""

    def step(fused):
        parts = (part.unflatten(-1, (heads, size)).transpose(1, 2) for part in fused.chunk(3, dim=-1))
        out = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
        return out.transpose(1, 2).flatten(2)

    flops = 2 * batch * heads * sequence * sequence * size
    forward = each(torch, step, [(leaf(torch, batch, sequence, 3 * heads * size),) for _ in range(count)])
    shape = {"batch": batch, "heads": heads, "sequence": sequence, "headSize": size}
    return Case("attention", None, shape, count, forward, flops, 2.5 * flops, "flop")


def normalization(torch, name, tokens, width, count):
    kind = torch.nn.LayerNorm if name == "layer_norm" else torch.nn.RMSNorm
    modules = layers(*(kind(width) for _ in range(count)))
    return moved(name, "normalization", tokens, width, count, chain(torch, leaf(torch, tokens, width), modules))


def gelu(torch, tokens, width, count):
    steps = [lambda h: torch.nn.functional.gelu(h, approximate="tanh")] * count
    return moved("gelu", "activation", tokens, width, count, chain(torch, leaf(torch, tokens, width), steps))


def silu_mul(torch, tokens, width, count):
    def gate(up):
        return lambda h: torch.nn.functional.silu(h) * up

    steps = [gate(leaf(torch, tokens, width)) for _ in range(count)]
    forward = chain(torch, leaf(torch, tokens, width), steps)
    return moved("silu_mul", "activation", tokens, width, count, forward, inputs=2)


def residual_add(torch, tokens, width, count):
    """A sum of a tensor with itself: backward, the two gradients meet and are added, as at a residual's fork."""
    steps = [lambda h: h + h] * count
    forward = chain(torch, leaf(torch, tokens, width), steps)
    return moved("add", "elementwise", tokens, width, count, forward, inputs=2)


def rotary(torch, tokens, width, size, count):
    """Rotary positions of a query and a key, [1, heads, tokens, size] each, in the half-split layout."""
    angle = torch.randn(tokens, size // 2)
    cosine, sine = angle.cos(), angle.sin()

    def rotate(x):
        first, second = x[..., : size // 2], x[..., size // 2 :]
        return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)

    shape = (1, width // size, tokens, size)
    heads = [leaf(torch, *shape) for _ in range(2 * count)]
    gradients = [torch.randn(shape)] * len(heads)

    def forward():
        return [rotate(x) for x in heads], gradients

    bytes_ = 2 * tokens * width * FLOAT
    return Case("elementwise", "rotary", {"tokens": tokens, "width": width}, count, forward, 2 * bytes_, 3 * bytes_)


def moved(name, operator, tokens, width, count, forward, inputs=1):
    bytes_ = tokens * width * FLOAT
    shape = {"tokens": tokens, "width": width}
    return Case(operator, name, shape, count, forward, (inputs + 1) * bytes_, (2 * inputs + 1) * bytes_)


def embedding(torch, tokens, vocabulary, width, count):
    modules = layers(*(torch.nn.Embedding(vocabulary, width) for _ in range(count)))
    ids = torch.randint(vocabulary, (1, tokens))
    gradients = [torch.randn(1, tokens, width)] * count
    out = tokens * width * FLOAT
    shape = {"tokens": tokens, "vocabulary": vocabulary, "width": width}
    work = (tokens * 8 + out, vocabulary * width * FLOAT + out)
    return Case("embedding", None, shape, count, lambda: ([m(ids) for m in modules], gradients), *work)


def loss(torch, tokens, vocabulary, count):
    targets = torch.randint(vocabulary, (tokens,))
    starts = [leaf(torch, tokens, vocabulary) for _ in range(count)]
    gradients = [torch.ones(())] * count
    inputs = tokens * (vocabulary * FLOAT + 8)
    cross_entropy = torch.nn.functional.cross_entropy
    shape = {"tokens": tokens, "vocabulary": vocabulary}
    forward = lambda: ([cross_entropy(x, targets) for x in starts], gradients)  # noqa: E731
    return Case("loss", None, shape, count, forward, inputs, 2 * inputs)


def accumulation(torch, elements, count):
    pairs = [(torch.zeros(elements), torch.randn(elements)) for _ in range(count)]

    def forward():
        for buffer, gradient in pairs:
            buffer.add_(gradient, alpha=0.5)

    return Case("accumulation", None, {"elements": elements}, count, forward, 3 * elements * FLOAT)


def optimizer(torch, elements, tensors):
    """A step of AdamW, fused where this PyTorch can on processors (2.4 and later)."""
    parameters = [torch.nn.Parameter(torch.randn(elements // tensors)) for _ in range(tensors)]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    adam = torch.optim.AdamW(parameters, fused=True)
    shape = {"elements": elements, "tensors": tensors}
    return Case("optimizer", "adam", shape, 1, adam.step, elements * FLOAT * (1 + 1 + 2 * 2))


def call(torch, count):
    """The smallest operator: what a call costs beside its kernel."""
    return moved("call", "call", 1, 4, count, chain(torch, leaf(torch, 1, 4), [lambda h: h * 1.0] * count))


def operator_cases(quick):
    """(maker, arguments): those that planning needs most come first, for they survive a short deadline."""
    more = (lambda *cases: ()) if quick else (lambda *cases: cases)
    yield call, (200,)
    for size in (
        *[(128, 256, 256, 4), (128, 256, 1024, 2), (128, 256, 2048, 2), (64, 128, 128, 8), (256, 512, 1408, 1)],
        *more((512, 512, 2048, 1), (128, 256, 768, 4), (64, 256, 256, 8), (256, 512, 512, 4), (64, 1024, 2048, 2)),
        *more((1024, 512, 2048, 1), (2048, 1024, 1024, 1)),
    ):
        yield linear, size
    for size in (
        *[(1, 4, 128, 64, 8), (1, 8, 256, 64, 2), (4, 4, 128, 64, 2), (1, 4, 64, 64, 8)],
        *more((1, 8, 512, 64, 2), (2, 8, 256, 64, 2), (8, 4, 256, 64, 1), (1, 12, 1024, 64, 1)),
    ):
        yield attention, size
    for tokens, width, count in ((32, 128, 8), (128, 256, 8), (512, 512, 4), *more((256, 512, 8), (2048, 1024, 2))):
        yield normalization, ("layer_norm", tokens, width, count)
        yield normalization, ("rms_norm", tokens, width, count)
        yield residual_add, (tokens, width, count)
        yield gelu, (tokens, 4 * width, max(1, count // 2))
        yield silu_mul, (tokens, 4 * width, max(1, count // 2))
        yield rotary, (tokens, width, 64, count)
    for size in ((128, 2048, 4), (256, 8192, 1), *more((64, 512, 8), (512, 2048, 2), (1024, 8192, 1))):
        yield loss, size
    for size in ((128, 2048, 256, 2), (128, 256, 256, 4), *more((256, 8192, 512, 2))):
        yield embedding, size
    for size in ((1 << 14, 16), (1 << 17, 8), (1 << 20, 4)):
        yield accumulation, size
    for elements in (1 << 16, 1 << 21) if quick else (1 << 16, 1 << 19, 1 << 22):
        yield optimizer, (elements, 16)
