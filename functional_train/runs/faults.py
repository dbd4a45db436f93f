"""What can be wrong with a run, read from its records and its errors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from functional_train.steps.skipping import SkippingState


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


def skipped_in_a_row(state: Any) -> int:
    """How many steps in a row were skipped, as the state counts them; of several members, by each of them."""
    faults = getattr(state, "opt_state", None)
    return int(faults.num_consecutive.min()) if isinstance(faults, SkippingState) else 0
