"""Trees taken apart and put together: every function that keeps, moves or lists leaves, on every kind of tree."""

import operator
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import optree
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import functional_train as ft
from functional_train import testing
from functional_train.testing.strategies import Layer, Pair
from functional_train.values.tree._structure import NAMESPACE, as_known_mappings
from tests.global_rng import seeded

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64)
TREES = testing.pytrees(st.integers())
TENSOR_TREES = testing.pytrees(testing.tensors())


@given(TREES)
def test_flatten_and_unflatten_are_inverse(tree: Any) -> None:
    """Unflattening what flatten gave is the tree, and flattening that again gives the same leaves and structure."""
    leaves, structure = ft.tree.flatten(tree)
    again = ft.tree.unflatten(structure, leaves)
    testing.assert_trees_equal(again, tree)
    assert ft.tree.flatten(again) == (leaves, structure)
    assert ft.tree.leaves(tree) == leaves
    with pytest.raises(ValueError, match="leaves"):
        ft.tree.unflatten(structure, [*leaves, 0])


@given(TREES)
def test_none_can_count_as_a_leaf(tree: Any) -> None:
    """With `none_is_leaf` every None is a leaf, and the others keep their order."""
    leaves, structure = ft.tree.flatten(tree, none_is_leaf=True)
    assert [leaf for leaf in leaves if leaf is not None] == ft.tree.leaves(tree)
    testing.assert_trees_equal(ft.tree.unflatten(structure, leaves), tree)


@given(TREES)
def test_items_are_paths_and_leaves(tree: Any) -> None:
    """`items` pairs the path of each leaf with it, in the order of flatten, and no path occurs twice."""
    items = ft.tree.items(tree)
    assert [leaf for _, leaf in items] == ft.tree.leaves(tree)
    assert [path for path, _ in items] == ft.tree.paths(tree)
    assert len(set(ft.tree.paths(tree))) == len(items)


@pytest.mark.parametrize(
    ("tree", "paths"),
    [
        (1, [""]),
        (None, []),
        ({"b": 1, "a": [2, (3,)]}, ["a/0", "a/1/0", "b"]),
        ({2: 1, 1: 2}, ["1", "2"]),
        ({"x": 1, 3: 2}, ["3", "x"]),  # keys that cannot be compared are sorted by type
        (OrderedDict([("b", 1), ("a", 2)]), ["b", "a"]),
        (defaultdict(int, b=1, a=2), ["a", "b"]),
        (deque([1, {"x": 2}]), ["0", "1/x"]),
        (ft.Params({"b.weight": 1, "a.bias": 2}), ["b.weight", "a.bias"]),
        (Pair(Layer(1, None), ft.Aux({"m": 2})), ["first/weight", "second/metrics/m"]),
    ],
)
def test_paths_of_every_container(tree: Any, paths: list[str]) -> None:
    """A path holds keys, positions and names of fields; mappings are in sorted order, Params in their own."""
    assert ft.tree.paths(tree) == paths


@given(TREES)
def test_map_is_a_functor(tree: Any) -> None:
    """Mapping the identity changes nothing, and mapping twice is mapping the composition."""
    testing.assert_trees_equal(ft.tree.map(lambda leaf: leaf, tree), tree)
    twice = ft.tree.map(lambda leaf: leaf * 2, ft.tree.map(lambda leaf: leaf + 1, tree))
    testing.assert_trees_equal(twice, ft.tree.map(lambda leaf: (leaf + 1) * 2, tree))
    pairs = ft.tree.map(operator.add, tree, tree)
    testing.assert_trees_equal(pairs, ft.tree.map(lambda leaf: 2 * leaf, tree))


def test_map_hands_on_none_and_subtrees_of_other_trees() -> None:
    """Where the first tree has a leaf, another may have None or a subtree, and the function is given that."""
    first, second = {"a": 1, "b": 2, "c": None}, {"a": None, "b": [3, 4], "c": None}
    assert ft.tree.map(lambda leaf, other: (leaf, other), first, second) == {
        "a": (1, None),
        "b": (2, [3, 4]),
        "c": None,
    }


MISFITS: list[tuple[Any, Any, str]] = [
    ({"a": 1, "b": 2}, {"a": 1}, "at 'b': the first tree has it, another does not"),
    ({"a": 1}, {"a": 1, "b": 2}, "at 'b': another has it, the first tree does not"),
    ({"x": {"a": 1}}, {"x": [1]}, "at 'x': the first tree has a dict there, another has a list"),
    ({"x": {"a": 1}}, {"x": 1}, r"at 'x': the first tree has a dict there, another has a leaf \(int\)"),
    ({"x": None}, {"x": 1}, "at 'x': the first tree has None there, another has a leaf"),
    ({"x": Layer(1, None, "a")}, {"x": Layer([1], None, "b")}, "at 'x': the static fields differ"),
    (Layer(1, 2, "a"), Layer(1, 2, "b"), "at the top: the static fields differ"),
    (ft.Params({"a": 1, "b": 2}), ft.Params({"b": 1, "a": 2}), "the same names in another order"),
]


