"""Trees addressed by name: lenses, partitions, and errors that list what could have been meant."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import functional_train as ft
from functional_train import testing
from functional_train.testing.strategies import Layer, Pair

TREES = testing.pytrees(st.integers())
STATE = {
    "params": ft.Params({"layer1.weight": torch.ones(2, 3), "layer1.bias": torch.ones(2)}),
    "opt_state": ({"lr": torch.tensor(0.1)}, Pair({"exp_avg": torch.zeros(2)}, {"exp_avg": torch.ones(2)})),
    "name": "run",
}


@given(TREES, st.data())
def test_get_and_set_are_a_lens(tree: Any, data: st.DataObject) -> None:
    """Getting what was set gives it, setting what was got changes nothing, and of two sets the last one counts."""
    paths = ft.tree.paths(tree)
    if not paths:
        return
    path = data.draw(st.sampled_from(paths))
    value = ft.tree.get(tree, path)
    assert dict(ft.tree.items(tree))[path] == value
    testing.assert_trees_equal(ft.tree.set(tree, path, value), tree)
    once = testing.assert_untouched(ft.tree.set, tree, path, 1001)
    assert ft.tree.get(once, path) == 1001
    testing.assert_trees_equal(ft.tree.set(once, path, value), tree)
    others = {other: leaf for other, leaf in ft.tree.items(tree) if other != path}
    assert {other: leaf for other, leaf in ft.tree.items(once) if other != path} == others


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("params/layer1.weight", "params/layer1.weight"),
        ("layer1.weight", "params/layer1.weight"),
        ("lr", "opt_state/0/lr"),
        ("0/lr", "opt_state/0/lr"),
        ("second/exp_avg", "opt_state/1/second/exp_avg"),
        ("name", "name"),
    ],
)
def test_a_tail_is_enough(name: str, found: str) -> None:
    """A leaf is found by its whole path and by any tail of it that no other path has."""
    assert ft.tree.get(STATE, name) is dict(ft.tree.items(STATE))[found]
    assert ft.tree.get(ft.tree.set(STATE, name, STATE["name"] if found == "name" else 7.0), found) is not None


def test_subtrees_have_paths_too() -> None:
    """A subtree is read and replaced by its path; what is not replaced is the same objects."""
    assert ft.tree.get(STATE, "params") is STATE["params"]
    assert ft.tree.get(STATE, "opt_state/1") is STATE["opt_state"][1]
    new = STATE["params"] | {"layer1.bias": torch.zeros(2)}
    changed = ft.tree.set(STATE, "params", new)
    assert changed["params"]["layer1.bias"] is new["layer1.bias"]
    assert changed["opt_state"][0]["lr"] is STATE["opt_state"][0]["lr"]
    assert ft.tree.get(ft.tree.set(STATE, "first", {"exp_avg": torch.ones(2)}), "opt_state/1/first/exp_avg").sum() == 2


def test_a_whole_path_wins_over_a_tail() -> None:
    """A name that is the whole path of one leaf means that leaf, also when other paths end with it."""
    tree = {"lr": 1, "inner": {"lr": 2}}
    assert ft.tree.get(tree, "lr") == 1
    assert ft.tree.set(tree, "lr", 3) == {"lr": 3, "inner": {"lr": 2}}


def test_every_path_that_is_listed_is_found() -> None:
    """Names that hold a slash, and the empty path of a tree that is one leaf, are accepted as `paths` writes them."""
    tree = {"a/b": 1, "c": {"d/e": 2}}
    for path, leaf in ft.tree.items(tree):
        assert ft.tree.get(tree, path) == leaf
    assert ft.tree.get(tree, "b") == 1
    assert ft.tree.set(tree, "d/e", 5) == {"a/b": 1, "c": {"d/e": 5}}
    assert ft.tree.get(3, "") == 3
    assert ft.tree.set(3, "", 4) == 4


ERRORS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: ft.tree.get(STATE, "exp_avg"),
        ft.PathError,
        r"'exp_avg' is ambiguous: it could be 'opt_state/1/first/exp_avg', 'opt_state/1/second/exp_avg'\. Write more",
    ),
    (lambda: ft.tree.get({"a/b": 1, "a": {"b": 2}}, "a/b"), ft.PathError, "'a/b' is ambiguous"),
    (lambda: ft.tree.get(STATE, "weight"), ft.PathError, "nothing in the tree is called 'weight'. .* begin: name, opt"),
    (lambda: ft.tree.get(STATE, "xlr"), ft.PathError, "called 'xlr'.*when it was passed to .*inject_hyperparams"),
    (lambda: ft.tree.get({}, "lr"), ft.PathError, "none: the tree is empty"),
    (lambda: ft.tree.set(STATE, "lr1", 0.5), ft.PathError, "nothing in the tree is called 'lr1'"),
    (lambda: ft.tree.set(STATE, "lr", [0.5]), ft.StructureError, "the tree has a leaf there, the new part has a list"),
    (lambda: ft.tree.set(STATE, "lr", "0.5"), ft.StructureError, "'opt_state/0/lr' is a tensor, the new part a str"),
    (
        lambda: ft.tree.set(STATE, "lr", ft.schedules.constant(0.5)),
        ft.StructureError,
        "the new part a function. Put a tensor or a number there; a schedule goes to the factory",
    ),
    (lambda: ft.tree.set(STATE, "lr", torch.ones(2)), ft.StructureError, r"'opt_state/0/lr' has shape \(\), .* \(2,\)"),
    (
        lambda: ft.tree.set(STATE, "params", ft.Params({"layer1.weight": torch.ones(2, 3)})),
        ft.StructureError,
        "at 'layer1.bias': the tree has it, the new part does not. It was to be put at 'params'",
    ),
    (
        lambda: ft.tree.set(STATE, "first", {"exp_avg": torch.ones(3)}),
        ft.StructureError,
        r"'opt_state/1/first/exp_avg' has shape \(2,\), the new part \(3,\)",
    ),
    (ft.tree.combine, ft.StructureError, "combine was given no trees"),
    (lambda: ft.tree.combine({"a": 1}, {"b": 1}), ft.StructureError, "tree 0 and tree 1 differ at 'a'"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_what_cannot_be_meant_is_an_error(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    """Unknown and ambiguous names list the candidates; parts that do not fit name the place."""
    with pytest.raises(error, match=message):
        call()


def test_a_number_takes_the_tensors_place() -> None:
    """A Python number becomes a tensor of the old one's shape, dtype and device, so that nothing compiles anew."""
    tree = {"lr": torch.ones(2, dtype=torch.float16), "n": 3}
    testing.assert_trees_equal(ft.tree.set(tree, "lr", 0.5)["lr"], torch.full((2,), 0.5, dtype=torch.float16))
    assert ft.tree.set(tree, "n", 0.5)["n"] == 0.5


