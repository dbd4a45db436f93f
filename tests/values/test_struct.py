"""`struct` makes frozen dataclasses whose dynamic fields are children and whose static fields are structure."""

import copy
import dataclasses
import pickle
from typing import Any, Generic, TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train import testing

T = TypeVar("T")


@ft.struct
class Point:
    """Two coordinates."""

    x: Any
    y: Any = 0.0


@ft.struct
class Scaled(Generic[T]):
    """Generic, with static fields and a method."""

    value: T
    factor: float = ft.static_field(default=1.0)
    unit: str = ft.static_field(default="m", metadata={"doc": "what is measured"})

    @property
    def scaled(self) -> Any:
        return ft.tree.scale(self.factor, self.value)


@ft.struct
class Counted:
    """Counts its leaves whenever it is made."""

    tree: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_leaves", len(ft.tree.leaves(self.tree)))


@ft.struct
class Solid(Point):
    """Inherits fields, and has a `replace` of its own."""

    z: Any = 0.0

    def replace(self, **changes: Any) -> "Solid":
        """Refuse to leave the plane."""
        return dataclasses.replace(self, **{**changes, "z": 0.0})


VALUES = st.builds(
    Scaled,
    testing.pytrees(testing.tensors()) | st.builds(Point, testing.tensors(), st.none()),
    st.sampled_from((1.0, 2.0)),
)


@given(VALUES)
def test_fields_are_children_and_statics_are_structure(value: Scaled[Any]) -> None:
    """Leaves are those of dynamic fields; static fields come through a rebuild and make another structure."""
    leaves, structure = ft.tree.flatten(value)
    testing.assert_trees_equal(leaves, ft.tree.leaves(value.value))
    again = ft.tree.unflatten(structure, leaves)
    assert (again.factor, again.unit) == (value.factor, value.unit)
    testing.assert_trees_equal(again, value)
    assert not ft.tree.same_structure(value, value.replace(unit="s"))
    assert ft.tree.same_structure(value, value.replace(unit="m"))
    assert all(path.startswith("value") for path in ft.tree.paths(value))


@given(VALUES)
def test_survives_pickle_and_copies(value: Scaled[Any]) -> None:
    """Pickle and both copies keep the class, static fields and bits."""
    for again in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value), copy.copy(value)):
        assert type(again) is Scaled
        testing.assert_trees_equal(again, value)
    assert copy.copy(value).value is value.value


def test_replace_makes_another_value() -> None:
    """`replace` changes what is named, leaves the rest the same objects and the old value alone."""
    x, y = torch.ones(1), torch.zeros(1)
    point = Point(x, y)
    moved = point.replace(y=5.0)
    assert (moved.x is x, moved.y, point.y is y) == (True, 5.0, True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        point.replace(z=1.0)
    assert Solid(1.0, 2.0, 3.0).replace(x=7.0).z == 0.0


def written(point: Any) -> None:
    point.x = 3.0


def removed(point: Any) -> None:
    del point.x


def added(point: Any) -> None:
    point.new = 3.0


@pytest.mark.parametrize(("write", "name"), [(written, "x"), (removed, "x"), (added, "new")])
def test_writing_is_an_error_that_shows_the_way(write: Any, name: str) -> None:
    """No attribute can be written, removed or added, and the message shows `replace`."""
    message = rf"Point is immutable: '{name}' cannot be written or removed.* value.replace\({name}=...\)"
    with pytest.raises(ft.ImmutableError, match=message):
        write(Point(1.0))


def test_post_init_runs_whenever_a_value_is_made() -> None:
    """It runs for the constructor, replace, map, unflatten, pickle and copies."""
    value = Counted({"a": 1, "b": (2, 3)})
    made = [
        value,
        value.replace(tree=[1]),
        ft.tree.map(lambda leaf: [leaf, leaf], value),
        torch.utils._pytree.tree_map(lambda leaf: leaf, value),
        pickle.loads(pickle.dumps(value)),
        copy.deepcopy(value),
    ]
    assert [each.num_leaves for each in made] == [3, 1, 6, 3, 3, 3]


def test_structs_nest_and_inherit() -> None:
    """A struct in a struct is walked by field names, and a subclass has the fields of its base."""
    solid = Solid(Point(torch.ones(2)), Scaled({"w": torch.ones(1)}, 3.0))
    assert ft.tree.paths(solid) == ["x/x", "x/y", "y/value/w", "z"]
    doubled = ft.tree.map(lambda leaf: 2 * leaf, solid)
    assert type(doubled) is Solid
    testing.assert_trees_equal(doubled.y.scaled, {"w": torch.tensor([6.0])})
    assert Scaled[Tensor](torch.ones(1)).value.shape == (1,)


def test_equality_is_identity() -> None:
    """Tensors have no single truth value, so a struct equals itself alone, and hashes."""
    point = Point(torch.ones(2))
    assert point == point
    assert point != Point(point.x)
    assert len({point, Point(point.x)}) == 2
    assert repr(Point(1.0)) == "Point(x=1.0, y=0.0)"
    assert dataclasses.fields(Scaled)[2].metadata["doc"] == "what is measured"


def test_goes_through_transforms_of_torch() -> None:
    """vmap and grad take and return structs, and leave None and static fields as they are."""
    value = Scaled(Point(torch.tensor([1.0, 2.0]), None), 3.0)
    grads = torch.func.grad(lambda v: (v.factor * v.value.x).sum())(value)
    testing.assert_trees_equal(grads, value.replace(value=Point(torch.tensor([3.0, 3.0]), None)))
    mapped = torch.func.vmap(lambda v: v.replace(value=Point(v.value.x * v.factor, None)))(value)
    testing.assert_trees_equal(mapped, value.replace(value=Point(torch.tensor([3.0, 6.0]), None)))
