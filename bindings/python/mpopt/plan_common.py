"""What the modules that apply a plan share."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import PlanError

try:
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
except ImportError:  # PyTorch 2.4
    from torch.distributed._tensor import DTensor, Partial, Replicate, Shard

__all__ = ["DTYPES", "DTensor", "Partial", "PlanError", "Replicate", "Shard", "local"]

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def local(parameter: Tensor) -> Tensor:
    """The part of a parameter that this rank stores."""
    with torch.no_grad():
        return parameter.to_local() if isinstance(parameter, DTensor) else parameter
