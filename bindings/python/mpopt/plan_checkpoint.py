"""
Checkpoints that outlive a change of plan: torch.distributed.checkpoint with the names and shapes of the whole model.

A folder holds `model.NAME` and `optimizer.state.NAME.KEY` as PyTorch's own checkpoints call them, so that `dcp.load`
reads it into an unsharded model, and `mpopt.json`: the optimizer's options and what the script adds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from typing import TYPE_CHECKING, Any, Callable, Iterator, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from .errors import PlanError
from .plan_common import local
from .plan_layout import Layout, Piece

if TYPE_CHECKING:
    from .planned import Planned

__all__ = ["load", "save"]

SCHEMA = "mpopt.checkpoint/1"
NOTES = "mpopt.json"
STATE = "optimizer.state."


@dataclasses.dataclass(frozen=True)
class Pieces:
    """What this rank holds of one tensor of a checkpoint."""

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


class Held(NamedTuple):
    """Values of one parameter or buffer that this rank holds: the flat elements of its part from `start` on."""

    layout: Layout
    values: Tensor
    start: int
    trained: bool
    #: Whether this rank writes them: of a parameter that stages share, one stage does.
    writes: bool

    def pieces(self, values: Tensor | None = None) -> Pieces:
        """The places of the values, or of others that belong to the same elements."""
        given = self.values if values is None else values
        return Pieces(self.layout.shape, tuple(self.layout.pieces(given, self.start)))


# What a rank holds


def held_values(planned: Planned) -> Iterator[Held]:
    parts = planned.data_parallel.parts()
    for name, parameter in planned.model.named_parameters():
        layout = planned.layouts[name]
        values, start = parts.get(name, (None, 0))
        if not parameter.requires_grad:
            values, start = local(parameter), planned.data_parallel.start_of(name)
        if values is not None and values.numel():
            yield Held(layout, values, start, parameter.requires_grad, layout.name == name)
    for path, module in planned.model.named_modules():
        for leaf, buffer in module._buffers.items():
            if buffer is not None and leaf not in module._non_persistent_buffers_set:
                name = f"{path}.{leaf}" if path else leaf
                yield Held(Layout.of_whole(name, local(buffer).shape), local(buffer), 0, False, True)


def optimizer_names(planned: Planned) -> dict[int, Held]:
    """What the optimizer updates, by its index in the optimizer's state dict."""
    by_tensor = {id(held.values): held for held in held_values(planned) if held.trained}
    optimizer = planned.data_parallel.optimizer
    tensors = [tensor for group in optimizer.param_groups for tensor in group["params"]] if optimizer else []
    return {i: by_tensor[id(tensor)] for i, tensor in enumerate(tensors) if id(tensor) in by_tensor}


# Saving


class PieceSavePlanner(dcp.DefaultSavePlanner):
    """Writes `Pieces`; of equal ones that several ranks hold, one rank's."""

    def create_local_plan(self) -> SavePlan:
        self.views: dict[MetadataIndex, Tensor] = {}
        items = []
        for name, held in self.state_dict.items():
            for offsets, values in held.pieces:
                index = MetadataIndex(name, torch.Size(offsets))
                self.views[index] = values
                data = TensorWriteData(
                    chunk=ChunkStorageMetadata(torch.Size(offsets), values.shape),
                    properties=TensorProperties.create_from_tensor(values),
                    size=torch.Size(held.shape),
                )
                items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
        self.plan = SavePlan(items, planner_data=self.mappings)
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Any:
        return self.views[index]


