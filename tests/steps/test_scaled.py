"""Dynamic loss scaling: GradScaler's rule, as a value in the state."""

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train import testing
from functional_train.testing.laws import LAWS, check_law
from tests.profiles import examples
from tests.trees import Witness, assert_bitwise, assert_close, normal

OPTIMIZERS: dict[str, Any] = {
    "sgd": (lambda: ft.sgd(0.1, momentum=0.9), lambda params: torch.optim.SGD(params, 0.1, momentum=0.9)),
    "adamw": (lambda: ft.adamw(0.1), lambda params: torch.optim.AdamW(params, 0.1, foreach=False)),
}
SPOILED = {"inf": torch.inf, "-inf": -torch.inf, "nan": torch.nan}


def tilted(params: Any, batch: Any) -> Tensor:
    """A loss whose gradient is finite exactly when the batch is."""
    return (params["w"] * batch).sum() + (params["w"] ** 2).sum() + params["b"].sum()


def batch_of(kind: str, seed: int) -> Tensor:
    batch = normal(seed, (4, 3))
    if kind in SPOILED:
        batch[seed % 4, 1] = SPOILED[kind]
    return batch


@settings(max_examples=examples(15), deadline=None)
@given(
    st.sampled_from(sorted(OPTIMIZERS)),
    st.lists(st.sampled_from(["fine", "fine", "fine", *SPOILED]), min_size=1, max_size=12),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([65536.0, 2.0**-3, 2.0**127]),
)
def test_a_run_is_that_of_grad_scaler(name: str, kinds: list[str], interval: int, init_scale: float) -> None:
    """Parameters, scale, growth and skipped steps are those of the imperative loop."""
    make, make_torch = OPTIMIZERS[name]
    start = {"w": normal(0, (4, 3)), "b": normal(1, ())}
    own = {key: leaf.clone().requires_grad_() for key, leaf in start.items()}
    reference = make_torch(list(own.values()))
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=interval)
    step = ft.make_scaled_step(tilted, optimizer := make(), growth_interval=interval)
    state = ft.init_scaled_state(start, optimizer, init_scale=init_scale)
    for seed, kind in enumerate(kinds):
        batch, before = batch_of(kind, seed), state
        witness = Witness(state, batch)
        state, metrics = step(state, batch)
        witness.check()
        assert metrics["loss_scale"] == scaler.get_scale()
        reference.zero_grad()
        scaler.scale(tilted(own, batch)).backward()
        scaler.step(reference)
        scaler.update()
        assert state.opt_state.scale == scaler.get_scale()
        assert state.opt_state.growth_tracker == scaler._growth_tracker
        assert_close(state.params, {key: leaf.detach() for key, leaf in own.items()}, 1e-12)
        if metrics["skipped"]:
            assert_bitwise((state.params, state.opt_state.inner), (before.params, before.opt_state.inner))
        assert bool(metrics["skipped"]) == (kind in SPOILED)
        assert_bitwise(metrics["loss"], tilted(before.params, batch))
        assert state.step == seed + 1


def test_the_defaults_are_those_of_grad_scaler() -> None:
    theirs = inspect.signature(torch.amp.GradScaler.__init__).parameters
    for function in (ft.make_scaled_step, ft.init_scaled_state):
        for name, each in inspect.signature(function).parameters.items():
            if name in theirs:
                assert each.default == theirs[name].default, name
    assert {"growth_factor", "backoff_factor", "growth_interval"} <= inspect.signature(
        ft.make_scaled_step
    ).parameters.keys()


def test_gradients_that_would_underflow_survive() -> None:
    """A model in float16 whose gradients are below what float16 holds learns with scaling, and not without."""

    def loss_fn(params: Any, batch: Tensor) -> Tensor:
        return ((batch @ params["w"]).float() * 2.0**-26).sum()

    batch = torch.ones(1, 2)
    low_loss_fn = ft.mixed_precision(loss_fn, torch.float16)
    optimizer = ft.sgd(2.0**20)
    start = {"w": torch.ones(2, 1)}
    plain, _ = ft.make_step(ft.grad_and_value(low_loss_fn), optimizer)(ft.init_state(start, optimizer), batch)
    assert_bitwise(plain.params, start)
    state, metrics = ft.make_scaled_step(low_loss_fn, optimizer)(ft.init_scaled_state(start, optimizer), batch)
    assert_bitwise(state.params, {"w": torch.full((2, 1), 1 - 2.0**-6)})
    assert metrics["skipped"] == 0


