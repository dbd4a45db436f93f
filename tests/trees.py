"""Random trees of tensors, and what laws about them compare. Every draw comes from Hypothesis."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft

SHAPES = ((), (1,), (0,), (7,), (4, 5), (1, 2, 1, 3, 2))


class Pair(NamedTuple):
    """Two subtrees by name."""

    left: Any
    right: Any


def normal(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw from a generator of its own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**31)


def tensors(
    dtype: torch.dtype = torch.float64, shapes: tuple[tuple[int, ...], ...] = SHAPES
) -> st.SearchStrategy[Tensor]:
    return st.builds(lambda seed, shape: normal(seed, shape, dtype), seeds(), st.sampled_from(shapes))


def nestings(leaves: st.SearchStrategy[Any], max_leaves: int = 5) -> st.SearchStrategy[Any]:
    """Nest leaves in containers of every kind; the top is always a container."""
    names = st.sampled_from(["b", "a", "layer.weight", "layer.bias"])

    def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(
            st.dictionaries(names, inner, min_size=1, max_size=3),
            st.dictionaries(names, inner, min_size=1, max_size=3).map(ft.Params),
            st.lists(inner, min_size=1, max_size=2),
            st.lists(inner, min_size=1, max_size=2).map(tuple),
            st.builds(Pair, inner, inner),
        )

    return around(st.recursive(leaves, around, max_leaves=max_leaves))


def like(seed: int, tree: Any, size: float = 1.0) -> Any:
    """Draw a tree with the structure, shapes and dtypes of another."""
    leaves, structure = ft.tree.flatten(tree)
    drawn = [size * normal(seed + place, tuple(leaf.shape), leaf.dtype) for place, leaf in enumerate(leaves)]
    return ft.tree.unflatten(structure, drawn)


def without(tree: Any, absent: Callable[[int], bool]) -> Any:
    """Put None in place of some leaves."""
    leaves, structure = ft.tree.flatten(tree)
    return ft.tree.unflatten(structure, [None if absent(place) else leaf for place, leaf in enumerate(leaves)])


def assert_bitwise(actual: Any, expected: Any) -> None:
    """Same structure, same dtypes, same bits; nan equals nan."""
    assert ft.tree.same_structure(actual, expected), f"{actual} has not the structure of {expected}"
    for (path, one), other in zip(ft.tree.items(actual), ft.tree.leaves(expected), strict=True):
        if isinstance(other, Tensor):
            assert one.dtype == other.dtype, path
            assert one.shape == other.shape, path
            # Most calls never show a message, and to write a tensor takes longer than to compare it.
            said = partial("{}: {}".format, path)
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True, msg=said)
        else:
            assert one == other, path


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Same structure, and each leaf within a tolerance relative to its largest entry."""
    assert ft.tree.same_structure(actual, expected), f"{actual} has not the structure of {expected}"
    for (path, one), other in zip(ft.tree.items(actual), ft.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype, path
        assert relative_difference(one, other) <= tolerance, f"{path}: {one} is not {other}"


def relative_difference(actual: Tensor, expected: Tensor, scale: float = 0.0) -> float:
    """The largest difference, relative to the largest entry expected, or to `scale` if that is larger."""
    if expected.numel() == 0:
        return 0.0
    wide = torch.complex128 if expected.is_complex() else torch.float64
    apart = (actual.to(wide) - expected.to(wide)).abs().max().item()
    largest = max(expected.to(wide).abs().max().item(), scale)
    return apart / largest if apart > 0.0 else 0.0


class Witness:
    """What trees held at one moment; `check` says whether they still do, to the bit and the version."""

    def __init__(self, *trees: Any) -> None:
        self.held = [leaf for leaf in ft.tree.leaves(list(trees)) if isinstance(leaf, Tensor)]
        self.copies = [leaf.detach().clone() for leaf in self.held]
        self.versions = [leaf._version for leaf in self.held]

    def check(self) -> None:
        for leaf, copy, version in zip(self.held, self.copies, self.versions, strict=True):
            # Fused kernels bump no version, so the bits are compared too.
            assert torch.equal(leaf.detach().nan_to_num(7.0), copy.nan_to_num(7.0))
            assert leaf._version == version
