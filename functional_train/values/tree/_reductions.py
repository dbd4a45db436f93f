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


def rms(tree: Any) -> Any:
    """Compute the root mean square of each leaf.

    Args:
        tree: A tree of tensors.

    Returns:
        A tree of real 0-d tensors, in float32 at least; 0 for a leaf without elements.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.rms({"w": torch.tensor([3.0, -3.0]), "b": torch.tensor(-1.0)})
        {'w': tensor(3.), 'b': tensor(1.)}
    """
    if isinstance(tree, Flat):
        return Flat(_rms(tree.leaves), tree.frame, tree.plain)
    parts, structure = flatten(tree)
    return unflatten(structure, _rms(parts))


def _rms(parts: list[Tensor]) -> list[Tensor]:
    found, roots = _norms(parts, 2), [max(leaf.numel(), 1) ** 0.5 for leaf in parts]
    if found and is_plain([found]):
        return list(torch._foreach_div(found, roots))
    return [norm / root for norm, root in zip(found, roots, strict=True)]


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
    parts = [numbers for numbers in [_numbers(leaf) for leaf in leaves(tree)] if numbers is not None]
    return _are_finite(parts).all() if parts else torch.ones((), dtype=torch.bool)


def finite_leaves(found: list[Any]) -> Tensor:
    """Which leaves hold finite numbers only, as a bool tensor with one entry a leaf; what is no tensor does."""
    numbers = [_numbers(leaf) for leaf in found]
    measured = {place: part for place, part in enumerate(numbers) if part is not None}
    if not measured:
        return torch.ones(len(found), dtype=torch.bool)
    finite = _are_finite(list(measured.values())).all(1)
    if len(measured) == len(found):
        return finite
    rows = dict(zip(measured, finite, strict=True))
    return torch.stack([rows.get(place, torch.ones_like(finite[0])) for place in range(len(found))])


def _numbers(leaf: Any) -> Tensor | None:
    """Those numbers of a leaf that can be infinite, if it has any."""
    if not is_floating(leaf):
        return None
    numbers = leaf.coalesce().values() if leaf.layout == torch.sparse_coo else leaf
    return numbers if numbers.numel() > 0 else None


def _are_finite(parts: list[Tensor]) -> Tensor:
    """Whether numbers that tell about all of a part are finite, a row for each part."""
    if is_plain([parts]):
        # Both ends are nan where any number is; this is the fastest pass that tells.
        real = [torch.view_as_real(leaf) if leaf.is_complex() else leaf for leaf in parts]
        ends = [end for leaf in real for end in torch.aminmax(leaf.detach())]
    else:
        ends = _norms([leaf.detach() for leaf in parts], float("inf"))
    return torch.isfinite(torch.stack([end.to(ends[0].device) for end in ends])).reshape(len(parts), -1)
