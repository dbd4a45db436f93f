"""What counts as a read: memory that was there when the phase began, and that an operation looked at."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from torch import Tensor, nn

import functional_train as ft
from tests.global_rng import seeded


def effects_on(tensor: Tensor, work: Callable[[Tensor], Any]) -> ft.Effects:
    with ft.record_effects(tensor=tensor) as effects, effects.phase("work"):
        work(tensor)
    return effects


@given(st.sets(st.sampled_from(["a", "b/0", "b/1", "c"])), st.booleans())
def test_what_is_read_is_what_is_named(chosen: set[str], by_data: bool) -> None:
    """For any choice of leaves, computing with them is recorded of them and of no other."""
    values = {"a": torch.zeros(()), "b": (torch.zeros(2), torch.zeros(2, 2).t()), "c": torch.zeros(3)}
    with ft.record_effects(values=values) as effects, effects.phase("read"):
        for path in chosen:
            leaf = ft.tree.get(values, path)
            _ = (leaf.data if by_data else leaf) + 1.0
    assert effects.reads["read"] == {f"values/{path}" for path in chosen}
    assert effects.writes["read"] == set()


OTHER = torch.tensor([[3.0, 4.0], [5.0, 6.0]])
INDEX = torch.tensor([0])
READING: dict[str, Callable[[Tensor], Any]] = {
    "arithmetic": lambda t: t + 1.0,
    "through a view": lambda t: t.view(4)[1:].t().exp(),
    "through detach": lambda t: t.detach().sum(),
    "in place": lambda t: t.mul_(2.0),
    "in place, many": lambda t: torch._foreach_add_([t], 1.0),
    "in place, of a part": lambda t: t[0].add_(1.0),
    "as a source": lambda t: torch.empty(2, 2).copy_(t),
    "as input and out": lambda t: torch.add(t, OTHER, out=t),
    "in a list": lambda t: torch.cat([OTHER, t]),
    "clone": lambda t: t.clone(),
    "contiguous that copies": lambda t: t.t().contiguous(),
    "item": lambda t: t[0, 0].item(),
    "equal": lambda t: torch.equal(t, OTHER),
    "nonzero of nothing": lambda t: (t - 1.0).nonzero() is t.nonzero(),
    "index_put_ that adds": lambda t: t.index_put_((INDEX,), OTHER[0], accumulate=True),
    "scatter_ that multiplies": lambda t: t.scatter_(0, INDEX[None], 2.0, reduce="multiply"),
    "probabilities": lambda t: torch.bernoulli(t, generator=torch.Generator()),
    "cond": lambda t: torch._higher_order_ops.cond(torch.tensor(True), torch.sin, torch.cos, (t,)),
    "vmap": torch.func.vmap(lambda row: row.sum()),
    "grad": torch.func.grad(lambda x: (x * x).sum()),
    "vmap over grad": torch.func.vmap(torch.func.grad(lambda x: x.square().sum())),
    "jvp": lambda t: torch.func.jvp(torch.sin, (OTHER,), (t,)),
    "double backward": torch.func.hessian(lambda x: x.sin().sum()),
}
NOT_READING: dict[str, Callable[[Tensor], Any]] = {
    "nothing": lambda t: None,
    "views": lambda t: (t.view(4), t.t(), t[0], t.detach(), t.unbind(), t.split(1), t.expand(3, 2, 2), t.diagonal()),
    "a view of another dtype": lambda t: t.view(torch.int32),
    "contiguous that does not copy": lambda t: t.contiguous().reshape(4),
    "shapes": lambda t: (t.shape, t.stride(), t.numel(), t.is_contiguous(), t.dtype),
    "like it": lambda t: (torch.zeros_like(t), torch.empty_like(t), t.new_ones(2), torch.full_like(t, 2.0)),
    "draws like it": lambda t: torch.bernoulli(t, 0.5, generator=torch.Generator()),
    "expand_as": OTHER.expand_as,
    "zero_": lambda t: t.zero_(),
    "fill_": lambda t: t.fill_(2.0),
    "copy_": lambda t: t.copy_(OTHER),
    "assignment": lambda t: t.__setitem__(0, 2.0),
    "out": lambda t: torch.add(OTHER, OTHER, out=t),
    "draw": lambda t: t.normal_(generator=torch.Generator()),
    "overwrite many": lambda t: (torch._foreach_zero_([t]), torch._foreach_copy_([t], [OTHER])),
    "index_put_": lambda t: t.index_put_((INDEX,), OTHER[0]),
    "scatter_": lambda t: t.scatter_(0, INDEX[None], 2.0),
    "masked_fill_": lambda t: t.masked_fill_(OTHER > 4.0, 0.0),
    "set_": lambda t: t.set_(OTHER.clone()),
    "resize_": lambda t: t.resize_(1, 2),
    "data": lambda t: setattr(t, "data", OTHER.clone()),
    "grad mode": lambda t: t.requires_grad_(True).detach_(),
    "another tensor": lambda t: OTHER.sum(),
}


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("inference", [False, True])
def test_reads(name: str, inference: bool) -> None:
    """Whatever looks at a number reads the tensor, through views, lists and transforms, and in inference mode."""
    with torch.inference_mode(inference):
        effects = effects_on(torch.ones(2, 2), READING[name])
    assert effects.reads["work"] == {"tensor"}


@pytest.mark.parametrize("name", NOT_READING)
@pytest.mark.parametrize("inference", [False, True])
def test_no_reads(name: str, inference: bool) -> None:
    """A view, a question about the shape, and an overwriting look at no number."""
    with torch.inference_mode(inference):
        effects = effects_on(torch.ones(2, 2), NOT_READING[name])
    assert effects.reads["work"] == set()


def test_parts_of_one_memory() -> None:
    """Tensors that share a storage are told apart by the bytes that are theirs; a read of all reads each."""
    memory = torch.zeros(6)
    parts = {"a": memory[:2], "b": memory[2:4], "empty": memory[3:3], "c": memory[4:]}
    with ft.record_effects(parts=parts) as effects:
        with effects.phase("one"):
            parts["b"].sum()
        with effects.phase("two"):
            memory[1:3].sum()
        with effects.phase("all"):
            memory.view(2, 3).sum()
    assert effects.reads == {
        "one": {"parts/b"},
        "two": {"parts/a", "parts/b"},
        "all": {"parts/a", "parts/b", "parts/c"},
    }


def test_what_a_phase_makes_is_not_read_by_it() -> None:
    """A tensor that appears or is put in the place of another is read from the next phase on."""
    values = {"x": torch.zeros(2)}
    with ft.record_effects(values=values) as effects:
        for name in ("make", "read"):
            with effects.phase(name):
                if name == "make":
                    values["x"] = torch.ones(2)  # perhaps where the old one was
                    values["y"] = torch.ones(2)
                values["x"].sum()
                values["y"].sum()
    assert effects.reads == {"make": set(), "read": {"values/x", "values/y"}}


def test_conjugate_views() -> None:
    """A lazy conjugate is a view, and what computes with it reads."""
    values = torch.ones(2, dtype=torch.complex64)
    assert effects_on(values, lambda t: t.conj()).reads["work"] == set()
    assert effects_on(values, lambda t: t.conj() * 2.0).reads["work"] == {"tensor"}
    assert effects_on(values.conj(), lambda t: t.sum()).reads["work"] == {"tensor"}


def sparse_tensors() -> dict[str, Tensor]:
    dense = torch.eye(4)
    return {"coo": dense.to_sparse(), "csr": dense.to_sparse_csr(), "csc": dense.to_sparse_csc()}


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta state")
@pytest.mark.parametrize("name", ["coo", "csr", "csc"])
def test_sparse_tensors(name: str) -> None:
    """A sparse tensor is read by its parts."""
    tensor = sparse_tensors()[name]
    assert effects_on(tensor, lambda t: t @ torch.ones(4, 1)).reads["work"] == {"tensor"}
    assert effects_on(tensor, lambda t: t.shape).reads["work"] == set()
    assert effects_on(tensor, lambda t: t.values().sum()).reads["work"] == {"tensor"}


def test_sparse_gradients() -> None:
    """A step with a sparse gradient reads it, and the whole loop is recorded."""
    with seeded():
        model = nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ft.record_effects(model=model, optimizer=optimizer) as effects, effects.lines():
        loss = model(torch.tensor([1])).sum()
        loss.backward()
        optimizer.step()
    assert [effects.reads[phase] for phase in effects.phases] == [
        {"model.weight"},
        set(),
        {"model.weight", "model.weight.grad"},
    ]


def test_nested_tensors_and_those_without_a_storage() -> None:
    """Tensors of other kinds do not stop the recording."""
    nested = torch.nested.as_nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    assert effects_on(nested, lambda t: t * 2.0).reads["work"] == {"tensor"}
    assert effects_on(torch.ones(2), lambda t: t.to_mkldnn() + t.to_mkldnn()).reads["work"] == {"tensor"}
    assert effects_on(torch.ones(2, device="meta"), lambda t: t + 1.0).writes["work"] == set()


BACKWARDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "linear": (lambda: nn.Linear(3, 3), (2, 3), {"weight"}),
    "convolution": (lambda: nn.Conv1d(3, 3, 1), (2, 3, 4), {"weight"}),
    "layer norm": (lambda: nn.LayerNorm(3), (2, 3), {"weight"}),
    "group norm": (lambda: nn.GroupNorm(1, 3), (2, 3, 4), {"weight"}),
    "instance norm": (lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True), (2, 3, 4), set()),
    "batch norm": (lambda: nn.BatchNorm1d(3), (2, 3), {"weight"}),
}


@pytest.mark.parametrize("name", BACKWARDS)
@pytest.mark.parametrize("is_first", [False, True])
def test_backward_reads_weights_and_never_biases(name: str, is_first: bool) -> None:
    """Backward reads weights, where a gradient goes on from there, and neither biases nor running statistics.

    An instance norm repeats its weight in forward, and its backward reads the copy.
    """
    make_module, shape, expected = BACKWARDS[name]
    with seeded():
        model = make_module()
    output = model(torch.arange(24.0)[: torch.Size(shape).numel()].reshape(shape).sin().requires_grad_(not is_first))
    loss = output.square().sum()
    with ft.record_effects(model=model) as effects, effects.phase("backward"):
        loss.backward()
    if not is_first:
        assert effects.reads["backward"] == {f"model.{weight}" for weight in expected}
    assert "model.bias" not in effects.reads["backward"]
    if is_first and name in {"linear", "convolution"}:
        assert effects.reads["backward"] == set()


def test_recurrent_weights() -> None:
    """A recurrent module reads all its weights, wherever they lie."""
    with seeded():
        model = nn.LSTM(3, 2, num_layers=2)
    with ft.record_effects(model=model) as effects, effects.phase("forward"):
        model(torch.ones(4, 1, 3))
    assert effects.reads["forward"] == {name for name in effects.watched if not name.endswith("grad")}


def test_inside_a_transform() -> None:
    """Tensors that a transform of torch.func has wrapped are watched like any other."""
    seen: list[ft.Effects] = []

    def fn(x: Tensor, y: Tensor) -> Tensor:
        with ft.record_effects(x=x, y=y) as effects, effects.phase("work"):
            result = x.square().sum()
        seen.append(effects)
        return result + y.sum()

    torch.func.grad(fn)(torch.ones(2), torch.ones(2))
    assert [effects.reads["work"] for effects in seen] == [{"x"}]


def test_compiled_code_is_seen() -> None:
    """A function that was compiled before the recording is seen reading its argument."""
    fn = torch.compile(lambda x: (x * 2.0).sum(), backend="eager")
    fn(torch.ones(3))
    assert effects_on(torch.ones(3), fn).reads["work"] == {"tensor"}
    step = ft.compile(lambda x: (x * 2.0).sum(), backend="eager")
    step(torch.ones(3))
    assert effects_on(torch.ones(3), step).reads["work"] == {"tensor"}


def test_nested_phases_and_recordings() -> None:
    """All open phases see a read, also those of another recording; what recording itself reads is no read."""
    first, second = torch.zeros(2), torch.zeros(2)
    with (
        ft.record_effects(first=first, second=second) as effects,
        ft.record_effects(again=second) as others,
        effects.phase("outer"),
        others.phase("other"),
    ):
        with effects.phase("empty"):
            pass
        with effects.phase("inner"), others.phase("nothing"):
            first.sum()
        second.sum()
    assert effects.reads == {"outer": {"first", "second"}, "empty": set(), "inner": {"first"}}
    assert others.reads == {"other": {"again"}, "nothing": set()}


def test_a_phase_that_fails_has_reads() -> None:
    """What was read before an error is on record."""
    tensor = torch.zeros(2)
    with ft.record_effects(tensor=tensor) as effects, pytest.raises(ZeroDivisionError), effects.phase("fail"):
        _ = 1.0 / float(tensor.sum())
    assert effects.reads["fail"] == {"tensor"}
    assert torch._C._len_torch_dispatch_stack() == 0


def test_calls_of_parts_and_of_modules_in_trees() -> None:
    """A call of a part is a call of the watched module that it belongs to; a call through functional_call is one."""
    with seeded():
        model, other = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2)
    x = torch.ones(1, 2)
    with ft.record_effects(model=model, more=[other, torch.zeros(1)]) as effects:
        with effects.phase("part"):
            model[1](x)
        with effects.phase("in a tree"):
            other(x)
        with effects.phase("both"), torch.no_grad():
            torch.func.functional_call(model, dict(model.named_parameters()), (other(x),))
        with effects.phase("neither"):
            F.linear(x, other.weight)
        nn.ReLU()(x)
    assert effects.calls == {
        "part": {"model"},
        "in a tree": {"more/0"},
        "both": {"model", "more/0"},
        "neither": set(),
    }
    assert effects.describe().splitlines()[1] == "`in a tree` called more/0 and read more/0.weight and more/0.bias."


def test_nothing_is_left_behind() -> None:
    """After the recording no hook, no mode and no tensor is left."""
    hooks = torch.nn.modules.module._global_forward_pre_hooks
    num_hooks = len(hooks)
    with seeded():
        model = nn.Linear(2, 2)
    with ft.record_effects(model=model) as effects, effects.phase("forward"):
        assert len(hooks) == num_hooks + 1
        model(torch.ones(2))
    assert len(hooks) == num_hooks
    assert torch._C._len_torch_dispatch_stack() == 0
    gone = [weakref.ref(model), weakref.ref(model.weight)]
    del model
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    assert effects.reads["forward"] == {"model.weight", "model.bias"}


def test_sentences() -> None:
    """Each phase has its sentence, which says what a module that was not called went through."""
    with seeded():
        model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1, momentum=0.9)
    with ft.record_effects(model=model, optimizer=optimizer, other=other) as effects, effects.lines():
        loss = (model(torch.ones(2)) + other(torch.ones(2))).sum()
        loss.backward()
        optimizer.step()
        loss = None
    lines = effects.describe(30).splitlines()
    assert lines[0].startswith("`loss = (model(torch.ones(2)) + other(torch.ones(2))).sum()` called model and other")
    assert lines[1] == (
        "`loss.backward()` wrote model.weight.grad, model.bias.grad, other.weight.grad and other.bias.grad."
    )
    assert lines[2].endswith(
        "and wrote model.weight, model.bias (the model was not called), optimizer.state[model.weight].momentum_buffer, "
        "optimizer.state[model.bias].momentum_buffer, optimizer.state[other.weight].momentum_buffer, "
        "optimizer.state[other.bias].momentum_buffer, other.weight and other.bias (the other was not called)."
    )
    assert lines[3] == "`loss = None` read and wrote nothing."
    grouped = effects.describe(1).splitlines()
    assert grouped[1] == "`loss.backward()` wrote model.*.grad (2 gradients) and other.*.grad (2 gradients)."
    with pytest.raises(ft.StructureError, match="max_rows must be at least 1, got 0"):
        effects.describe(0)