@given(TREES, st.data())
def test_partition_and_combine_are_inverse(tree: Any, data: st.DataObject) -> None:
    """Two parts, combined in either order, are the tree; each leaf is in the part that the predicate says."""
    chosen = data.draw(st.sets(st.sampled_from(ft.tree.paths(tree)))) if ft.tree.paths(tree) else set()
    taken, rest = ft.tree.partition(tree, lambda path, leaf: path in chosen)
    assert set(ft.tree.paths(taken)) == chosen
    assert set(ft.tree.paths(rest)) == set(ft.tree.paths(tree)) - chosen
    testing.assert_trees_equal(ft.tree.combine(taken, rest), tree)
    testing.assert_trees_equal(ft.tree.combine(rest, taken), tree)
    testing.assert_trees_equal(ft.tree.combine(tree), tree)


@pytest.mark.parametrize(
    ("predicate", "taken"),
    [
        ("*.bias", ["params/layer1.bias"]),
        ("params/*", ["params/layer1.bias", "params/layer1.weight"]),
        (("*lr", "name"), ["name", "opt_state/0/lr"]),
        (lambda path, leaf: isinstance(leaf, torch.Tensor) and leaf.ndim == 2, ["params/layer1.weight"]),
    ],
)
def test_predicates(predicate: Any, taken: list[str]) -> None:
    """A predicate is a glob of the path, several globs, or a function of path and leaf; case counts."""
    assert sorted(ft.tree.paths(ft.tree.partition(STATE, predicate)[0])) == taken


@pytest.mark.parametrize("pattern", ["*EXP_AVG", ("*.bias", "encodr.*")])
def test_a_glob_that_matches_nothing_is_refused(pattern: Any) -> None:
    """A pattern that takes nothing is a misspelling: case counts, and each of several must match."""
    with pytest.raises(ft.PathError, match="no path matches"):
        ft.tree.partition(STATE, pattern)


def test_combine_takes_the_first_leaf_there_is() -> None:
    """Earlier trees win, and None stays where no tree has a leaf."""
    trees = {"a": 1, "b": None, "c": None}, {"a": 2, "b": 3, "c": None}
    assert ft.tree.combine(*trees) == {"a": 1, "b": 3, "c": None}


def test_structs_and_params_are_rebuilt_with_their_statics() -> None:
    """Setting inside a struct or Params keeps static fields and the order of names."""
    tree = Layer(ft.Params({"b": 1, "a": 2}), None, "sparse")
    changed = ft.tree.set(tree, "a", 5)
    assert (changed.name, list(changed.weight.items())) == ("sparse", [("b", 1), ("a", 5)])
