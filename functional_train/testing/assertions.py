"""Assertions about trees, and about what a function leaves alone."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from functional_train.values._generators import generators, moved_since
from functional_train.values.tree._structure import as_known_mappings, difference, items, leaves, map, same_structure
from functional_train.values.types import Tree

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def assert_same_structure(actual: Tree, expected: Tree) -> None:
    """Assert that two trees have the same containers, names, static fields and number of leaves.

    Args:
        actual: Any tree.
        expected: Any tree.

    Raises:
        AssertionError: they do not; the message names the first place.

    Example:
        >>> import functional_train as ft, functional_train.testing
        >>> ft.testing.assert_same_structure({"a": 1, "b": (2,)}, {"a": 10, "b": (20,)})
    """
    if not same_structure(actual, expected):
        raise AssertionError(f"trees differ {difference(actual, expected, ('actual', 'expected'))}")


def assert_trees_alike(actual: Tree, expected: Tree) -> None:
    """Assert that two trees have one structure, and leaves of the same shapes, dtypes and devices.

    Args:
        actual: Any tree.
        expected: Any tree.

    Raises:
        AssertionError: they do not; the message names the first place.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.assert_trees_alike({"w": torch.zeros(2)}, {"w": torch.ones(2)})
    """
    assert_same_structure(actual, expected)
    for (path, got), (_, wanted) in zip(items(actual), items(expected), strict=True):
        for what, one, other in zip(("kind", "shape", "dtype", "device"), _facts(got), _facts(wanted), strict=True):
            if one != other:
                raise AssertionError(f"trees differ in {what} at {path!r}: actual has {one}, expected has {other}")


def _facts(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, Tensor):
        return Tensor, tuple(leaf.shape), leaf.dtype, leaf.device
    return type(leaf), None, None, None


def assert_trees_equal(actual: Tree, expected: Tree) -> None:
    """Assert that two trees are equal bit for bit.

    Structure, shapes, dtypes and devices agree, and so does every bit: `-0.0` is not `0.0`, and a nan equals a nan with
    the same payload only. Leaves that are not tensors have one type and are equal.

    Args:
        actual: Any tree.
        expected: Any tree.

    Raises:
        AssertionError: they are not; the message names the first leaf and element that differ.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> nan = torch.tensor([float("nan"), 0.0])
        >>> ft.testing.assert_trees_equal({"w": nan}, {"w": nan.clone()})
        >>> ft.testing.assert_trees_equal({"w": nan}, {"w": -nan})
        Traceback (most recent call last):
        ...
        AssertionError: trees differ at 'w' in 2 of 2 elements, first at (0,): nan is not nan
    """
    assert_trees_alike(actual, expected)
    for (path, got), (_, wanted) in zip(items(actual), items(expected), strict=True):
        if isinstance(got, Tensor):
            _raise_where(_bits(got) != _bits(wanted), path, got, wanted, "is not")
        elif not (got is wanted or got == wanted):
            raise AssertionError(f"trees differ at {path!r}: {got!r} is not {wanted!r}")


def assert_trees_close(actual: Tree, expected: Tree, *, rtol: float, atol: float = 0.0) -> None:
    r"""Assert that two trees are equal up to rounding: $|a - e| \le atol + rtol |e|$ for every element.

    Structure, shapes, dtypes and devices agree. Leaves that are not floating are equal; a nan is close to a nan.

    Args:
        actual: Any tree.
        expected: Any tree.
        rtol: Tolerance relative to `expected`. There is no default: say beside the call why it is what it is.
        atol: Absolute tolerance.

    Raises:
        AssertionError: they are not; the message names the first leaf and element that differ, and by how much.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.assert_trees_close({"w": torch.tensor(1.0)}, {"w": torch.tensor(1.001)}, rtol=1e-2)
    """
    assert_trees_alike(actual, expected)
    for (path, got), (_, wanted) in zip(items(actual), items(expected), strict=True):
        if not isinstance(got, Tensor) or not (got.is_floating_point() or got.is_complex()):
            assert_trees_equal({path: got}, {path: wanted})
            continue
        wide = torch.complex128 if got.is_complex() else torch.float64
        near = torch.isclose(got.detach().to(wide), wanted.detach().to(wide), rtol, atol, equal_nan=True)
        _raise_where(~near, path, got, wanted, f"is not within rtol={rtol:g}, atol={atol:g} of")


def _bits(leaf: Tensor) -> Tensor:
    plain = leaf.detach().resolve_conj().resolve_neg()
    parts = torch.view_as_real(plain) if plain.is_complex() else plain
    words = parts.view(_WORDS[parts.element_size()])
    return words.view(*plain.shape, 2) if plain.is_complex() else words


def _raise_where(different: Tensor, path: str, got: Tensor, wanted: Tensor, verb: str) -> None:
    if got.is_complex() and different.ndim > got.ndim:
        different = different.any(-1)
    if not different.any():
        return
    first = tuple(different.nonzero()[0].tolist())
    place = f", first at {first}" if first else ""
    raise AssertionError(
        f"trees differ at {path!r} in {int(different.sum())} of {different.numel()} elements{place}: "
        f"{got[first].item()!r} {verb} {wanted[first].item()!r}"
    )


def assert_untouched(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function and assert that it left its arguments alone.

    Every container holds the same objects as before; every tensor has the same bits, version, strides, `requires_grad`
    and `grad`. (A write that is taken back leaves a higher version.)

    Args:
        fn: What is called.
        *args: Its positional arguments; any trees.
        **kwargs: Its keyword arguments; any trees.

    Returns:
        What `fn` returned.

    Raises:
        AssertionError: an argument was touched; the message names which, by position or name and path.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.assert_untouched(torch.add, torch.ones(1), torch.ones(1))
        tensor([2.])
        >>> ft.testing.assert_untouched(torch.Tensor.add_, torch.ones(1), 1)
        Traceback (most recent call last):
        ...
        AssertionError: argument '0' was written to: its version was 0 and is 1
    """
    arguments = {**{str(position): arg for position, arg in enumerate(args)}, **kwargs}
    before = items(as_known_mappings(arguments))
    contents = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for _, leaf in before]
    facts = [_state_of(leaf) for _, leaf in before]
    skeleton = map(lambda leaf: 0, as_known_mappings(arguments))
    returned = fn(*args, **kwargs)
    after = as_known_mappings(arguments)
    if not same_structure(skeleton, after):
        raise AssertionError(f"an argument has another structure now, {difference(skeleton, after, ('it', 'it now'))}")
    for (path, leaf), now, content, fact in zip(before, leaves(after), contents, facts, strict=True):
        if now is not leaf:
            raise AssertionError(f"argument {path!r} is another object now: something was put in its place")
        for what, one, other in zip(
            ("version", "strides", "requires_grad", "grad"), fact, _state_of(leaf), strict=True
        ):
            if one != other:
                raise AssertionError(f"argument {path!r} was written to: its {what} was {one} and is {other}")
        if isinstance(leaf, Tensor):
            assert_trees_equal({path: leaf.detach()}, {path: content})
    return returned


