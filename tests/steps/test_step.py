"""`make_step`: a pure function that passes on exactly what its state owns."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import functional_train as ft
from tests import global_rng
from tests.global_rng import seeded
from tests.profiles import examples
from tests.trees import Witness, assert_bitwise, assert_close, like, nestings, normal, seeds, tensors

OPTIMIZERS = {
    "sgd": lambda: ft.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: ft.adam(0.1),
    "adamw": lambda: ft.chain(ft.clip_by_global_norm(1.0), ft.adamw(ft.schedules.linear(0.1, 0.0, 9))),
}


def distance(params: Any, batch: Any, **owned: Any) -> Tensor:
    """Half the squared distance between two trees."""
    apart = ft.tree.sub(params, batch)
    return ft.tree.vdot(apart, apart) / 2


@settings(max_examples=examples(30))
@given(nestings(tensors()), seeds(), st.sampled_from(sorted(OPTIMIZERS)))
def test_a_step_is_pure(params: Any, seed: int, name: str) -> None:
    """State and batch stay what they are, no global generator moves, and the same step again gives the same bits."""
    optimizer = OPTIMIZERS[name]()
    step = ft.make_step(ft.grad_and_value(distance), optimizer)
    state, _ = step(ft.init_state(params, optimizer, key=ft.random.key(0)), like(seed, params))
    batch = like(seed + 1, params)
    witness, generators = Witness(state, batch), global_rng.snapshot()
    first, second = step(state, batch), step(state, batch)
    witness.check()
    assert not global_rng.disturbed(generators, global_rng.snapshot())
    assert_bitwise(second, first)
    assert not any(leaf.requires_grad for leaf in ft.tree.leaves(first))


@given(nestings(tensors()), seeds(), st.sampled_from(sorted(OPTIMIZERS)))
@settings(max_examples=examples(30))
def test_a_step_is_its_parts(params: Any, seed: int, name: str) -> None:
    """A step is the gradient, then the update, and nothing else; it counts the batch."""
    optimizer, batch = OPTIMIZERS[name](), like(seed, params)
    state = ft.init_state(params, optimizer)
    new_state, metrics = ft.make_step(ft.grad_and_value(distance), optimizer)(state, batch)
    grads, loss = ft.grad_and_value(distance)(params, batch)
    expected = ft.make_update(optimizer)(grads, state.opt_state, params)
    assert_bitwise((new_state.params, new_state.opt_state), expected)
    assert_bitwise(metrics, {"loss": loss})
    assert new_state.step == 1
    assert new_state.step.dtype == torch.int64
    assert new_state.buffers is None
    assert new_state.key is None


@pytest.mark.parametrize("has_key", [False, True])
@pytest.mark.parametrize("has_buffers", [False, True])
def test_what_is_owned_is_passed_and_nothing_else(has_key: bool, has_buffers: bool) -> None:
    """`key=` and `buffers=` reach the gradient function exactly when the state owns them."""
    passed: list[dict[str, Any]] = []

    def grad_fn(params: Any, batch: Any, **owned: Any) -> Any:
        passed.append(owned)
        new_buffers = ft.Params({"mean": owned["buffers"]["mean"] + 1}) if has_buffers else None
        return params, (torch.tensor(0.5), ft.Aux({"accuracy": torch.tensor(0.25)}, new_buffers))

    buffers = ft.Params({"mean": torch.tensor(1.0)}) if has_buffers else None
    key = ft.random.key(3) if has_key else None
    optimizer = ft.sgd(0.1)
    state = ft.init_state({"w": torch.ones(2)}, optimizer, buffers=buffers, key=key)
    new_state, metrics = ft.make_step(grad_fn, optimizer)(state, None)
    assert set(passed[0]) == {name for name, owned in (("key", has_key), ("buffers", has_buffers)) if owned}
    assert set(metrics) == {"loss", "accuracy"}
    if has_buffers:
        assert passed[0]["buffers"] is buffers
        assert new_state.buffers["mean"] == 2.0
        assert buffers["mean"] == 1.0
    if has_key:
        assert not torch.equal(new_state.key, state.key)
        assert not torch.equal(passed[0]["key"], state.key)
        assert not torch.equal(passed[0]["key"], new_state.key)
    else:
        assert new_state.key is None


def test_keys_are_never_used_twice() -> None:
    """The loss, the optimizer and the next state get keys of their own, at every step others."""
    seen: list[Tensor] = []

    def grad_fn(params: Any, batch: Any, *, key: Tensor) -> Any:
        seen.append(key)
        return params, torch.tensor(0.0)

    def update(grads: Any, state: Any, params: Any, *, key: Tensor, **extra: Any) -> Any:
        seen.append(key)
        return grads, state

    optimizer = ft.GradientTransformation(lambda params: (), update)
    state = ft.init_state({"w": torch.ones(1)}, optimizer, key=ft.random.key(0))
    seen.append(state.key)
    for _ in range(5):
        state, _ = ft.make_step(grad_fn, optimizer)(state, None)
        seen.append(state.key)
    assert len({tuple(key.tolist()) for key in seen}) == len(seen) == 16


def test_a_run_with_a_key_is_a_function_of_the_key() -> None:
    """Equal keys give equal runs, other keys other runs."""

    def loss_fn(params: Any, batch: Tensor, *, key: Tensor) -> Tensor:
        return (params["w"] * batch * ft.random.normal(key, batch.shape)).square().sum()

    optimizer = ft.sgd(0.01)
    step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)

    def train(seed: int) -> Tensor:
        state = ft.init_state({"w": torch.ones(20)}, optimizer, key=ft.random.key(seed))
        return ft.fold(step, state, [torch.ones(20)] * 3).params["w"]

    assert torch.equal(train(0), train(0))
    assert not torch.equal(train(0), train(1))


def test_buffers_of_a_module_move_on() -> None:
    """BatchNorm's running statistics go from state to state as they do in a module that trains itself."""
    with seeded():
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    apply, params, buffers = ft.functionalize(module)

    def loss_fn(params: Any, batch: Any, *, buffers: Any) -> Any:
        x, y = batch
        logits, new_buffers = apply(params, x, buffers=buffers)
        accuracy = (logits.argmax(1) == y).double().mean()
        return F.cross_entropy(logits, y), ft.Aux({"accuracy": accuracy}, new_buffers)

    optimizer = ft.sgd(0.1)
    step = ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), optimizer)
    state = ft.init_state(params, optimizer, buffers=buffers)
    reference = torch.optim.SGD(module.parameters(), 0.1, foreach=False)
    for seed in range(3):
        batch = normal(seed, (8, 3)), torch.arange(8) % 2
        witness = Witness(state)
        state, metrics = step(state, batch)
        witness.check()
        reference.zero_grad()
        loss = F.cross_entropy(module(batch[0]), batch[1])
        loss.backward()
        reference.step()
        assert_close(metrics["loss"], loss.detach(), 1e-13)
    assert set(metrics) == {"loss", "accuracy"}
    assert_close(dict(state.buffers), dict(module.named_buffers()), 1e-13)
    assert_close(dict(state.params), {name: leaf.detach() for name, leaf in module.named_parameters()}, 1e-12)


