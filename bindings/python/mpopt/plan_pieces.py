"""Tensors of a checkpoint in pieces, as torch.distributed.checkpoint writes and reads them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from .plan_layout import Piece

__all__ = ["PieceLoadPlanner", "PieceSavePlanner", "Pieces"]


@dataclasses.dataclass(frozen=True)
class Pieces:
    """What this rank holds of one tensor of a checkpoint."""

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


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
