"""Trees made from trees: zeros, copies, other devices and dtypes, stacks and vectors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from functional_train.values.errors import StructureError
from functional_train.values.tree._structure import (
    check_same_structure,
    flatten,
    is_floating,
    leaves,
    map,
    not_tensor,
    tensors,
    unflatten,
)


def zeros_like(tree: Any, *, dtype: torch.dtype | None = None) -> Any:
    """Make a tree of zeros.

    Args:
        tree: A tree of tensors.
        dtype: Of the zeros; by default that of each leaf.

    Returns:
        A tree with the structure, shapes and devices of `tree`.

    Raises:
        StructureError: a leaf is no tensor; the message names it.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.zeros_like({"w": torch.ones(2)})
        {'w': tensor([0., 0.])}
    """
    try:
        return map(lambda leaf: torch.zeros_like(leaf, dtype=dtype), tree)
    except TypeError as error:
        found = not_tensor(tree)
        if found is None:
            raise
        path, leaf = found
        place = f" at {path!r}" if path else ""
        raise StructureError(
            f"a tree of tensors was expected, got a {type(leaf).__name__}{place}. "
            "Of a module, pass ft.functionalize(module).params."
        ) from error


def copy(tree: Any) -> Any:
    """Copy every tensor of a tree into memory of its own.

    Args:
        tree: Any tree; leaves that are not tensors are kept as they are.

    Returns:
        A tree that shares no memory with `tree`.

    Example:
        >>> import functional_train as ft, torch
        >>> weight = torch.zeros(1)
        >>> ft.tree.copy({"w": weight})["w"] is weight
        False
    """
    return map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


def to(tree: Any, target: torch.device | torch.dtype | str, *, non_blocking: bool = False) -> Any:
    """Move the tensors of a tree to a device, or convert its floating leaves to a dtype.

    Args:
        tree: Any tree; leaves that are not tensors are kept as they are.
        target: A device (or its name), for every tensor; or a dtype, for floating and complex tensors only, as
            `nn.Module.to` does.
        non_blocking: Whether a copy between devices may overlap with computation.

    Returns:
        A tree with the structure of `tree`. Leaves that are already there are the same tensors.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.to({"w": torch.ones(1), "n": torch.tensor(3)}, torch.float64)
        {'w': tensor([1.], dtype=torch.float64), 'n': tensor(3)}
    """
    if isinstance(target, torch.dtype):
        return map(lambda leaf: leaf.to(target) if is_floating(leaf) else leaf, tree)
    device = torch.device(target)
    return map(
        lambda leaf: leaf.to(device, non_blocking=non_blocking) if isinstance(leaf, Tensor) else leaf,
        tree,
    )


def stack(trees: Sequence[Any]) -> Any:
    """Stack trees of one structure along a new leading dimension.

    Args:
        trees: At least one tree of tensors; equal structures and shapes.

    Returns:
        A tree whose leaves have shape `(len(trees), *shape)`.

    Raises:
        StructureError: there are no trees, or their structures differ.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.stack([{"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)}])
        {'w': tensor([1., 2.])}
    """
    if not trees:
        raise StructureError("stack was given no trees: the shape of nothing is not known. Pass at least one tree.")
    for position, other in enumerate(trees):
        check_same_structure(trees[0], other, ("tree 0", f"tree {position}"), "Stacked trees need one structure.")
    structure = flatten(trees[0])[1]
    columns = zip(*(leaves(tree) for tree in trees), strict=True)
    return unflatten(structure, [torch.stack([torch.as_tensor(leaf) for leaf in column]) for column in columns])


def unstack(tree: Any) -> list[Any]:
    """Split a tree along the leading dimension of its leaves; the inverse of `stack`.

    Args:
        tree: A tree of tensors whose leading dimensions agree.

    Returns:
        One tree for each entry of the leading dimension.

    Raises:
        StructureError: the tree holds no tensor, a leaf is 0-d, or leading dimensions differ.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.unstack({"w": torch.tensor([1.0, 2.0])})
        [{'w': tensor(1.)}, {'w': tensor(2.)}]
    """
    columns, structure = flatten(tree)
    sizes = {tuple(leaf.shape[:1]) for leaf in columns}
    if len(sizes) != 1 or sizes == {()}:
        raise StructureError(
            f"unstack needs leaves with one leading dimension, got leading sizes {sorted(sizes)}. "
            "Unstack what `stack` or `vmap` made."
        )
    return [unflatten(structure, row) for row in zip(*(leaf.unbind(0) for leaf in columns), strict=True)]


def ravel(tree: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Lay a tree out as one vector.

    Args:
        tree: A tree of tensors.

    Returns:
        The vector, of shape `(total,)` and the leaves' promoted dtype, and the function that turns such a vector back
        into a tree with the shapes and dtypes of `tree`.

    Example:
        >>> import functional_train as ft, torch
        >>> vector, unravel = ft.tree.ravel({"b": torch.ones(1), "w": torch.zeros(1, 2)})
        >>> vector
        tensor([1., 0., 0.])
        >>> unravel(vector + 1)
        {'b': tensor([2.]), 'w': tensor([[1., 1.]])}
    """
    parts, structure = flatten(tree)
    sizes = [leaf.numel() for leaf in parts]
    shapes_and_dtypes = [(leaf.shape, leaf.dtype) for leaf in parts]
    vector = torch.cat([leaf.reshape(-1) for leaf in parts]) if parts else torch.zeros(0)

    def unravel(flat: Tensor) -> Any:
        pieces = zip(flat.split(sizes), shapes_and_dtypes, strict=True)
        return unflatten(structure, [_converted(piece, dtype).reshape(shape) for piece, (shape, dtype) in pieces])

    return vector, unravel


def _converted(piece: Tensor, dtype: torch.dtype) -> Tensor:
    # Between complex leaves a real one has an imaginary part of zero, whose loss torch would warn of.
    return (piece.real if piece.is_complex() and not dtype.is_complex else piece).to(dtype)


def num_elements(tree: Any) -> int:
    """Count the numbers in the tensors of a tree.

    Args:
        tree: Any tree.

    Returns:
        The total number of elements.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.num_elements({"w": torch.zeros(3, 4), "b": torch.zeros(4)})
        16
    """
    return sum(leaf.numel() for leaf in tensors(tree))
