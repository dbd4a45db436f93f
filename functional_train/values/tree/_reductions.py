"""Numbers that sum up whole trees."""

from typing import Any

import torch
from torch import Tensor

from functional_train.values.tree._flat import Flat
from functional_train.values.tree._structure import leaves, map

_WIDE = frozenset({torch.float32, torch.float64, torch.complex64, torch.complex128})


def global_norm(tree: Any) -> Tensor:
    """Compute the Euclidean norm of all leaves taken as one vector.

    Args:
        tree: A tree of tensors; `None` counts as zero.

    Returns:
        A real 0-d tensor, in float32 at least; 0 for an empty tree.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.global_norm({"w": torch.tensor([3.0]), "b": torch.tensor(4.0)})
        tensor(5.)
    """
    parts = [leaf for leaf in leaves(tree) if leaf.numel() > 0]
    if not parts:
        return torch.zeros(())
    wide = [leaf if leaf.dtype in _WIDE else leaf.float() for leaf in parts]
    norms = [torch.linalg.vector_norm(leaf) for leaf in wide]
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))


def vdot(first: Any, second: Any) -> Tensor:
    """Compute the inner product of two trees taken as vectors; the first is conjugated.

    Args:
        first: A tree of tensors.
        second: A tree like `first`.

    Returns:
        A 0-d tensor; 0 for an empty tree.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.vdot({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 4.0])})
        tensor(11.)
    """
    products = leaves(map(lambda a, b: torch.sum(a.conj() * b), first, second))
    return torch.stack(products).sum() if products else torch.zeros(())


def norms(column: Flat) -> Tensor:
    """The Euclidean norm of each leaf of a column: shape `(n,)`, real, in float32 at least."""
    if not column.leaves:
        return torch.zeros(0)
    if column.plain and all(leaf.dtype in _WIDE for leaf in column.leaves):
        return torch.stack(torch._foreach_norm(column.leaves))
    wide = [leaf if leaf.dtype in _WIDE else leaf.float() for leaf in column.leaves]
    return torch.stack([torch.linalg.vector_norm(leaf) for leaf in wide])
