"""Arithmetic over whole trees.

Trees of one call have one structure. `None` absorbs: where a tree has `None`, the result has `None`. A scalar is a
number, a 0-d tensor, or a column of 0-d tensors beside the others, and never changes a leaf's dtype. The first tree
gives structure, shapes and dtypes. Columns (`Flat`) may take the place of trees.
"""

from typing import Any

import torch
from torch import Tensor

from functional_train.values.tree._elementwise import Scalar, elementwise, is_scalar, multiplier
from functional_train.values.tree._flat import Flat, flat


def add(first: Any, second: Any, *, alpha: Scalar = 1) -> Any:
    """Compute `first + alpha * second`.

    Args:
        first: A tree of tensors.
        second: A tree like `first`, or a scalar.
        alpha: A scalar.

    Returns:
        A tree like `first`.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.add({"w": torch.ones(2)}, {"w": torch.ones(2)}, alpha=3)
        {'w': tensor([4., 4.])}
    """
    if is_scalar(second):
        return elementwise(torch._foreach_add, torch.add, (first,), (second * alpha,), into=torch._foreach_add_)
    if isinstance(alpha, Tensor | Flat):
        return elementwise(_add_scaled, lambda a, b, c: a + b * c, (first, second), (alpha,))
    if alpha == 1:
        return elementwise(torch._foreach_add, torch.add, (first, second), into=torch._foreach_add_)
    return elementwise(
        lambda a, b: torch._foreach_add(a, b, alpha=alpha),
        lambda a, b: torch.add(a, b, alpha=alpha),
        (first, second),
        into=lambda a, b: torch._foreach_add_(a, b, alpha=alpha),
        wide=True,  # torch rounds alpha to the dtype of the leaves
    )


def _add_scaled(first: list[Tensor], second: list[Tensor], alpha: Any) -> tuple[Tensor, ...]:
    return _plus(first, torch._foreach_mul(second, alpha))


