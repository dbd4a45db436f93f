"""`Params` is an immutable, ordered mapping, and a node to everything that walks trees."""

import copy
import pickle
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import functional_train as ft
from functional_train import testing

NAMES = st.text("ab.", min_size=1, max_size=5)
MAPPINGS = st.dictionaries(NAMES, testing.tensors() | st.none(), max_size=4)
PARAMS = ft.Params({"weight": torch.zeros(2, 3), "bias": torch.ones(2)})


@given(MAPPINGS)
def test_is_the_mapping_it_was_made_of(mapping: dict[str, Any]) -> None:
    """Names, their order and the very tensors are those of the mapping, which is copied."""
    params = ft.Params(mapping)
    assert isinstance(params, Mapping)
    assert list(params) == list(mapping)
    assert all(params[name] is mapping[name] for name in mapping)
    assert (len(params), "nothing" in params, params.get("nothing")) == (len(mapping), False, None)
    mapping["later"] = None
    assert "later" not in params
    with pytest.raises(KeyError, match="nothing"):
        params["nothing"]


@given(MAPPINGS, MAPPINGS)
def test_or_is_the_union_of_dicts(first: dict[str, Any], second: dict[str, Any]) -> None:
    """`params | other` has the order and the values of `dict | other`, and changes neither."""
    params = ft.Params(first)
    for other in (second, ft.Params(second)):
        union = params | other
        assert type(union) is ft.Params
        assert list(union.items()) == list((first | second).items()) or list(union) == list(first | second)
        assert all(union[name] is value for name, value in (first | second).items())
    assert list(params) == list(first)


@given(MAPPINGS)
def test_survives_pickle_and_copies(mapping: dict[str, Any]) -> None:
    """Pickle and deepcopy give equal Params of their own tensors; a shallow copy holds the same tensors."""
    params = ft.Params(mapping)
    for again in (pickle.loads(pickle.dumps(params)), copy.deepcopy(params)):
        assert type(again) is ft.Params
        testing.assert_trees_equal(again, params)
        assert all(again[name] is not value for name, value in params.items() if value is not None)
    shallow = copy.copy(params)
    assert all(shallow[name] is value for name, value in params.items())


def removed(params: Any) -> None:
    del params["bias"]


def attribute_removed(params: Any) -> None:
    del params.bias


def updated(params: Any) -> None:
    params["bias"] += 1


WRITES: list[Callable[[Any], Any]] = [
    lambda params: params.__setitem__("bias", torch.zeros(2)),
    lambda params: setattr(params, "bias", torch.zeros(2)),
    removed,
    attribute_removed,
]


@pytest.mark.parametrize("write", WRITES)
def test_writing_is_an_error_that_shows_the_way(write: Callable[[Any], Any]) -> None:
    """Items and attributes cannot be written or removed, and the message says what to do instead."""
    message = r"Params are immutable: 'bias' cannot be written.* params \| \{'bias': value\}, or ft.tree.partition"
    with pytest.raises(ft.ImmutableError, match=message):
        write(PARAMS)
    assert issubclass(ft.ImmutableError, TypeError)
    for name in ("update", "pop", "popitem", "clear", "setdefault"):
        assert not hasattr(PARAMS, name)


def test_names_are_strings() -> None:
    """Another kind of name is refused, with the name and its type."""
    with pytest.raises(ft.StructureError, match=r"names of Params are strings, got 3 \(int\)"):
        ft.Params({3: torch.ones(1)})  # type: ignore[dict-item]


def test_equality_is_identity() -> None:
    """Tensors have no single truth value, so Params equal themselves alone, hash, and can be referred to weakly."""
    twin = ft.Params(dict(PARAMS))
    same = PARAMS
    assert same == PARAMS
    assert twin != PARAMS
    assert len({PARAMS, twin, PARAMS}) == 2
    assert weakref.ref(PARAMS)() is PARAMS


def test_repr_says_what_there_is() -> None:
    """One row a tensor with shape, dtype and place, totals above, and no more than about forty rows."""
    empty = ft.Params()
    assert repr(empty) == "Params of 0 tensors, 0 elements, 0 B"
    mixed = ft.Params(
        {"w": torch.zeros(1000, 2), "half": torch.zeros((), dtype=torch.bfloat16, device="meta"), "x": None}
    )
    assert repr(mixed).splitlines() == [
        "Params of 3 tensors, 2,001 elements, 8.0 kB",
        "  w     (1000, 2)  float32",
        "  half  ()         bfloat16 on meta",
        "  x     None",
    ]
    many = repr(ft.Params({f"layer{number}": torch.zeros(1) for number in range(100)})).splitlines()
    assert len(many) == 42
    assert many[21] == "  ... 60 more ..."
    assert many[-1].split() == ["layer99", "(1,)", "float32"]
    sizes = [repr(ft.Params({"w": torch.zeros(10**power, device="meta")})).splitlines()[0] for power in (3, 6, 9, 12)]
    assert [size.rsplit(", ", 1)[1] for size in sizes] == ["4.0 kB", "4.0 MB", "4.0 GB", "4.0 TB"]


@given(st.permutations(["b", "a", "c.d"]))
def test_order_is_part_of_the_structure(names: list[str]) -> None:
    """Leaves come in the order of the names, whatever a dict would do, and another order is another structure."""
    params = ft.Params({name: float(place) for place, name in enumerate(names)})
    assert ft.tree.leaves(params) == [0.0, 1.0, 2.0]
    assert ft.tree.paths(params) == names
    other = ft.Params(dict(reversed(list(params.items()))))
    assert not ft.tree.same_structure(params, other)


def test_goes_through_transforms_of_torch() -> None:
    """vmap, grad and jvp take and return Params, also with None inside."""
    params = ft.Params({"w": torch.tensor([1.0, 2.0]), "absent": None})
    grads = torch.func.grad(lambda p: (p["w"] ** 2).sum())(params)
    testing.assert_trees_equal(grads, ft.Params({"w": torch.tensor([2.0, 4.0]), "absent": None}))
    mapped = torch.func.vmap(lambda p: p | {"w": p["w"] * 2})(params)
    testing.assert_trees_equal(mapped, ft.Params({"w": torch.tensor([2.0, 4.0]), "absent": None}))
    _, slope = torch.func.jvp(lambda p: p["w"].sum(), (params,), (params,))
    assert slope == 3
