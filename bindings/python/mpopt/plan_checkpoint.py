"""
Checkpoints that outlive a change of plan: torch.distributed.checkpoint with the names and shapes of the whole model.

A folder holds `model.NAME` and `optimizer.state.NAME.KEY` as PyTorch's own checkpoints call them, so that `dcp.load`
reads it into an unsharded model, and `mpopt.json`: the optimizer's options and what the script adds.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from typing import TYPE_CHECKING, Any, Callable, Iterator, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from .errors import PlanError
from .plan_common import local
from .plan_layout import Layout, Piece
from .plan_pieces import PieceLoadPlanner, PieceSavePlanner, Pieces

if TYPE_CHECKING:
    from .planned import Planned

__all__ = ["load", "save"]

SCHEMA = "mpopt.checkpoint/1"
NOTES = "mpopt.json"
STATE = "optimizer.state."


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
    state = together(lambda: state_to_save(planned))
    dcp.save(state, storage_writer=dcp.FileSystemWriter(partial), planner=PieceSavePlanner())

    optimizer, names = planned.data_parallel.optimizer, optimizer_names(planned)
    options = {
        names[index].layout.name: plain_options(group)
        for group in (optimizer.state_dict()["param_groups"] if optimizer else [])
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


def state_to_save(planned: Planned) -> dict[str, Any]:
    """What this rank writes, nested as PyTorch's own checkpoints are."""
    model = {held.layout.name: held.pieces() for held in held_values(planned) if held.writes}
    optimizer, names = planned.data_parallel.optimizer, optimizer_names(planned)
    states = {}
    for index, found in (optimizer.state_dict()["state"] if optimizer else {}).items():
        held = names[index]
        if held.writes:
            values = {key: value for key, value in found.items() if value is not None}
            states[held.layout.name] = {key: state_pieces(held, key, value) for key, value in values.items()}
    return {"model": model, "optimizer": {"state": states}}


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


def load(planned: Planned, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """See `Planned.load`."""
    reading = together(lambda: Reading(planned, os.path.abspath(folder)))
    dcp.load(reading.wanted, storage_reader=reading.reader, planner=PieceLoadPlanner())
    reading.finish()
    return reading.notes["extra"]


class Reading:
    """What a rank takes from a checkpoint."""

    def __init__(self, planned: Planned, folder: str):
        """Raises PlanError where the checkpoint does not have it."""
        if not os.path.exists(folder) and os.path.exists(f"{folder}.previous"):
            folder = f"{folder}.previous"  # a save was cut off while it replaced this one
        if not os.path.exists(os.path.join(folder, ".metadata")):
            raise PlanError(f"Expected a checkpoint at {folder} but found none.")
        self.data_parallel, self.optimizer = planned.data_parallel, planned.data_parallel.optimizer
        self.folder, self.reader, self.notes = folder, dcp.FileSystemReader(folder), read_notes(folder)
        self.saved = self.reader.read_metadata().state_dict_metadata
        kind = type(self.optimizer).__name__
        if self.optimizer and self.notes["optimizer"] not in (None, kind):
            raise PlanError(
                f"Expected the state of {kind} in the checkpoint at {folder} but found {self.notes['optimizer']}'s."
            )
        self.wanted: dict[str, Pieces] = {}
        for held in held_values(planned):
            self.want(f"model.{held.layout.name}", held, held.values)
        self.names = optimizer_names(planned)
        self.states = {index: states for index, held in self.names.items() if (states := self.states_of(held))}

    def want(self, name: str, held: Held, values: Tensor) -> None:
        found, shape = self.saved.get(name), held.layout.shape
        if not isinstance(found, TensorStorageMetadata) or tuple(found.size) != shape:
            what = f"shape {list(found.size)}" if isinstance(found, TensorStorageMetadata) else "none"
            raise PlanError(
                f"Expected {name} of shape {list(shape)} in the checkpoint at {self.folder} but found {what}."
            )
        self.wanted[name] = held.pieces(values)

    def states_of(self, held: Held) -> dict[str, Tensor]:
        """Room for the states of one parameter; none where the checkpoint was written before the first step."""
        states = {}
        for key in self.saved_keys.get(held.layout.name, []):
            name = f"{STATE}{held.layout.name}.{key}"
            dtype = self.saved[name].properties.dtype
            if not self.saved[name].size and (key == "step" or held.layout.shape):
                states[key] = torch.zeros((), dtype=dtype)
                self.wanted[name] = Pieces((), (Piece((), states[key]),))
            else:
                states[key] = torch.zeros_like(held.values.detach(), dtype=dtype)
                self.want(name, held, states[key])
        return states

    @functools.cached_property
    def saved_keys(self) -> dict[str, list[str]]:
        """What the checkpoint has of the optimizer, by parameter."""
        keys: dict[str, list[str]] = {}
        for name in self.saved:
            if name.startswith(STATE):
                parameter, _, key = name[len(STATE) :].rpartition(".")
                keys.setdefault(parameter, []).append(key)
        return keys

    def finish(self) -> None:
        """Gives the optimizer what was read, and the weights the values of its masters."""
        if self.optimizer:
            groups = self.optimizer.state_dict()["param_groups"]
            for group in groups:
                here = [self.names[index].layout.name for index in group["params"] if index in self.names]
                restore_options(group, here[:1], self.notes)
            self.optimizer.load_state_dict({"state": self.states, "param_groups": groups})
        self.data_parallel.take()


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
    together(lambda: work() if dist.get_rank() == 0 else None)


def together(work: Callable[[], Any]) -> Any:
    """Does something on every rank; an error on one is raised on all, so that none waits for it."""
    done, said = None, None
    try:
        done = work()
    except (OSError, TypeError, ValueError, PlanError) as error:
        said = str(error)
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, said)
    for found in everywhere:
        if found is not None:
            raise PlanError(found)
    return done
