"""Functions of the elements of whole trees: roots, signs, limits, choices and conversions.

Like the arithmetic, they take columns (`Flat`) in place of trees, and `None` absorbs.
"""

from typing import Any

import torch
from torch import Tensor

from functional_train.values.tree._elementwise import Scalar, elementwise, is_scalar, multiplier
from functional_train.values.tree._flat import Flat, flat
from functional_train.values.tree._structure import is_floating, map


def sqrt(tree: Any, *, factor: Scalar = 1, shift: Scalar = 0) -> Any:
    """Compute `factor * sqrt(tree) + shift`, the usual denominator of adaptive methods.

    The slope at 0, which has none, is taken to be 0, so that an optimizer can be differentiated where a gradient
    vanishes.

    Args:
        tree: A tree of non-negative tensors.
        factor: A scalar.
        shift: A scalar. Like `factor` it is here because it then costs no further memory.

    Returns:
        A tree like `tree`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.sqrt({"w": torch.full((2,), 4.0)}, factor=10, shift=1)
        {'w': tensor([21., 21.])}
    """
    if type(tree) is not Flat:
        return sqrt(*flat(tree), factor=factor, shift=shift).tree()
    return elementwise(_sqrt, _sqrt_of_leaf, (tree,), (multiplier(tree, factor), shift))


def _sqrt(tree: list[Tensor], factor: Any, shift: Any) -> tuple[Tensor, ...]:
    return _affine(torch._foreach_sqrt(tree), factor, shift)


def _affine(made: tuple[Tensor, ...], factor: Any, shift: Any) -> tuple[Tensor, ...]:
    if isinstance(factor, Tensor | list) or factor != 1:
        torch._foreach_mul_(made, factor)
    if isinstance(shift, Tensor | list) or shift != 0:
        torch._foreach_add_(made, shift)
    return made


def _sqrt_of_leaf(leaf: Tensor, factor: Any, shift: Any) -> Tensor:
    vanishing = leaf == 0
    root = torch.where(vanishing, 0, torch.where(vanishing, 1, leaf).sqrt())
    return factor * root + shift


def div_sqrt(numerator: Any, squares: Any, *, inside: Scalar = 0, factor: Scalar = 1, outside: Scalar = 0) -> Any:
    """Compute `numerator / (factor * sqrt(squares + inside) + outside)`, the direction of adaptive methods.

    Leaves of 16 bits are computed in float32, where a small shift is not lost. The slope of the root at 0 is taken to
    be 0, as in `sqrt`.

    Args:
        numerator: A tree of tensors.
        squares: A tree like `numerator`, of non-negative tensors.
        inside: A scalar, added before the root is taken.
        factor: A scalar.
        outside: A scalar, added afterward.

    Returns:
        A tree like `numerator`.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.div_sqrt({"w": torch.ones(2)}, {"w": torch.full((2,), 4.0)}, outside=2)
        {'w': tensor([0.2500, 0.2500])}
    """
    if type(numerator) is not Flat:
        return div_sqrt(*flat(numerator, squares), inside=inside, factor=factor, outside=outside).tree()
    numbers = (inside, multiplier(numerator, factor), outside)
    return elementwise(_div_sqrt, _div_sqrt_of_leaf, (numerator, squares), numbers, wide=True)


def _div_sqrt(
    numerator: list[Tensor], squares: list[Tensor], inside: Any, factor: Any, outside: Any
) -> tuple[Tensor, ...]:
    if isinstance(inside, Tensor | list) or inside != 0:
        out = torch._foreach_add(squares, inside)
        torch._foreach_sqrt_(out)
    else:
        out = torch._foreach_sqrt(squares)
    return torch._foreach_div(numerator, _affine(out, factor, outside))


def _div_sqrt_of_leaf(numerator: Tensor, squares: Tensor, inside: Any, factor: Any, outside: Any) -> Tensor:
    return numerator / _sqrt_of_leaf(squares + inside, factor, outside)


def maximum(first: Any, second: Any) -> Any:
    """Compute the larger of two trees, element by element; nan wins.

    Args:
        first: A tree of real tensors.
        second: A tree like `first`, whose leaves may also be 0-d; or a scalar.

    Returns:
        A tree like `first`.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.maximum({"w": torch.tensor([1.0, 5.0])}, {"w": torch.tensor([2.0, 3.0])})
        {'w': tensor([2., 5.])}
    """
    if is_scalar(second):
        return elementwise(_maximum, torch.clamp_min, (first,), (second,), into=_maximum_into)
    return elementwise(torch._foreach_maximum, torch.maximum, (first, second), into=torch._foreach_maximum_)


def _maximum(tree: list[Tensor], bound: Any) -> Any:
    if isinstance(bound, Tensor):
        return [torch.clamp_min(leaf, bound) for leaf in tree]
    return torch._foreach_clamp_min(tree, bound)


def _maximum_into(tree: list[Tensor], bound: Any) -> None:
    if isinstance(bound, Tensor):
        for leaf in tree:
            leaf.clamp_min_(bound)
    else:
        torch._foreach_clamp_min_(tree, bound)