@pytest.mark.parametrize(("first", "second", "message"), MISFITS)
def test_trees_that_do_not_fit_are_named(first: Any, second: Any, message: str) -> None:
    """Mapping over trees of different structures raises StructureError with the first place where they differ."""
    assert not ft.tree.same_structure(first, second)
    with pytest.raises(ft.StructureError, match=message):
        ft.tree.map(operator.add, first, second)


def test_an_error_of_the_function_comes_out_as_it_is() -> None:
    """A ValueError that the mapped function raises is not taken for a misfit."""
    with pytest.raises(ValueError, match=r"^mine$"):
        ft.tree.map(lambda leaf, other: (_ for _ in ()).throw(ValueError("mine")), [1], [2])


@given(TREES, TREES)
def test_same_structure_is_equality_of_structures(first: Any, second: Any) -> None:
    """Two trees have one structure exactly when zeros in their places make equal trees."""
    same = ft.tree.flatten(first)[1] == ft.tree.flatten(second)[1]
    assert ft.tree.same_structure(first, second) == same
    assert ft.tree.same_structure(first, ft.tree.map(lambda leaf: "x", first), first)


@given(TENSOR_TREES)
def test_zeros_and_copies(tree: Any) -> None:
    """`zeros_like` and `copy` keep structure, shapes and dtypes; a copy is bitwise equal and shares no memory."""
    zeros = ft.tree.zeros_like(tree)
    testing.assert_trees_alike(zeros, tree)
    assert all((leaf == 0).all() for leaf in ft.tree.leaves(zeros))
    assert {leaf.dtype for leaf in ft.tree.leaves(ft.tree.zeros_like(tree, dtype=torch.float16))} <= {torch.float16}
    copy = testing.assert_untouched(ft.tree.copy, tree)
    testing.assert_trees_equal(copy, tree)
    for one, other in zip(ft.tree.leaves(copy), ft.tree.leaves(tree), strict=True):
        assert one.numel() == 0 or one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr()


def test_copy_and_to_keep_what_is_no_tensor() -> None:
    """Leaves that are not tensors pass through copy and to; no leaf is moved that is already there."""
    name, weight = object(), torch.ones(2)
    tree = {"name": name, "weight": weight, "none": None}
    assert ft.tree.copy(tree)["name"] is name
    for target in ("cpu", torch.device("cpu"), torch.float32):
        moved = ft.tree.to(tree, target)
        assert moved["name"] is name
        assert moved["weight"] is weight
    assert ft.tree.to(tree, "meta", non_blocking=True)["weight"].device.type == "meta"


@given(testing.params(), st.sampled_from((torch.float64, torch.bfloat16)))
def test_dtypes_are_converted_where_they_float(tree: Any, dtype: torch.dtype) -> None:
    """`to` and `cast` convert floating leaves alone, as `nn.Module.to` does; `cast` like a tree takes leaf by leaf."""
    moved = ft.tree.to(tree, dtype)
    testing.assert_trees_equal(moved, ft.tree.cast(tree, dtype))
    for one, other in zip(ft.tree.leaves(moved), ft.tree.leaves(tree), strict=True):
        assert one.dtype == (dtype if other.is_floating_point() else other.dtype)
        testing.assert_trees_equal(one, other.to(one.dtype))
    back = ft.tree.cast(moved, tree)
    testing.assert_trees_alike(back, tree)


@given(st.data())
def test_stack_and_unstack_are_inverse(data: st.DataObject) -> None:
    """Unstacking a stack gives the trees, bit for bit, and stacking those gives the stack."""
    params = data.draw(testing.params(min_leaves=1))
    trees = data.draw(testing.batches(params, min_size=1, max_size=3))
    stacked = testing.assert_untouched(ft.tree.stack, trees)
    for leaf, other in zip(ft.tree.leaves(stacked), ft.tree.leaves(params), strict=True):
        assert leaf.shape == (len(trees), *other.shape)
    testing.assert_trees_equal(ft.tree.unstack(stacked), trees)
    testing.assert_trees_equal(ft.tree.stack(ft.tree.unstack(stacked)), stacked)


