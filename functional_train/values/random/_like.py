"""Draws shaped like a tree."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from functional_train.values.errors import StructureError
from functional_train.values.random._checks import check_key, describe
from functional_train.values.random._floats import normal
from functional_train.values.random._keys import fold_in
from functional_train.values.tree._structure import flatten, items, unflatten
from functional_train.values.types import Tree


def like(key: Tensor, tree: Tree, draw: Callable[..., Tensor] = normal, **options: Any) -> Tree:
    """Draw a tree: for each leaf as many numbers as it has.

    All leaves of one dtype are one draw, so a large tree takes hardly longer than one tensor of its size.

    Args:
        key: The key to use up.
        tree: Gives the structure, shapes, dtypes and devices.
        draw: `(key, shape, *, dtype, **options) -> tensor`, such as `ft.random.uniform`.
        **options: Passed on to `draw`, such as `std=0.02`; numbers, since all leaves share them.

    Returns:
        A tree like the one given.

    Raises:
        StructureError: `key` is not a key, or a leaf is no floating tensor.

    Source: Optax, `tree_random_like`.

    Example:
        >>> import functional_train as ft, torch
        >>> params = {"w": torch.zeros(2), "b": torch.zeros(1)}
        >>> noise = ft.random.like(ft.random.key(0), params, std=0.1)
        >>> ft.tree.add(params, noise)
        {'w': tensor([-0.0862, -0.0389]), 'b': tensor([-0.1183])}
    """
    check_key(key, "like")
    leaves, structure = flatten(tree)
    for path, leaf in items(tree):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            raise StructureError(
                f"{path!r} must be a floating tensor, got {describe(leaf)}. Take such leaves out with "
                "ft.tree.partition, and put them back with ft.tree.combine."
            )
    drawn: list[Any] = [None] * len(leaves)
    for number, dtype in enumerate(dict.fromkeys([leaf.dtype for leaf in leaves])):
        places = [place for place, leaf in enumerate(leaves) if leaf.dtype is dtype]
        sizes = [leaves[place].numel() for place in places]
        parts = draw(fold_in(key, number), (sum(sizes),), dtype=dtype, **options).split(sizes)
        for place, part in zip(places, parts, strict=True):
            # A clone owns its memory, as leaves do.
            drawn[place] = part.to(leaves[place].device).view(leaves[place].shape).clone()
    return unflatten(structure, drawn)
