"""What can be wrong with a run, read from its records and its errors."""

from collections.abc import Mapping

import torch
from torch import Tensor


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the host had no memory left; for the host torch has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def not_finite(chunk: Mapping[str, Tensor]) -> Tensor:
    """Where the loss is infinite or nan, in a step that was not skipped for it."""
    if "loss" not in chunk:
        return torch.empty(0, 1, dtype=torch.int64, device="cpu")
    bad = ~torch.isfinite(chunk["loss"])
    skipped = chunk.get("skipped")
    if skipped is not None and skipped.shape == bad.shape:
        bad &= skipped == 0
    return bad.nonzero()


def skipped_in_a_row(chunk: Mapping[str, Tensor], before: int) -> int:
    """How many steps up to the last one were skipped."""
    skipped = chunk.get("skipped")
    if skipped is None or skipped.ndim != 1:
        return 0 if "loss" in chunk else before
    taken = (skipped == 0).nonzero()
    return before + len(skipped) if len(taken) == 0 else len(skipped) - 1 - int(taken[-1])