def test_stacks_of_numbers() -> None:
    """Python numbers become tensors; a tree without leaves stacks to itself."""
    testing.assert_trees_equal(ft.tree.stack([{"n": 1}, {"n": 2}]), {"n": torch.tensor([1, 2])})
    assert ft.tree.stack([(), ()]) == ()


STACK_ERRORS: list[tuple[Callable[[], Any], str]] = [
    (lambda: ft.tree.stack([]), "stack was given no trees"),
    (lambda: ft.tree.stack([{"a": 1}, {"b": 1}]), "tree 0 and tree 1 differ at 'a'.*Stacked trees need one structure"),
    (lambda: ft.tree.unstack({}), r"got leading sizes \[\]"),
    (lambda: ft.tree.unstack([torch.ones(())]), r"got leading sizes \[\(\)\]"),
    (lambda: ft.tree.unstack([torch.ones(2), torch.ones(3)]), r"got leading sizes \[\(2,\), \(3,\)\]"),
]


@pytest.mark.parametrize(("call", "message"), STACK_ERRORS)
def test_stacks_that_do_not_fit(call: Callable[[], Any], message: str) -> None:
    """Nothing, other structures and other leading sizes are refused."""
    with pytest.raises(ft.StructureError, match=message):
        call()


@given(testing.pytrees(st.sampled_from(FLOATING).flatmap(lambda dtype: testing.tensors(dtype=dtype))))
def test_ravel_and_unravel_are_inverse(tree: Any) -> None:
    """Unraveling the vector of a tree of floating or complex leaves gives the tree, whatever their dtypes."""
    vector, unravel = testing.assert_untouched(ft.tree.ravel, tree)
    assert vector.shape == (ft.tree.num_elements(tree),)
    if any(leaf.numel() for leaf in ft.tree.leaves(tree)):
        back = unravel(vector)
        testing.assert_trees_alike(back, tree)
        for one, other in zip(ft.tree.leaves(back), ft.tree.leaves(tree), strict=True):
            assert torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
            testing.assert_trees_equal(one.isnan(), other.isnan())


def test_num_elements_counts_tensors() -> None:
    """Only what is in tensors is counted."""
    assert ft.tree.num_elements({"w": torch.zeros(3, 4), "n": 7, "e": torch.zeros(0), "s": torch.zeros(())}) == 13


def plain_containers(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Trees whose order and leaves are the same to torch's pytree and to ours: no dict, and None in our nodes alone."""
    some = leaves | st.none()

    def nested(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(
            st.lists(below, max_size=2),
            st.dictionaries(st.sampled_from("cab"), below | some, max_size=3).map(ft.Params),
            st.builds(Layer, below | some, below | some, st.sampled_from(("dense", "sparse"))),
            st.builds(Pair, below, below),
        )

    return st.recursive(leaves, nested, max_leaves=6)


@given(plain_containers(st.integers()))
def test_both_pytree_registries_agree(tree: Any) -> None:
    """torch's pytree finds the leaves that optree finds, in the same order, and rebuilds the same tree."""
    leaves, spec = torch.utils._pytree.tree_flatten(tree)
    assert leaves == ft.tree.leaves(tree) == optree.tree_leaves(tree, namespace=NAMESPACE)
    testing.assert_trees_equal(torch.utils._pytree.tree_unflatten(leaves, spec), tree)
    mapped = torch.utils._pytree.tree_map(lambda leaf: leaf + 1, tree)
    testing.assert_trees_equal(mapped, ft.tree.map(lambda leaf: leaf + 1, tree))
    with_paths, _ = torch.utils._pytree.tree_flatten_with_path(tree)
    assert [leaf for _, leaf in with_paths] == leaves


class Encoding(dict[str, Any]):
    """A mapping that no pytree knows, as a tokenizer returns."""


def test_mappings_in_classes_of_their_own_are_seen() -> None:
    """Unknown mappings become dicts, at any depth; a tree without one is handed back as it is."""
    ids: Tensor = torch.tensor([1])
    known = as_known_mappings((Encoding(ids=ids, more=Encoding(mask=ids)), ids))
    assert ft.tree.paths(known) == ["0/ids", "0/more/mask", "1"]
    tree = {"a": ids}
    assert as_known_mappings(tree) is tree


def test_zeros_of_no_tensors_are_refused() -> None:
    """A module, its generator of parameters, or a number in the place of a tensor is named."""
    with seeded():
        linear = nn.Linear(2, 1)
    for tree, found in ((linear, "a Linear"), (linear.parameters(), "a generator"), ({"w": [1.0]}, "a float at 'w/0'")):
        with pytest.raises(ft.StructureError, match=rf"got {found}\. Of a module, pass ft\.functionalize"):
            ft.adam().init(tree)