def minimum(first: Any, second: Any) -> Any:
    """Compute the smaller of two trees, element by element; nan wins.

    Args:
        first: A tree of real tensors.
        second: A tree like `first`, whose leaves may also be 0-d; or a scalar.

    Returns:
        A tree like `first`.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.minimum({"w": torch.tensor([1.0, 5.0])}, {"w": torch.tensor([2.0, 3.0])})
        {'w': tensor([1., 3.])}
    """
    if is_scalar(second):
        return elementwise(_minimum, torch.clamp_max, (first,), (second,), into=_minimum_into)
    return elementwise(torch._foreach_minimum, torch.minimum, (first, second), into=torch._foreach_minimum_)


def _minimum(tree: list[Tensor], bound: Any) -> Any:
    if isinstance(bound, Tensor):
        return [torch.clamp_max(leaf, bound) for leaf in tree]
    return torch._foreach_clamp_max(tree, bound)


def _minimum_into(tree: list[Tensor], bound: Any) -> None:
    if isinstance(bound, Tensor):
        for leaf in tree:
            leaf.clamp_max_(bound)
    else:
        torch._foreach_clamp_max_(tree, bound)


def sign(tree: Any) -> Any:
    """Compute the sign of each element: -1, 0 or 1.

    Args:
        tree: A tree of real tensors.

    Returns:
        A tree like `tree`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.sign({"w": torch.tensor([-2.0, 0.0, 3.0])})
        {'w': tensor([-1.,  0.,  1.])}
    """
    return elementwise(torch._foreach_sign, torch.sign, (tree,), into=torch._foreach_sign_)


def abs(tree: Any) -> Any:
    """Compute the size of each element.

    Args:
        tree: A tree of tensors.

    Returns:
        A tree like `tree`, real where it is complex.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.abs({"w": torch.tensor([-2.0, 3.0])})
        {'w': tensor([2., 3.])}
    """
    return map(torch.abs, tree) if type(tree) is not Flat else tree.map(torch.abs)


def clamp(tree: Any, low: Scalar, high: Scalar) -> Any:
    """Move each element into an interval; nan stays.

    Args:
        tree: A tree of real tensors.
        low: A scalar, the least value.
        high: A scalar, the largest; it wins where it is below `low`.

    Returns:
        A tree like `tree`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.clamp({"w": torch.tensor([-2.0, 0.5, 3.0])}, -1, 1)
        {'w': tensor([-1.0000,  0.5000,  1.0000])}
    """
    return elementwise(_clamp, _clamp_leaf, (tree,), (low, high))


def _clamp_leaf(leaf: Tensor, low: Any, high: Any) -> Tensor:
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        # The two bounds of torch.clamp are of one kind.
        low, high = (torch.as_tensor(bound, dtype=leaf.dtype, device=leaf.device) for bound in (low, high))
    return torch.clamp(leaf, low, high)


def _clamp(tree: list[Tensor], low: Any, high: Any) -> Any:
    if isinstance(low, Tensor | list) or isinstance(high, Tensor | list):
        lows, highs = ([bound] * len(tree) if not isinstance(bound, list) else bound for bound in (low, high))
        return [_clamp_leaf(*row) for row in zip(tree, lows, highs, strict=True)]
    out = torch._foreach_clamp_min(tree, low)
    torch._foreach_clamp_max_(out, high)
    return out


def where(condition: Any, first: Any, second: Any) -> Any:
    """Choose from two trees, element by element.

    Args:
        condition: A tree of bool tensors like `first`, or one 0-d bool tensor for all leaves.
        first: Taken where the condition is true.
        second: Taken elsewhere; a tree like `first`, or a number.

    Returns:
        A tree like `first`. What is not chosen has no influence, nan included.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.where(torch.tensor(False), {"w": torch.ones(1)}, {"w": torch.zeros(1)})
        {'w': tensor([0.])}
    """
    if isinstance(second, int | float):
        return _where_or_number(condition, first, second)
    if isinstance(condition, Tensor):
        return elementwise(
            lambda a, b: [torch.where(condition, x, y) for x, y in zip(a, b, strict=True)],
            lambda a, b: torch.where(condition, a, b),
            (first, second),
        )
    return elementwise(
        lambda a, b, c: [torch.where(*row) for row in zip(c, a, b, strict=True)],
        lambda a, b, c: torch.where(c, a, b),
        (first, second, condition),
    )


def _where_or_number(condition: Any, first: Any, number: float) -> Any:
    def choose(leaf: Tensor, chosen: Tensor) -> Tensor:
        return torch.where(chosen, leaf, number if is_floating(leaf) else int(number))

    if isinstance(condition, Tensor):
        return elementwise(lambda a: [choose(x, condition) for x in a], lambda a: choose(a, condition), (first,))
    return elementwise(lambda a, c: [choose(*row) for row in zip(a, c, strict=True)], choose, (first, condition))


def cast(tree: Any, like: Any) -> Any:
    """Convert the leaves of a tree to the dtypes of another.

    Args:
        tree: A tree of tensors.
        like: A tree of the same structure, or one dtype for every floating leaf.

    Returns:
        A tree with the structure of `tree`.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.cast({"w": torch.ones(1)}, {"w": torch.zeros(1, dtype=torch.float64)})
        {'w': tensor([1.], dtype=torch.float64)}
    """
    if isinstance(like, torch.dtype):
        return map(lambda leaf: leaf.to(like) if is_floating(leaf) else leaf, tree)
    return map(lambda leaf, other: leaf.to(other.dtype), tree, like)
