"""Batches on the device of the state."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from functional_train.values import tree


def place(batch: Any, device: torch.device | None) -> Any:
    """Move the tensors of a batch to a device; a batch that is there already is returned as it is.

    Mappings of classes that optree does not know (a tokenizer's `BatchEncoding`) are moved by their own `to`, or become
    dicts.
    """
    if device is None or _is_there(batch, device):
        return batch
    return tree.map(lambda leaf: _place_leaf(leaf, device), batch)


def _is_there(batch: Any, device: torch.device) -> bool:
    return all(
        leaf.device == device
        if isinstance(leaf, Tensor)
        else not isinstance(leaf, Mapping) or _is_there(dict(leaf), device)
        for leaf in tree.leaves(batch)
    )


def _place_leaf(leaf: Any, device: torch.device) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.to(device, non_blocking=True)
    if isinstance(leaf, Mapping):
        # A BatchEncoding moves itself, so it is a copy that is asked to.
        own = getattr(copy.copy(leaf), "to", None)
        return own(device) if callable(own) else place(dict(leaf), device)
    return leaf
