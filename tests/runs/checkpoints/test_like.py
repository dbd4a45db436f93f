"""`load(path, like=...)` refuses every other tree, says where, and refuses no equal one."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train.values.tree._structure import children, is_leaf, with_children
from tests.runs.checkpoints.trees import Boxed, Pair, assert_same, trees


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("like") / "tree.ckpt"


class Other(NamedTuple):
    """Pair's fields under another name."""

    left: Any
    right: Any


def reshaped(node: Any) -> Any:
    return node[None] if isinstance(node, Tensor) else None


def retyped(node: Any) -> Any:
    if isinstance(node, Tensor):
        return torch.zeros(node.shape, dtype=torch.int32 if node.dtype != torch.int32 else torch.float32)
    return "2" if is_leaf(node) and not isinstance(node, str) else None


def replaced_by_value(node: Any) -> Any:
    return 1.5 if isinstance(node, Tensor) else None


def dropped(node: Any) -> Any:
    if type(node) in (list, tuple) and node:
        return node[:-1]
    return type(node)(list(node.items())[:-1]) if type(node) in (dict, OrderedDict, ft.Params) and node else None


def added(node: Any) -> Any:
    if type(node) in (list, tuple):
        return node + type(node)([torch.ones(1)])
    return type(node)({**node, "new": torch.ones(1)}) if type(node) in (dict, OrderedDict, ft.Params) else None


def renamed(node: Any) -> Any:
    if type(node) not in (dict, OrderedDict, ft.Params) or not node:
        return None
    (name, leaf), *rest = node.items()
    return type(node)({**dict(rest), "another": leaf}) if name != "another" else None


def reordered(node: Any) -> Any:
    swapped = type(node) in (OrderedDict, ft.Params) and len(node) > 1
    return type(node)(reversed(list(node.items()))) if swapped else None


def another_container(node: Any) -> Any:
    if type(node) is Pair:
        return Other(*node)
    if type(node) in (list, tuple):
        return tuple(node) if type(node) is list else list(node)
    if type(node) is ft.Params:
        return dict(node)
    return {"value": node.value} if type(node) is Boxed else None


def another_static(node: Any) -> Any:
    return node.replace(label="other") if type(node) is Boxed else None


EDITS = (reshaped, retyped, replaced_by_value, dropped, added, renamed, reordered, another_container, another_static)


def edited(tree: Any, edit: Callable[[Any], Any], path: str = "") -> list[tuple[str, Any]]:
    """Every tree that differs from one by one edit, and the path of the node that was edited."""
    here = edit(tree)
    found = [] if here is None else [(path, here)]
    below = children(tree) or []
    for place, (name, child) in enumerate(below):
        for where, new in edited(child, edit, f"{path}/{name}" if path else name):
            others = [other for _, other in below]
            found.append((where, with_children(tree, [*others[:place], new, *others[place + 1 :]])))
    return found


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_every_edit_is_refused(place: Path, edit: Callable[[Any], Any]) -> None:
    """All nodes of random trees, edited one by one, both ways: the error has the path of the node or of one in it."""
    seen = []

    @given(tree=trees())
    def run(tree: Any) -> None:
        changed = edited(tree, edit)
        if not changed:
            return
        ft.save(place, tree, fsync=False)
        for path, other in changed:
            seen.append(path)
            with pytest.raises(ft.StructureError) as caught:
                ft.load(place, like=other)
            assert (repr(path)[1:-1] if path else "at ") in str(caught.value)
        ft.save(place, changed[0][1], fsync=False)
        with pytest.raises(ft.StructureError):
            ft.load(place, like=tree)

    run()
    assert seen


@given(tree=trees(), seed=st.randoms(use_true_random=False))
def test_dicts_are_equal_in_any_order(place: Path, tree: Any, seed: Any) -> None:
    """As they are to Python; no false refusal."""

    def turned(node: Any) -> Any:
        if type(node) is dict:
            items = list(node.items())
            seed.shuffle(items)
            return {name: turned(child) for name, child in items}
        below = children(node)
        return with_children(node, [turned(child) for _, child in below]) if below else node

    ft.save(place, tree, fsync=False)
    assert_same(ft.load(place, like=turned(tree)), tree)


def test_all_differences_are_listed(place: Path) -> None:
    """Not only the first."""
    ft.save(place, {"a": torch.ones(2), "b": [1, 2], "c": torch.ones(1)}, fsync=False)
    with pytest.raises(ft.StructureError) as caught:
        ft.load(place, like={"a": torch.ones(3), "b": (1, 2), "d": None})
    assert str(caught.value).splitlines()[1:-1] == [
        "  at 'd': the file has nothing there",
        "  at 'c': the file has it, nothing is wanted there",
        "  at 'a': the file has shape (2,), wanted is (3,)",
        "  at 'b': the file has a list, wanted is a tuple",
    ]
    assert str(place) in str(caught.value)


