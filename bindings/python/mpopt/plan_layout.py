"""Where the part of a parameter that a rank holds lies in the whole one, whatever divides it."""

from __future__ import annotations

import itertools
import math
from typing import Iterator, NamedTuple, Sequence

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from .plan_common import DTensor, local

__all__ = ["Layout", "Piece", "find_layouts"]


class Box(NamedTuple):
    """A block of a tensor: where it begins and how far it reaches on each of its dimensions."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class Piece(NamedTuple):
    """A view of values that a rank holds, and where they begin in the whole tensor."""

    offsets: tuple[int, ...]
    values: Tensor


class Layout:
    """
    How tensor parallelism divides one parameter. `boxes` pairs blocks of this rank's part with the places that they
    have in the whole parameter of `shape`; a fused projection has one for each of those it joins.
    """

    def __init__(self, name: str, shape: Sequence[int], part: Sequence[int], boxes: list[tuple[Box, tuple[int, ...]]]):
        """`name` is the parameter's in the whole model, the first one where modules share it; `part` a rank's shape."""
        self.name, self.shape, self.part, self.boxes = name, tuple(shape), tuple(part), boxes

    @classmethod
    def of_whole(cls, name: str, shape: Sequence[int]) -> Layout:
        """The layout of what every rank holds whole."""
        nothing = (0,) * len(shape)
        return cls(name, shape, shape, [(Box(nothing, tuple(shape)), nothing)])

    def pieces(self, values: Tensor, start: int = 0) -> list[Piece]:
        """
        The places of values that a rank holds: of the flat elements of its part from `start` on, as many as there are
        in `values` (a contiguous tensor of any shape).
        """
        flat, found = values.detach().view(-1), []
        for held in boxes_of_range(self.part, start, start + flat.numel()):
            at = flat_index(self.part, held.offsets) - start
            block = flat[at : at + math.prod(held.sizes)].view(held.sizes)
            for box, place in self.boxes:
                common = intersection(held, box)
                if common is None:
                    continue
                view = block
                for dim, (low, size) in enumerate(zip(common.offsets, common.sizes)):
                    view = view.narrow(dim, low - held.offsets[dim], size)
                offsets = (p + low - first for p, low, first in zip(place, common.offsets, box.offsets))
                found.append(Piece(tuple(offsets), view))
        return found


def find_layouts(
    model: nn.Module, ties: list[list[str]], fused: dict[str, list[int]], mesh: DeviceMesh
) -> dict[str, Layout]:
    """
    The layout of every parameter of a stage, by its name there, after tensor parallelism and before any other.
    `ties` are the names that the whole model shares, `fused` the rows of each projection in a fused one.
    """
    first = {name: group[0] for group in ties for name in group}
    rank, ranks = mesh.get_local_rank("tensor"), mesh["tensor"].size()
    found = {}
    for name, parameter in model.named_parameters():
        shape, part = parameter.shape, local(parameter).shape
        layout = Layout.of_whole(first.get(name, name), shape)
        sections = fused.get(name.rpartition(".")[0])
        placement = parameter.placements[0] if isinstance(parameter, DTensor) else None
        if placement is not None and placement.is_shard():
            boxes = list(shard_boxes(sections or [shape[placement.dim]], part, placement.dim, rank, ranks))
            layout = Layout(layout.name, shape, part, boxes)
        found[name] = layout
    return found


def shard_boxes(
    sections: list[int], part: Sequence[int], dim: int, rank: int, ranks: int
) -> Iterator[tuple[Box, tuple[int, ...]]]:
    """The parts that a rank has of each section of dimension `dim`, divided as torch.chunk does."""
    here = 0
    for before, section in zip(itertools.accumulate([0, *sections]), sections):
        share = math.ceil(section / ranks)
        low, high = min(rank * share, section), min((rank + 1) * share, section)
        if low < high:
            sizes = (*part[:dim], high - low, *part[dim + 1 :])
            inside = tuple(here if i == dim else 0 for i in range(len(part)))
            yield Box(inside, sizes), tuple(before + low if i == dim else 0 for i in range(len(part)))
        here += high - low


def boxes_of_range(shape: tuple[int, ...], start: int, end: int) -> Iterator[Box]:
    """Blocks that hold the flat elements [start, end) of a contiguous tensor, in their order."""
    if start >= end:
        return
    if not shape:
        yield Box((), ())
        return
    row = math.prod(shape[1:])
    while start < end:
        at, inside = divmod(start, row)
        if inside or end - start < row:
            stop = min(end, (at + 1) * row)
            for box in boxes_of_range(shape[1:], inside, stop - at * row):
                yield Box((at, *box.offsets), (1, *box.sizes))
        else:
            rows = (end - start) // row
            stop = start + rows * row
            yield Box((at, *(0,) * (len(shape) - 1)), (rows, *shape[1:]))
        start = stop


def intersection(a: Box, b: Box) -> Box | None:
    offsets = tuple(map(max, a.offsets, b.offsets))
    ends = (min(x + m, y + n) for x, m, y, n in zip(a.offsets, a.sizes, b.offsets, b.sizes))
    sizes = tuple(end - offset for end, offset in zip(ends, offsets))
    return Box(offsets, sizes) if all(size > 0 for size in sizes) else None


def flat_index(shape: tuple[int, ...], offsets: tuple[int, ...]) -> int:
    return sum(offset * math.prod(shape[dim + 1 :]) for dim, offset in enumerate(offsets))
