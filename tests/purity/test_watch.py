"""What is found in watched objects, under which name, and when it counts as written to."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import nn

import functional_train as ft
from tests.global_rng import seeded


@given(st.sets(st.sampled_from(["a", "b/0", "b/1", "c"])), st.booleans())
def test_what_is_written_is_what_is_named(chosen: set[str], by_data: bool) -> None:
    """For any choice of leaves, writing to them is recorded of them and of no other."""
    values = {"a": torch.zeros(()), "b": (torch.zeros(2), torch.zeros(2, 2).t()), "c": torch.zeros(3)}
    with ft.record_effects(values=values) as effects, effects.phase("write"):
        for path in chosen:
            leaf = ft.tree.get(values, path)
            (leaf.data if by_data else leaf).add_(1.0)
    assert effects.writes["write"] == {f"values/{path}" for path in chosen}


BITS = {
    "nan again": (lambda t: t.fill_(torch.nan), False),
    "negative zero": (lambda t: t[1:].neg_(), True),
    "one element of a view": (lambda t: t.view(3, 1)[0].zero_(), True),
    "numpy": (lambda t: t.numpy().__setitem__(0, 1.0), True),
    "the same bits": (lambda t: t.copy_(t.clone()), False),
    "another shape": (lambda t: t.resize_(2), True),
}


@pytest.mark.parametrize("name", BITS)
def test_content_is_compared_bit_by_bit(name: str) -> None:
    """Only what changes a bit is a write, however it is done."""
    write, is_write = BITS[name]
    tensor = torch.full((3,), torch.nan) if name == "nan again" else torch.tensor([torch.nan, 0.0, 0.0])
    with ft.record_effects(tensor=tensor) as effects, effects.phase("write"):
        write(tensor)
    assert effects.writes["write"] == ({"tensor"} if is_write else set())


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.bfloat16, torch.float8_e4m3fn, torch.complex128])
def test_every_dtype(dtype: torch.dtype) -> None:
    """Tensors of any dtype are compared, scalars and empty ones too."""
    for shape in ((), (3,), (0, 2)):
        tensor = torch.ones(shape).to(dtype)
        with ft.record_effects(tensor=tensor) as effects:
            with effects.phase("read"):
                tensor.clone()
            with effects.phase("write"):
                tensor.zero_()
        assert effects.writes == {"read": set(), "write": {"tensor"} if tensor.numel() else set()}


def test_sparse_gradients() -> None:
    """The gradient of a sparse embedding is compared by its entries."""
    model = nn.Embedding.from_pretrained(torch.zeros(4, 2), freeze=False, sparse=True)
    with ft.record_effects(model=model) as effects:
        for name in ("first", "second"):
            with effects.phase(name):
                model(torch.tensor([1])).sum().backward()
        with effects.phase("read"):
            model.weight.grad.to_dense()
    assert effects.changes["first"] == {"model.weight.grad": {"appeared"}}
    assert "changed" in effects.changes["second"]["model.weight.grad"]
    assert effects.writes["read"] == set()


def test_lazy_parameters() -> None:
    """A lazy module's first forward gives content to its parameters."""
    with seeded():
        model = nn.LazyLinear(2)
        with ft.record_effects(model=model) as effects, effects.phase("forward"):
            model(torch.ones(2, 4))
    assert effects.writes["forward"] == {"model.weight", "model.bias"}


def test_rebound() -> None:
    """A parameter in the place of another is rebound, and changed when its content differs."""
    with seeded():
        model = nn.Sequential(nn.Linear(4, 5))
    with ft.record_effects(model=model) as effects:
        with effects.phase("equal"):
            model[0].weight = nn.Parameter(model[0].weight.detach().clone())
        with effects.phase("other"):
            model[0].bias = nn.Parameter(torch.ones(5))
    assert effects.changes["equal"] == {"model.0.weight": {"rebound"}}
    assert effects.changes["other"] == {"model.0.bias": {"changed", "rebound"}}


def test_containers_that_grow_and_shrink() -> None:
    """What is put into a watched container appears, what is taken out disappears, in the order of the container."""
    values = {"a": torch.zeros(1), "c": torch.zeros(1), "count": 1}
    with ft.record_effects(values=values) as effects, effects.phase("work"):
        values["b"] = values.pop("c")
        values["count"] = 2
    assert effects.changes["work"] == {
        "values/b": {"appeared"},
        "values/c": {"disappeared"},
        "values/count": {"changed"},
    }
    assert effects.watched == ("values/a", "values/b", "values/c", "values/count")


def test_ties_and_shared_tensors_have_one_name() -> None:
    """A tied weight is named once, and a tensor of two objects by the first; an optimizer alone counts parameters."""
    with seeded():
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with ft.record_effects(optimizer=optimizer) as alone:
        model(torch.ones(1, 2)).sum().backward()
        with alone.phase("step"):
            optimizer.step()
    assert alone.writes["step"] == {f"optimizer.state[{position}].momentum_buffer" for position in range(3)}
    with ft.record_effects(optimizer=optimizer, model=model, more=[model, torch.zeros(1)]) as effects:
        pass
    tensors = [name for name in effects.watched if "param_groups" not in name]
    assert tensors[0] == "optimizer.state[model.0.weight].momentum_buffer"
    assert [name for name in tensors if "optimizer" not in name and "grad" not in name] == [
        "model.0.weight",
        "model.0.bias",
        "model.1.bias",
        "more/1",
    ]


ERRORS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "nothing": (dict, "nothing to watch. Name the objects: ft.record_effects"),
    "a number": (lambda: {"lr": 0.1}, r"'lr' \(a float\) holds no tensor"),
    "an empty tree": (lambda: {"params": {}}, r"'params' \(a dict\) holds no tensor"),
    "no parameters": (lambda: {"model": nn.ReLU()}, r"'model' \(a ReLU\) holds no tensor"),
    "a generator": (lambda: {"params": nn.Linear(1, 1).parameters()}, "read only once: pass a list"),
    "a class": (lambda: {"model": nn.Linear}, "holds no tensor"),
    "one object twice": (lambda: dict.fromkeys(["a", "b"], torch.zeros(1)), "'a' and 'b' are one object"),
    "a part": (
        lambda: {"model": (model := nn.BatchNorm1d(2)), "params": dict(model.named_parameters())},
        "each tensor of 'params' is watched already",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_watched_is_refused(name: str) -> None:
    """Each mistake has a message that names the object and the way out."""
    make, message = ERRORS[name]
    with seeded():
        objects = make()
    with pytest.raises(ft.StructureError, match=message), ft.record_effects(**objects):
        pass
