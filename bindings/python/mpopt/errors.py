"""What goes wrong, said in one sentence."""

from __future__ import annotations

__all__ = ["PlanError", "require_torch"]


class PlanError(RuntimeError):
    """The plan does not fit the ranks, the model or the batch."""


def require_torch() -> None:
    """Raises ImportError where PyTorch cannot be imported: reading and checking a plan goes without it."""
    try:
        import torch.distributed  # noqa: F401
    except ImportError as error:
        message = f"Expected PyTorch 2.4 or newer to apply a plan but found none ({error}): pip install torch"
        raise ImportError(message) from error
