"""Trees that can be saved, and what it means that two of them are the same."""

from collections import OrderedDict, defaultdict, deque
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
import functional_train.testing

RARE_DTYPES = (
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.uint16, torch.uint32, torch.uint64, torch.complex32),
)


class Pair(NamedTuple):
    """Two subtrees by name."""

    left: Any
    right: Any


@ft.struct
class Boxed:
    """A leaf beside what is no leaf."""

    value: Any
    label: str = ft.static_field(default="a")
    sizes: tuple[int, ...] = ft.static_field(default=())


def values() -> st.SearchStrategy[Any]:
    """Plain values that are leaves."""
    return st.one_of(
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.complex_numbers(),
        st.binary(max_size=4),
        st.sampled_from([torch.float32, torch.device("cpu"), torch.Size([2, 3])]),
        st.frozensets(st.integers(), max_size=2),
    )


def trees() -> st.SearchStrategy[Any]:
    """Trees of tensors and plain values in every container that can be saved."""
    leaf = st.one_of(ft.testing.tensors(), values())
    keys = st.one_of(st.text(max_size=3), st.integers(-2, 2), st.booleans(), st.tuples(st.integers(0, 1)))

    def around(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(
            st.dictionaries(keys, inner, max_size=3),
            st.dictionaries(st.text(max_size=3), inner, max_size=2).map(ft.Params),
            st.dictionaries(keys, inner, max_size=2).map(OrderedDict),
            st.dictionaries(keys, inner, max_size=2).map(lambda made: defaultdict(list, made)),
            st.lists(inner, max_size=2),
            st.lists(inner, max_size=2).map(tuple),
            st.lists(inner, max_size=2).map(lambda made: deque(made, 3)),
            st.builds(Pair, inner, inner),
            st.builds(Boxed, inner, st.sampled_from(["a", "b"]), st.sampled_from([(), (1, 2)])),
        )

    return st.one_of(leaf, around(st.recursive(st.one_of(leaf, st.none()), around, max_leaves=4)))


def bits(leaf: Tensor) -> bytes:
    """The numbers of a tensor in the order of its elements, bit for bit, and nothing of where they lie."""
    flat = leaf.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


def shown(value: Any) -> Any:
    """A plain value as text, which tells 0.0 from -0.0 and 1 from True; sets have no order."""
    if isinstance(value, frozenset):
        return "frozenset", sorted(map(repr, map(shown, value)))
    if type(value) in (tuple, list):
        return type(value), [shown(each) for each in value]
    return repr(value)


def assert_same(found: Any, saved: Any) -> None:
    """Containers, static fields, names, types, dtypes, shapes and every bit are those that were saved."""
    assert ft.tree.same_structure(found, saved)
    for (path, new), (_, old) in zip(ft.tree.items(found), ft.tree.items(saved), strict=True):
        assert type(new) is type(old), path
        if isinstance(old, Tensor):
            assert (new.dtype, new.shape, bits(new)) == (old.dtype, old.shape, bits(old)), path
        else:
            assert shown(new) == shown(old), path