def test_the_scale_settles_where_gradients_fit() -> None:
    """A first scale that is too large is halved until the step is finite; nothing is lost on the way but batches."""
    loss_fn = ft.mixed_precision(lambda params, batch: (batch @ params["w"]).sum(), torch.float16)
    optimizer = ft.sgd(0.125)
    state = ft.init_scaled_state({"w": torch.ones(2, 1)}, optimizer, init_scale=2.0**20)
    step = ft.make_scaled_step(loss_fn, optimizer)
    state, metrics = ft.scan(step, state, [torch.ones(1, 2)] * 7)
    assert metrics["skipped"].tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert metrics["loss_scale"].tolist() == [2.0**power for power in (20, 19, 18, 17, 16, 15, 15)]
    assert_bitwise(state.params, {"w": torch.full((2, 1), 0.75)})


def test_what_is_owned_moves_only_when_the_step_does() -> None:
    """A skipped step uses up its key and its batch, and keeps buffers; extras reach the optimizer without the scale."""
    seen: list[Any] = []

    def update(grads: Any, state: Any, params: Any, **extra: Any) -> Any:
        again, value = extra["grad_and_value_fn"](params)
        seen.append((grads["w"], again["w"], extra["value"], value, extra["key"]))
        return ft.tree.scale(-1, grads), state

    def loss_fn(params: Any, batch: Tensor, *, key: Tensor, buffers: Any) -> Any:
        loss = (params["w"] * batch).sum()
        return loss, ft.Aux({"key": key[0]}, ft.Params({"mean": buffers["mean"] + batch}))

    optimizer = ft.GradientTransformation(lambda params: (), update)
    buffers = ft.Params({"mean": torch.tensor(1.0)})
    state = ft.init_scaled_state({"w": torch.ones(())}, optimizer, buffers=buffers, key=ft.random.key(0))
    step = ft.make_scaled_step(loss_fn, optimizer, has_aux=True)
    skipped, metrics = step(state, torch.tensor(torch.inf))
    assert_bitwise((skipped.params, skipped.buffers), (state.params, state.buffers))
    assert not torch.equal(skipped.key, state.key)
    assert set(metrics) == {"loss", "key", "loss_scale", "skipped"}
    moved, _ = step(skipped, torch.tensor(3.0))
    assert moved.buffers["mean"] == 4
    assert_bitwise(moved.params["w"], torch.tensor(-2.0))
    (extras,) = seen
    assert_bitwise(extras[:4], (torch.tensor(3.0),) * 4)
    assert moved.step == 2


def test_another_gradient_may_be_taken() -> None:
    """`make_grad_fn` makes any gradient function of the scaled loss; SAM's perturbation does not see the scale."""
    optimizer = ft.sgd(0.1)
    params, batch = {"w": normal(0, (4, 3)), "b": normal(1, ())}, batch_of("fine", 3)

    def make_sam(*args: Any, **kwargs: Any) -> Any:
        return ft.sam(ft.grad_and_value(*args, **kwargs), 0.1)

    scaled = ft.make_scaled_step(tilted, optimizer, make_grad_fn=make_sam)
    state, metrics = scaled(ft.init_scaled_state(params, optimizer), batch)
    plain, expected = ft.make_step(make_sam(tilted), optimizer)(ft.init_state(params, optimizer), batch)
    assert_close(state.params, plain.params, 1e-13)
    assert_bitwise(metrics["loss"], expected["loss"])


@pytest.mark.parametrize("law", LAWS["step"], ids=lambda law: law.__name__)
def test_a_scaled_step_keeps_the_law(law: Any) -> None:
    """Pure, of one structure, resumable anywhere, with overflows among the batches."""
    optimizer = ft.adam(0.1)
    state = ft.init_scaled_state({"w": normal(0, (4, 3)), "b": normal(1, ())}, optimizer, init_scale=2.0**10)
    kinds = st.lists(st.sampled_from(["fine", "inf", "nan"]), max_size=4)
    batches = kinds.map(lambda drawn: [batch_of(kind, seed) for seed, kind in enumerate(drawn)])
    step = ft.make_scaled_step(tilted, optimizer, growth_interval=2)
    check_law(law, step, st.tuples(st.just(state), batches))