def _plus(first: list[Tensor], made: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The sum, in the place of the second where that is as wide as the first."""
    if [x.dtype for x in first] != [x.dtype for x in made]:
        return torch._foreach_add(first, made)
    torch._foreach_add_(made, first)
    return made


def sub(first: Any, second: Any, *, alpha: Scalar = 1) -> Any:
    """Compute `first - alpha * second`.

    Args:
        first: A tree of tensors.
        second: A tree like `first`, or a scalar.
        alpha: A scalar.

    Returns:
        A tree like `first`.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.sub({"w": torch.ones(2)}, {"w": torch.ones(2)})
        {'w': tensor([0., 0.])}
    """
    return add(first, second, alpha=scale(-1, alpha) if isinstance(alpha, Flat) else -alpha)


def mul(first: Any, second: Any) -> Any:
    """Compute `first * second`.

    Args:
        first: A tree of tensors.
        second: A tree like `first`; its leaves may also be 0-d.

    Returns:
        A tree like `first`.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.mul({"w": torch.full((2,), 3.0)}, {"w": torch.full((2,), 2.0)})
        {'w': tensor([6., 6.])}
    """
    return elementwise(torch._foreach_mul, torch.mul, (first, second), into=torch._foreach_mul_)


def div(first: Any, second: Any) -> Any:
    """Compute `first / second`.

    Args:
        first: A tree of tensors.
        second: A tree like `first`; its leaves may also be 0-d.

    Returns:
        A tree like `first`.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.div({"w": torch.full((2,), 3.0)}, {"w": torch.full((2,), 2.0)})
        {'w': tensor([1.5000, 1.5000])}
    """
    return elementwise(torch._foreach_div, torch.div, (first, second), into=torch._foreach_div_)


def scale(factor: Scalar, tree: Any) -> Any:
    """Compute `factor * tree`.

    Args:
        factor: A scalar.
        tree: A tree of tensors.

    Returns:
        A tree like `tree`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.scale(0.5, {"w": torch.ones(2)})
        {'w': tensor([0.5000, 0.5000])}
    """
    if type(tree) is not Flat:
        return scale(factor, *flat(tree)).tree()
    return elementwise(torch._foreach_mul, torch.mul, (tree,), (multiplier(tree, factor),), into=torch._foreach_mul_)


def lerp(start: Any, end: Any, weight: Scalar) -> Any:
    """Compute `start + weight * (end - start)`, the running mean of optimizers.

    Args:
        start: A tree of tensors.
        end: A tree like `start`.
        weight: A scalar, usually in [0, 1].

    Returns:
        A tree like `start`.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.lerp({"w": torch.zeros(2)}, {"w": torch.ones(2)}, 0.1)
        {'w': tensor([0.1000, 0.1000])}
    """
    if type(start) is not Flat:
        start, end = flat(start, end)
        return lerp(start, end, weight).tree()
    together = _lerp if start.dtype is not None and start.dtype is end.dtype else _lerp_of_leaves
    return elementwise(together, _lerp_of_leaf, (start, end), (weight,))


def _lerp_of_leaf(start: Tensor, end: Tensor, weight: Any) -> Tensor:
    wide = torch.promote_types(start.dtype, end.dtype)  # torch.lerp alone does not promote types itself
    return torch.lerp(start.to(wide), end.to(wide), weight.to(wide) if isinstance(weight, Tensor) else weight)


def _lerp(start: list[Tensor], end: list[Tensor], weight: Any) -> tuple[Tensor, ...]:
    return torch._foreach_lerp(start, end, [weight] * len(start) if isinstance(weight, Tensor) else weight)


def _lerp_of_leaves(start: list[Tensor], end: list[Tensor], weight: Any) -> list[Tensor]:
    weights = weight if isinstance(weight, list) else [weight] * len(start)
    return [_lerp_of_leaf(*row) for row in zip(start, end, weights, strict=True)]


def addcmul(tree: Any, first: Any, second: Any, value: Scalar = 1, *, decay: Scalar = 1) -> Any:
    """Compute `decay * tree + value * first * second`.

    Args:
        tree: A tree of tensors.
        first: A tree like `tree`.
        second: A tree like `tree`.
        value: A scalar.
        decay: A scalar; here rather than in a `scale` of its own, it costs no further memory.

    Returns:
        A tree like `tree`.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> g = {"w": torch.full((2,), 2.0)}
        >>> ft.tree.addcmul({"w": torch.ones(2)}, g, g, 0.5, decay=0.5)
        {'w': tensor([2.5000, 2.5000])}
    """
    if type(tree) is not Flat:
        tree, first, second = flat(tree, first, second)
        return addcmul(tree, first, second, value, decay=decay).tree()
    factors = (value, multiplier(tree, decay))
    return elementwise(
        _addcmul, lambda a, b, c, value, decay: decay * a + value * (b * c), (tree, first, second), factors
    )


def _addcmul(
    tree: list[Tensor], first: list[Tensor], second: list[Tensor], value: Any, decay: Any
) -> tuple[Tensor, ...]:
    out = torch._foreach_mul(tree, decay)
    if isinstance(value, Tensor | list):
        product = torch._foreach_mul(first, second)
        torch._foreach_mul_(product, value)
        torch._foreach_add_(out, product)
    else:
        torch._foreach_addcmul_(out, first, second, value)
    return out


def addcdiv(tree: Any, numerator: Any, denominator: Any, value: Scalar = 1) -> Any:
    """Compute `tree + value * numerator / denominator`.

    Args:
        tree: A tree of tensors.
        numerator: A tree like `tree`.
        denominator: A tree like `tree`.
        value: A scalar.

    Returns:
        A tree like `tree`.

    Raises:
        StructureError: the structures differ; the message names where.

    Example:
        >>> import functional_train as ft, torch
        >>> one, two = {"w": torch.ones(2)}, {"w": torch.full((2,), 2.0)}
        >>> ft.tree.addcdiv(one, one, two, -1)
        {'w': tensor([0.5000, 0.5000])}
    """
    return elementwise(_addcdiv, lambda a, b, c, value: a + value * (b / c), (tree, numerator, denominator), (value,))


def _addcdiv(tree: list[Tensor], numerator: list[Tensor], denominator: list[Tensor], value: Any) -> tuple[Tensor, ...]:
    out = torch._foreach_div(numerator, denominator)
    torch._foreach_mul_(out, value)
    return _plus(tree, out)