def _state_of(leaf: Any) -> tuple[Any, ...]:
    if not isinstance(leaf, Tensor):
        return None, None, None, None
    version = None if leaf.is_inference() else leaf._version
    # `grad` of a tensor that is no leaf of a graph warns; it holds none.
    grad = id(leaf.grad) if leaf.is_leaf and leaf.grad is not None else None
    return version, (leaf.storage_offset(), *leaf.stride()), leaf.requires_grad, grad


@contextmanager
def assert_global_rng_untouched() -> Generator[None, None, None]:
    """Assert that nothing inside moved a global random generator: Python's, NumPy's, or torch's on any device.

    Yields:
        Nothing.

    Raises:
        AssertionError: at the end: a generator moved; the message names it.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> with ft.testing.assert_global_rng_untouched():
        ...     ft.random.normal(ft.random.key(0), (2,)).shape
        torch.Size([2])
        >>> with ft.testing.assert_global_rng_untouched():
        ...     torch.rand(2).shape
        Traceback (most recent call last):
        ...
        AssertionError: the global generator of torch moved. Draw from a key: ft.random.uniform(key, ...).
    """
    before = generators()
    yield
    moved = moved_since(before)
    if moved:
        raise AssertionError(
            f"the global generator of {', '.join(moved)} moved. Draw from a key: ft.random.uniform(key, ...)."
        )