def save(planned: Planned, folder: str | os.PathLike[str], extra: dict[str, Any]) -> None:
    """See `Planned.save`."""
    folder = os.path.abspath(folder)
    partial = f"{folder}.partial"

    def prepare() -> None:
        if os.path.isdir(folder) and os.listdir(folder) and not os.path.exists(os.path.join(folder, ".metadata")):
            raise PlanError(f"Expected a checkpoint or nothing at {folder} to replace but found other files.")
        json.dumps(extra)
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(partial)

    on_first_rank(prepare)
    model, state = {}, {}
    for held in held_values(planned):
        if held.writes:
            model[held.layout.name] = held.pieces()
    optimizer = planned.data_parallel.optimizer
    packed = optimizer.state_dict() if optimizer else {"state": {}, "param_groups": []}
    names = optimizer_names(planned)
    for index, values in packed["state"].items():
        held = names[index]
        if held.writes:
            found = {key: value for key, value in values.items() if value is not None}
            state[held.layout.name] = {key: state_pieces(held, key, value) for key, value in found.items()}
    writer = dcp.FileSystemWriter(partial)
    dcp.save({"model": model, "optimizer": {"state": state}}, storage_writer=writer, planner=PieceSavePlanner())

    options = {
        names[index].layout.name: plain_options(group)
        for group in packed["param_groups"]
        for index in group["params"]
        if index in names
    }
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, (type(optimizer).__name__ if optimizer else None, options))

    def finish() -> None:
        notes = {
            "schema": SCHEMA,
            "plan": planned.plan["name"],
            "torch": torch.__version__,
            "optimizer": next((kind for kind, _ in everywhere if kind), None),
            **merge_options([options for _, options in everywhere]),
            "extra": extra,
        }
        with open(os.path.join(partial, NOTES), "w", encoding="utf-8") as file:
            json.dump(notes, file)
        previous = f"{folder}.previous"
        if os.path.isdir(folder):
            shutil.rmtree(previous, ignore_errors=True)
            os.rename(folder, previous)
        os.rename(partial, folder)
        shutil.rmtree(previous, ignore_errors=True)

    on_first_rank(finish)


def state_pieces(held: Held, key: str, value: Any) -> Pieces:
    """One state of a parameter: its elements, or a number (the step)."""
    if isinstance(value, Tensor) and value.numel() == held.values.numel() and (value.ndim or key != "step"):
        return held.pieces(value)
    if isinstance(value, (int, float)) or isinstance(value, Tensor) and value.ndim == 0:
        return Pieces((), (Piece((), torch.as_tensor(value)),))
    raise PlanError(
        f"Expected an optimizer that works element by element, to save its state, but its {key} of "
        f"{held.layout.name} is none."
    )


def plain_options(group: dict[str, Any]) -> dict[str, Any]:
    """The options of a parameter group that JSON holds."""
    plain = {key: value.item() if isinstance(value, Tensor) else value for key, value in group.items()}
    return {
        key: value
        for key, value in plain.items()
        if value is None or isinstance(value, (bool, int, float, str)) or key == "betas"
    }


def merge_options(found: list[dict[str, dict]]) -> dict[str, Any]:
    """Every distinct set of options once, and which of them each parameter has."""
    groups: list[dict] = []
    parameters = {}
    for options in found:
        for name, group in options.items():
            group = json.loads(json.dumps(group))
            if group not in groups:
                groups.append(group)
            parameters[name] = groups.index(group)
    return {"groups": groups, "parameters": parameters}


# Loading


class PieceLoadPlanner(dcp.DefaultLoadPlanner):
    """Reads what `Pieces` hold."""

    def set_up_planner(self, state_dict: dict[str, Any], metadata: Any = None, is_coordinator: bool = False) -> None:
        self.state_dict, self.metadata, self.is_coordinator = state_dict, metadata, is_coordinator

    def create_local_plan(self) -> LoadPlan:
        self.views: dict[MetadataIndex, Tensor] = {}
        items = []
        for name, held in self.state_dict.items():
            chunks = []
            for offsets, values in held.pieces:
                self.views[MetadataIndex(name, torch.Size(offsets))] = values
                chunks.append(ChunkStorageMetadata(torch.Size(offsets), values.shape))
            items += create_read_items_for_chunk_list(name, self.metadata.state_dict_metadata[name], chunks)
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self.views[index]