def test_a_plain_mapping_as_aux_is_metrics() -> None:
    """Metrics may come as a dict; they are detached, and the loss stands among them."""

    def loss_fn(params: Any, batch: Any) -> Any:
        return params["w"].sum(), {"norm": params["w"].norm(), "count": 3}

    optimizer = ft.sgd(0.1)
    step = ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), optimizer)
    _, metrics = step(ft.init_state({"w": torch.ones(4)}, optimizer), None)
    assert metrics == {"loss": torch.tensor(4.0), "norm": torch.tensor(2.0), "count": 3}


def test_the_optimizer_hears_value_and_can_evaluate_again() -> None:
    """`value=` is the loss, and `grad_and_value_fn=` computes it elsewhere, on the same batch, key and buffers."""
    heard: dict[str, Any] = {}

    def update(grads: Any, state: Any, params: Any, **extra: Any) -> Any:
        heard.update(extra)
        heard["again"] = extra["grad_and_value_fn"](params)
        heard["elsewhere"] = extra["grad_and_value_fn"](ft.tree.scale(2, params))
        return ft.tree.scale(-0.1, grads), state

    def loss_fn(params: Any, batch: Any, *, key: Tensor, buffers: Any) -> Any:
        noise = ft.random.normal(key, params["w"].shape)
        return ((params["w"] + noise) * batch).square().sum(), ft.Aux(buffers=buffers)

    optimizer = ft.GradientTransformation(lambda params: (), update)
    step = ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), optimizer)
    buffers = ft.Params({"scale": torch.ones(())})
    state = ft.init_state({"w": torch.ones(3)}, optimizer, buffers=buffers, key=ft.random.key(0))
    new_state, metrics = step(state, torch.ones(3))
    assert set(heard) == {"value", "grad_and_value_fn", "key", "again", "elsewhere"}
    assert_bitwise(heard["value"], metrics["loss"])
    grads, value = heard["again"]
    assert_bitwise(value, metrics["loss"])
    assert_bitwise(new_state.params, ft.tree.add(state.params, ft.tree.scale(-0.1, grads)))
    assert heard["elsewhere"][1] > value