def test_anything_where_it_is_asked_for(place: Path) -> None:
    """`...` takes what the file has there."""
    tree = {"state": ft.Params({"w": torch.ones(2)}), "rest": [{"x": 1}, torch.zeros(1)]}
    ft.save(place, tree, fsync=False)
    assert_same(ft.load(place, like={"state": ft.Params({"w": torch.zeros(2)}), "rest": ...}), tree)
    assert_same(ft.load(place, like={"state": ft.Params({"w": torch.zeros(2)}), "rest": [..., torch.zeros(1)]}), tree)
    assert_same(ft.load(place, like=...), tree)


def test_casting_is_asked_for(place: Path) -> None:
    """Only then do dtypes convert, and never so that a part of a number is lost."""
    ft.save(place, {"w": torch.tensor([1.5], dtype=torch.float64), "n": torch.tensor(3)}, fsync=False)
    like = {"w": torch.zeros(1, dtype=torch.bfloat16), "n": torch.tensor(0)}
    with pytest.raises(ft.StructureError, match="at 'w': the file has float64, wanted is bfloat16"):
        ft.load(place, like=like)
    found = ft.load(place, like=like, cast=True)
    assert_same(found, {"w": torch.tensor([1.5], dtype=torch.bfloat16), "n": torch.tensor(3)})
    with pytest.raises(ft.StructureError, match="the file has float64, wanted is int64"):
        ft.load(place, like={"w": torch.zeros(1, dtype=torch.int64), "n": torch.tensor(0)}, cast=True)
    with pytest.raises(ft.StructureError, match="which was not given"):
        ft.load(place, cast=True)


def test_parts_are_asked_for(place: Path) -> None:
    """By path: what both have, or what a glob takes; shapes still have to agree."""
    old = {"body": {"w": torch.ones(2)}, "head": torch.ones(3), "old": torch.ones(1)}
    like = {"body": {"w": torch.zeros(2)}, "head": torch.zeros(4), "new": torch.zeros(1)}
    ft.save(place, old, fsync=False)
    with pytest.raises(ft.StructureError, match="at 'head': the file has shape"):
        ft.load(place, like=like, partial=True)
    found = ft.load(place, like=like, partial="body/*")
    assert_same(found, {**like, "body": old["body"]})
    assert found["head"] is like["head"]
    assert_same(ft.load(place, like=like, partial=lambda path, leaf: "w" in path and leaf.numel() == 2), found)
    without_head = {"body": {"w": torch.zeros(2)}, "new": torch.zeros(1)}
    assert_same(ft.load(place, like=without_head, partial=True), {**without_head, "body": old["body"]})
    with pytest.raises(ft.StructureError, match=r"has nothing at new\. It has body/w, head, old"):
        ft.load(place, like=like, partial=["body/*", "new"])
    with pytest.raises(ft.StructureError, match="no path in common"):
        ft.load(place, like={"x": torch.ones(1)}, partial=True)
    with pytest.raises(ft.PathError, match="no path matches 'bod'"):
        ft.load(place, like=like, partial="bod")


def test_a_state_of_another_optimizer(place: Path) -> None:
    """The usual mistake, and the usual way out: take the parameters alone."""
    params = {"w": torch.ones(2)}
    ft.save(place, ft.init_state(params, ft.adam()), fsync=False)
    like = ft.init_state({"w": torch.zeros(2)}, ft.sgd(momentum=0.9))
    with pytest.raises(ft.StructureError, match="at 'opt_state/0'"):
        ft.load(place, like=like)
    found = ft.load(place, like=like, partial="params/*")
    assert torch.equal(found.params["w"], torch.ones(2))
    assert found.opt_state is not None
    assert ft.tree.same_structure(found, like)


def test_the_first_of_many_differences(tmp_path: Path) -> None:
    """Of a hundred differences people read the first, and how many there are; of a hundred paths likewise."""
    path = tmp_path / "tree.ckpt"
    ft.save(path, {f"{i:03}": torch.zeros(1) for i in range(100)})
    other = {f"{i:03}": torch.zeros(2) for i in range(100)}
    with pytest.raises(ft.StructureError) as found:
        ft.load(path, like=other)
    lines = str(found.value).splitlines()
    assert len(lines) == 23
    assert "019" in lines[20]
    assert lines[21] == "  and 80 more"
    with pytest.raises(ft.StructureError, match=r"The file has 000, 001, .*, 019, and 80 more\.$"):
        ft.load(path, like={"w": torch.zeros(1)}, partial=True)