def load(planned: Planned, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """See `Planned.load`."""
    folder = os.path.abspath(folder)
    if not os.path.exists(folder) and os.path.exists(f"{folder}.previous"):
        folder = f"{folder}.previous"  # a save was cut off while it replaced this one
    if not os.path.exists(os.path.join(folder, ".metadata")):
        raise PlanError(f"Expected a checkpoint at {folder} but found none.")
    reader = dcp.FileSystemReader(folder)
    saved = reader.read_metadata().state_dict_metadata
    notes = read_notes(folder)
    optimizer = planned.data_parallel.optimizer
    if optimizer and notes["optimizer"] not in (None, type(optimizer).__name__):
        raise PlanError(
            f"Expected the state of {type(optimizer).__name__} in the checkpoint at {folder} but found "
            f"{notes['optimizer']}'s."
        )

    wanted = {}
    for held in held_values(planned):
        name = f"model.{held.layout.name}"
        require_shape(saved, name, held.layout.shape, folder)
        wanted[name] = held.pieces()
    names, states = optimizer_names(planned), {}
    keys: dict[str, list[str]] = {}
    for name in saved:
        if name.startswith(STATE):
            parameter, _, key = name[len(STATE) :].rpartition(".")
            keys.setdefault(parameter, []).append(key)
    for index, held in names.items():
        for key in keys.get(held.layout.name, []):
            name = f"{STATE}{held.layout.name}.{key}"
            scalar = not saved[name].size and (key == "step" or held.layout.shape != ())
            if not scalar:
                require_shape(saved, name, held.layout.shape, folder)
            like = torch.zeros(()) if scalar else held.values.detach()
            value = torch.zeros_like(like, dtype=saved[name].properties.dtype)
            states.setdefault(index, {})[key] = value
            wanted[name] = Pieces((), (Piece((), value),)) if scalar else held.pieces(value)
    dcp.load(wanted, storage_reader=reader, planner=PieceLoadPlanner())

    if optimizer:
        groups = optimizer.state_dict()["param_groups"]
        for group in groups:
            here = [names[index].layout.name for index in group["params"] if index in names]
            restore_options(group, here[:1], notes)
        optimizer.load_state_dict({"state": states, "param_groups": groups})
    planned.data_parallel.take()
    return notes["extra"]


def read_notes(folder: str) -> dict[str, Any]:
    """What `save` noted beside the tensors; nothing in checkpoints of PyTorch's own."""
    path = os.path.join(folder, NOTES)
    if not os.path.exists(path):
        return {"optimizer": None, "groups": [], "parameters": {}, "extra": {}}
    with open(path, encoding="utf-8") as file:
        notes = json.load(file)
    if notes.get("schema") != SCHEMA:
        raise PlanError(f"Expected {SCHEMA} at {path} but found {notes.get('schema')!r}.")
    return notes


def require_shape(saved: dict[str, Any], name: str, shape: tuple[int, ...], folder: str) -> None:
    found = saved.get(name)
    if not isinstance(found, TensorStorageMetadata) or tuple(found.size) != shape:
        what = f"shape {list(found.size)}" if isinstance(found, TensorStorageMetadata) else "none"
        raise PlanError(f"Expected {name} of shape {list(shape)} in the checkpoint at {folder} but found {what}.")


def restore_options(group: dict[str, Any], names: list[str], notes: dict[str, Any]) -> None:
    """Gives a group the options that these parameters had, those that say how the optimizer runs excepted."""
    for name in names:
        saved = notes["groups"][notes["parameters"][name]] if name in notes["parameters"] else {}
        for key, value in saved.items():
            if isinstance(group.get(key), Tensor):
                group[key] = torch.full_like(group[key], value)
            elif key not in ("fused", "foreach", "capturable", "differentiable"):
                group[key] = tuple(value) if isinstance(value, list) else value


def on_first_rank(work: Callable[[], None]) -> None:
    """Does something on one rank; an error there is raised on all."""
    said: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            work()
        except (OSError, TypeError, ValueError, PlanError) as error:
            said[0] = str(error)
    dist.broadcast_object_list(said)
    if said[0] is not None:
        raise PlanError(said[0])