def test_steps_can_be_mapped_and_differentiated() -> None:
    """A step under vmap is a loop over members, and a loss after two steps has a slope in where they began."""
    optimizer = ft.adam(0.1)
    step = ft.make_step(ft.grad_and_value(distance), optimizer)
    members = [ft.init_state({"w": normal(seed, (3,))}, optimizer) for seed in range(3)]
    batch = {"w": normal(9, (3,))}
    together, metrics = torch.func.vmap(step, (0, None))(ft.tree.stack(members), batch)
    alone = [step(member, batch) for member in members]
    assert_close(together.params, ft.tree.stack([state.params for state, _ in alone]), 1e-13)
    assert_close(metrics, ft.tree.stack([found for _, found in alone]), 1e-13)

    def after_two(w: Tensor) -> Tensor:
        optimizer = ft.sgd(0.1, momentum=0.9)
        step = ft.make_step(ft.grad_and_value(distance), optimizer)
        state = ft.init_state({"w": w * 1.0}, optimizer)
        return distance(ft.fold(step, state, [batch, batch]).params, batch)

    w = normal(3, (3,)).requires_grad_()
    with seeded():  # gradcheck draws directions
        assert torch.autograd.gradcheck(after_two, (w,))
    assert_close(ft.grad(after_two)(w.detach()), torch.autograd.grad(after_two(w), w)[0], 1e-13)


def test_compiles_as_one_graph() -> None:
    """torch.compile takes a whole step, owned key, buffers and metrics included."""

    def loss_fn(params: Any, batch: Any, *, buffers: Any) -> Any:
        loss = distance(params, batch)
        return loss, ft.Aux({"double": 2 * loss}, ft.Params({"count": buffers["count"] + 1}))

    optimizer = ft.adamw(0.1)
    step = ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), optimizer)
    state = ft.init_state({"w": normal(0, (3,))}, optimizer, buffers=ft.Params({"count": torch.tensor(0)}))
    batch = {"w": normal(1, (3,))}
    try:
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        actual, expected = compiled(state, batch), step(state, batch)
    finally:
        torch.compiler.reset()
    assert_close(actual, expected, 1e-13)


@pytest.mark.parametrize(
    ("loss_fn", "buffers", "note"),
    [
        (
            lambda params, batch, *, buffers: params["w"].sum(),
            None,
            "this state does not own it. See buffers= of ft.init_",
        ),
        (
            lambda params, batch: params["w"].sum(),
            ft.Params({"mean": torch.ones(1)}),
            "this state owns it. See buffers=",
        ),
    ],
)
def test_an_error_of_the_call_says_what_the_state_owns(loss_fn: Any, buffers: ft.Params | None, note: str) -> None:
    """A loss that takes other keywords than the state owns fails as Python says it, with a note on the rule."""
    step = ft.make_step(ft.grad_and_value(loss_fn), ft.sgd())
    with pytest.raises(TypeError, match=r"keyword.* argument:? 'buffers'") as error:
        step(ft.init_state({"w": torch.ones(1)}, ft.sgd(), buffers=buffers), torch.ones(1))
    assert note in "".join(error.value.__notes__)
