"""Numbers that sum up whole trees."""

from typing import Any

import torch
from torch import Tensor

from functional_train.values.tree._flat import Flat, is_plain
from functional_train.values.tree._structure import flatten, is_floating, leaves, map, unflatten

_WIDE = frozenset({torch.float32, torch.float64, torch.complex64, torch.complex128})


def global_norm(tree: Any, ord: float = 2) -> Tensor:
    """Compute the norm of all leaves taken as one vector.

    Args:
        tree: A tree of tensors; `None` counts as zero.
        ord: Power of the norm, above 0; infinity gives the largest size.

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
    found = _norms(parts, ord)
    return torch.linalg.vector_norm(torch.stack([norm.to(found[0].device) for norm in found]), ord)


def norms(tree: Any) -> Any:
    """Compute the Euclidean norm of each leaf.

    Args:
        tree: A tree of tensors.

    Returns:
        A tree of real 0-d tensors, in float32 at least.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.norms({"w": torch.tensor([3.0, 4.0]), "b": torch.tensor(-1.0)})
        {'w': tensor(5.), 'b': tensor(1.)}
    """
    if isinstance(tree, Flat):
        return Flat(_norms(tree.leaves, 2), tree.frame, tree.plain)
    parts, structure = flatten(tree)
    return unflatten(structure, _norms(parts, 2))


def _norms(parts: list[Tensor], ord: float) -> list[Tensor]:
    wide = [leaf if leaf.dtype in _WIDE else leaf.float() for leaf in parts]
    if wide and is_plain([wide]):
        return list(torch._foreach_norm(wide, ord))
    return [torch.linalg.vector_norm(leaf, ord) for leaf in wide]


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


def all_finite(tree: Any) -> Tensor:
    """Say whether no number of a tree is infinite or nan, without waiting for the device.

    Args:
        tree: A tree of tensors.

    Returns:
        A 0-d bool tensor; True for an empty tree.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.all_finite({"w": torch.tensor([1.0, float("nan")])})
        tensor(False)
    """
    parts = [leaf for leaf in leaves(tree) if leaf.numel() > 0 and is_floating(leaf)]
    if not parts:
        return torch.ones((), dtype=torch.bool)
    # The largest size is nan where any number is, and takes one pass without a mask as large as the leaf.
    largest = _norms([leaf.detach() for leaf in parts], float("inf"))
    return torch.stack([torch.isfinite(number).to(largest[0].device) for number in largest]).all()
