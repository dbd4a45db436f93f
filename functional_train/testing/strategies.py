"""Hypothesis strategies for trees of tensors.

Everything drawn is small, made of numbers that Hypothesis chose, and shrinks toward one scalar leaf, or none.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor, nn

from functional_train.values import random, tree
from functional_train.values.params import Params
from functional_train.values.struct import static_field, struct
from functional_train.values.types import Tree

_FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_DTYPES = (*_FLOATING, torch.complex128, torch.complex64, torch.int64, torch.int32, torch.uint8, torch.bool)
_MOST_NUMBERS = 8


class Pair(NamedTuple):
    """A NamedTuple for trees."""

    first: Tree
    second: Tree


@struct
class Layer:
    """A struct for trees, with a static field."""

    weight: Tree
    bias: Tree
    name: str = static_field(default="dense")


_NAMES: tuple[str, ...] = ("a", "b", "layer.weight", "layer.bias")
_NO_CONTAINERS: tuple[Any, ...] = ("leaf", "leaf", "leaf", "leaf", None)
_CONTAINERS: tuple[Any, ...] = (dict, list, tuple, Params, Pair, Layer)


def tensors(
    *,
    dtype: torch.dtype | None = None,
    shape: Sequence[int] | None = None,
    elements: SearchStrategy[Any] | None = None,
) -> SearchStrategy[Tensor]:
    """Draw tensors: contiguous, transposed and expanded ones.

    Args:
        dtype: Of all of them; by default any floating, complex, integer or bool one.
        shape: Of all of them; by default up to three dims of size 0 to 3.
        elements: Numbers; by default any that the dtype can hold, infinities and nan included. At most 8 are drawn for
            a tensor, and a larger one repeats them.

    Returns:
        A strategy for tensors on the CPU.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> tensor = ft.testing.tensors(dtype=torch.float64, shape=(2, 3)).example()  # doctest: +SKIP
    """
    dtypes = st.sampled_from(_DTYPES) if dtype is None else st.just(dtype)
    sizes = st.lists(st.sampled_from((1, 2, 3, 0)), max_size=3).map(tuple)
    return _tensors(dtypes, sizes if shape is None else st.just(tuple(shape)), elements)


@st.composite
def _tensors(
    draw: DrawFn,
    dtypes: SearchStrategy[torch.dtype],
    shapes: SearchStrategy[tuple[int, ...]],
    elements: SearchStrategy[Any] | None,
) -> Tensor:
    dtype, shape = draw(dtypes), draw(shapes)
    count = math.prod(shape)
    some = min(count, _MOST_NUMBERS)
    numbers = draw(st.lists(_numbers(dtype) if elements is None else elements, min_size=some, max_size=some))
    repeated = (numbers * (count // max(some, 1) + 1))[:count]
    layout = draw(st.sampled_from(("contiguous", "transposed", "expanded"))) if count > 1 else "contiguous"
    if layout == "expanded":
        return _tensor(numbers[0], dtype).expand(shape)
    if layout == "transposed":
        return _tensor(repeated, dtype).reshape(shape[::-1]).permute(*reversed(range(len(shape))))
    return _tensor(repeated, dtype).reshape(shape)


def _tensor(numbers: Any, dtype: torch.dtype) -> Tensor:
    # By way of a wide type: torch.tensor refuses a number that its dtype rounds to infinity.
    wide = torch.complex128 if dtype.is_complex else torch.float64 if dtype.is_floating_point else dtype
    return torch.tensor(numbers, dtype=wide).to(dtype)


def _numbers(dtype: torch.dtype) -> SearchStrategy[Any]:
    if dtype.is_complex:
        return st.complex_numbers(width=64 if dtype == torch.complex64 else 128)
    if dtype.is_floating_point:
        return st.floats(width=64 if dtype == torch.float64 else 16 if dtype == torch.float16 else 32)
    if dtype == torch.bool:
        return st.booleans()
    limits = torch.iinfo(dtype)
    return st.integers(limits.min, limits.max)


def pytrees(leaves: SearchStrategy[Any], *, max_depth: int = 3) -> SearchStrategy[Tree]:
    """Draw trees: nested dicts, lists, tuples, NamedTuples, `Params` and structs, empty ones and `None` among them.

    Args:
        leaves: What the leaves are drawn from.
        max_depth: How many containers may be inside each other.

    Returns:
        A strategy for trees; the simplest is one leaf.

    Example:
        >>> import functional_train as ft, functional_train.testing
        >>> from hypothesis import given, strategies as st
        >>> @given(ft.testing.pytrees(st.integers()))
        ... def test_flatten_and_unflatten_are_inverse(tree):
        ...     leaves, structure = ft.tree.flatten(tree)
        ...     ft.testing.assert_trees_equal(ft.tree.unflatten(structure, leaves), tree)
        >>> test_flatten_and_unflatten_are_inverse()
    """
    return _pytrees(leaves, max_depth)


# By hand, since the description of an `st.recursive` grows so large that Hypothesis warns of it.
@st.composite
def _pytrees(draw: DrawFn, leaves: SearchStrategy[Any], max_depth: int) -> Tree:
    kind = draw(st.sampled_from((*_NO_CONTAINERS, *_CONTAINERS) if max_depth > 0 else _NO_CONTAINERS))
    if kind == "leaf":
        return draw(leaves)
    if kind is None:
        return None
    below = _pytrees(leaves, max_depth - 1)
    if kind in (list, tuple):
        return kind(draw(st.lists(below, max_size=3)))
    if kind is dict:
        return draw(st.dictionaries(st.sampled_from(_NAMES), below, max_size=3))
    if kind is Params:
        return Params(draw(st.dictionaries(st.sampled_from(_NAMES), _pytrees(leaves, 0), max_size=3)))
    if kind is Pair:
        return Pair(draw(below), draw(below))
    return Layer(draw(below), draw(below), draw(st.sampled_from(("dense", "sparse"))))


def params(*, dtype: torch.dtype | None = None, min_leaves: int = 0) -> SearchStrategy[Tree]:
    """Draw parameters: trees of finite tensors between -10 and 10.

    Args:
        dtype: Of all leaves; by default mixed floating dtypes, and now and then an integer leaf, which is not trained.
        min_leaves: How many floating leaves there are at least.

    Returns:
        A strategy for trees.

    Example:
        >>> import functional_train as ft, functional_train.testing
        >>> from hypothesis import given
        >>> @given(ft.testing.params())
        ... def test_zeros_have_no_length(params):
        ...     assert ft.tree.global_norm(ft.tree.zeros_like(params)) == 0
        >>> test_zeros_have_no_length()
    """
    floating = [tensors(dtype=one, elements=_moderate(one)) for one in (_FLOATING if dtype is None else (dtype,))]
    integer = [tensors(dtype=torch.int64, elements=st.integers(-10, 10))] if dtype is None else []
    # To a transformation None means "no parameters", which is not a tree of none.
    drawn = pytrees(st.one_of(*floating, *integer)).filter(lambda one: one is not None)
    return drawn.filter(lambda one: sum(map(_is_trained, tree.leaves(one))) >= min_leaves) if min_leaves else drawn


def _moderate(dtype: torch.dtype) -> SearchStrategy[Any]:
    if dtype.is_complex:
        return st.complex_numbers(max_magnitude=10, allow_subnormal=False)
    return st.floats(-10, 10, allow_subnormal=False)


def _is_trained(leaf: Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()


def params_and_grads(*, dtype: torch.dtype | None = None, min_leaves: int = 0) -> SearchStrategy[tuple[Tree, Tree]]:
    """Draw pairs of parameters and gradients like them.

    Args:
        dtype: As `params`.
        min_leaves: As `params`.

    Returns:
        A strategy for pairs. A gradient is `None` where the parameter is an integer, and now and then elsewhere.

    Example:
        >>> import functional_train as ft, functional_train.testing
        >>> from hypothesis import given
        >>> @given(ft.testing.params_and_grads())
        ... def test_my_optimizer_is_pure(drawn):
        ...     ft.testing.is_pure(ft.adam(), *drawn)
    """
    return params(dtype=dtype, min_leaves=min_leaves).flatmap(lambda drawn: st.tuples(st.just(drawn), _grads(drawn)))


def _grads(params: Tree) -> SearchStrategy[Tree]:
    def grad(leaf: Tensor) -> SearchStrategy[Tensor | None]:
        if not _is_trained(leaf):
            return st.none()
        drawn = tensors(dtype=leaf.dtype, shape=leaf.shape, elements=_moderate(leaf.dtype))
        return st.one_of(drawn, drawn, drawn, st.none())

    return _for_each_leaf(grad, params)


def _for_each_leaf(strategy: Callable[[Tensor], SearchStrategy[Any]], params: Tree) -> SearchStrategy[Tree]:
    leaves, structure = tree.flatten(params)
    return st.tuples(*map(strategy, leaves)).map(lambda drawn: tree.unflatten(structure, drawn))


def batches(params: Tree, *, min_size: int = 0, max_size: int = 4) -> SearchStrategy[list[Tree]]:
    """Draw lists of batches, each a tree like the parameters: what a distance to a target takes.

    Args:
        params: A tree of tensors.
        min_size: Least number of batches.
        max_size: Largest number of batches.

    Returns:
        A strategy for lists of trees.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> lists = ft.testing.batches({"w": torch.zeros(2)}, min_size=1)
    """

    def like(leaf: Tensor) -> SearchStrategy[Tensor]:
        elements = _moderate(leaf.dtype) if _is_trained(leaf) else None
        return tensors(dtype=leaf.dtype, shape=leaf.shape, elements=elements)

    return st.lists(_for_each_leaf(like, params), min_size=min_size, max_size=max_size)


def keys() -> SearchStrategy[Tensor]:
    """Draw random keys.

    Returns:
        A strategy for keys of `ft.random`; the simplest is `ft.random.key(0)`.

    Example:
        >>> import functional_train as ft, functional_train.testing
        >>> from hypothesis import given
        >>> @given(ft.testing.keys())
        ... def test_my_draw_repeats_itself(key):
        ...     ft.testing.assert_trees_equal(ft.random.normal(key), ft.random.normal(key))
        >>> test_my_draw_repeats_itself()
    """
    return st.integers(0, 2**64 - 1).map(random.key)


def from_module(module: nn.Module) -> SearchStrategy[Params]:
    """Draw parameters for a module, of any size.

    Args:
        module: Its parameters' names, shapes and dtypes are taken, their values are not.

    Returns:
        A strategy for what `ft.functionalize(module).params` could be: all zeros, or normal numbers from a drawn key.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> from hypothesis import given
        >>> apply, _, _ = ft.functionalize(module := torch.nn.Linear(3, 2))
        >>> @given(ft.testing.from_module(module))
        ... def test_linear_maps_zero_to_its_bias(params):
        ...     ft.testing.assert_trees_close(apply(params, torch.zeros(3)), params["bias"], rtol=0.0)
        >>> test_linear_maps_zero_to_its_bias()
    """
    like = {name: (tuple(value.shape), value.dtype) for name, value in module.named_parameters()}

    def make(key: Tensor, scale: float) -> Params:
        children = random.split(key, max(len(like), 1))
        draws = zip(children, like.items(), strict=False)
        return Params({name: (scale * random.normal(one, shape)).to(dtype) for one, (name, (shape, dtype)) in draws})

    return st.builds(make, keys(), st.sampled_from((0.0, 1.0, 0.1, 10.0)))