def test_members_have_scales_of_their_own() -> None:
    """Mapped over, the member that overflows is skipped and backs off, the other is not."""
    optimizer = ft.adam(0.1)
    step = ft.make_scaled_step(tilted, optimizer)
    alone = ft.init_scaled_state({"w": normal(0, (4, 3)), "b": normal(1, ())}, optimizer)
    batches = torch.stack([batch_of("fine", 1), batch_of("inf", 2)])
    state, metrics = torch.func.vmap(step)(ft.tree.stack([alone, alone]), batches)
    assert metrics["skipped"].tolist() == [0, 1]
    assert state.opt_state.scale.tolist() == [65536, 32768]
    for place, batch in enumerate(batches):
        assert_close(ft.tree.unstack(state.params)[place], step(alone, batch)[0].params, 1e-13)


def test_one_graph_without_waiting() -> None:
    """A tracer takes the step whole, so nothing in it asks the host whether to go on."""
    optimizer = ft.adam(0.1)
    step = ft.make_scaled_step(tilted, optimizer)
    state = ft.init_scaled_state({"w": normal(0, (4, 3)), "b": normal(1, ())}, optimizer)

    def parts(params: Any, opt_state: Any, batch: Tensor) -> Any:
        after, metrics = step(state.replace(params=params, opt_state=opt_state), batch)
        return after.params, after.opt_state, metrics

    traced = torch.fx.experimental.proxy_tensor.make_fx(
        lambda w, b, batch: ft.tree.leaves(parts({"w": w, "b": b}, state.opt_state, batch))
    )(state.params["w"], state.params["b"], batch_of("fine", 1))
    for kind in ("fine", "nan"):
        batch = batch_of(kind, 2)
        expected = ft.tree.leaves(parts(state.params, state.opt_state, batch))
        for one, other in zip(traced(state.params["w"], state.params["b"], batch), expected, strict=True):
            torch.testing.assert_close(one, other, equal_nan=True)


params = {"w": torch.ones(2), "b": torch.ones(())}


def stepped(loss_fn: Any, **options: Any) -> Any:
    return ft.make_scaled_step(loss_fn, ft.sgd(), **options)(ft.init_scaled_state(params, ft.sgd()), torch.ones(2))


MISTAKES = [
    (lambda: ft.make_scaled_step(3, ft.sgd()), r"takes a loss function first, got a int"),
    (lambda: ft.make_scaled_step(tilted, ft.sgd), r"make_scaled_step, as its second argument, takes a Gradient"),
    (lambda: stepped(tilted, growth_factor=1.0), r"growth_factor must be a finite number > 1, got 1\.0"),
    (lambda: stepped(tilted, backoff_factor=1.0), r"backoff_factor must be in \(0, 1\), got 1\.0"),
    (lambda: stepped(tilted, growth_interval=0), r"growth_interval must be an int >= 1, got 0"),
    (
        lambda: ft.init_scaled_state(params, ft.sgd(), init_scale=0.0),
        r"init_scale must be a finite number > 0, got 0\.0",
    ),
    (
        lambda: ft.make_scaled_step(tilted, ft.sgd())(ft.init_state(params, ft.sgd()), None),
        r"given a state without a scale: its opt_state is a tuple\. Make the state with ft\.init_scaled_state",
    ),
    (lambda: stepped(lambda p, b: (tilted(p, b), {})), r"returned a tuple, but has_aux is False"),
    (lambda: stepped(tilted, has_aux=True), r"returned a Tensor, but has_aux is True"),
    (lambda: stepped(lambda p, b: (tilted(p, b), 3), has_aux=True), r"returned a int as aux; it must be a mapping"),
    (lambda: stepped(lambda p, b: (tilted(p, b), {"skipped": 1}), has_aux=True), r"'skipped', which is this step's"),
    (lambda: stepped(lambda p, b: 3.0), r"the loss is a float, not a tensor"),
]


@pytest.mark.parametrize(("make", "message"), MISTAKES)
def test_mistakes_are_explained(make: Any, message: str) -> None:
    with pytest.raises((ft.HyperparameterError, ft.StructureError), match=message):
        make()


def test_a_batch_of_numbers_is_drawn_by_the_strategies() -> None:
    """States that the library's strategies draw go through a scaled step once they have a scale."""

    @settings(max_examples=examples(10))
    @given(testing.params(min_leaves=1))
    def holds(drawn: Any) -> None:
        optimizer = ft.sgd(0.1)
        step = ft.make_scaled_step(
            lambda p, batch: torch.stack([leaf.float().square().sum() for leaf in ft.tree.leaves(p)]).sum(), optimizer
        )
        state = ft.init_scaled_state(drawn, optimizer)
        after, _ = step(state, None)
        testing.assert_trees_alike(after, state)

    holds()
