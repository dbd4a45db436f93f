"""Steps over what is not finite and over spikes: what is skipped changes nothing but counts."""

import math
from typing import Any

import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train.testing.laws import LAWS, check_law
from tests.profiles import examples
from tests.trees import Witness, assert_bitwise, assert_close, normal

SPOILED = {"inf": torch.inf, "-inf": -torch.inf, "nan": torch.nan}
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda: ft.sgd(0.1, momentum=0.9),
    "adamw": lambda: ft.adamw(0.1),
    "lion": lambda: ft.lion(0.1),
    "clipped": lambda: ft.chain(ft.clip_by_global_norm(1.0), ft.adam(0.1)),
}
NAMES = ("b", "layer/k", "w")


def params() -> dict[str, Any]:
    return {"w": normal(0, (4, 3)), "b": normal(1, ()), "layer": {"k": normal(2, (2,))}}


def loss_fn(params: Any, batch: Any) -> Tensor:
    """A loss in which each parameter has a factor of its own, so that each gradient can be spoiled alone."""
    return (params["w"] * batch["w"]).sum() + params["b"] * batch["b"] + (params["layer"]["k"] ** 2 * batch["k"]).sum()


def batch_of(seed: int, spoiled: str | None = None, kind: str = "nan") -> dict[str, Tensor]:
    batch = {"w": normal(seed, (4, 3)), "b": normal(seed + 1, ()), "k": normal(seed + 2, (2,))}
    if spoiled is not None:
        leaf = batch[spoiled.rpartition("/")[2]]
        leaf.view(-1)[seed % leaf.numel()] = SPOILED[kind]
    return batch


def step_and_state(name: str = "adamw", **options: Any) -> tuple[Any, Any]:
    optimizer = OPTIMIZERS[name]()
    step = ft.make_skipping_step(ft.grad_and_value(loss_fn), optimizer, **options)
    return step, ft.init_skipping_state(params(), optimizer)


@settings(max_examples=examples(40), deadline=None)
@given(
    st.sampled_from(sorted(OPTIMIZERS)),
    st.lists(st.one_of(st.none(), st.tuples(st.sampled_from(NAMES), st.sampled_from(sorted(SPOILED)))), max_size=10),
)
def test_a_run_is_that_of_the_batches_that_were_not_skipped(name: str, kinds: list[Any]) -> None:
    """Parameters and optimizer state are those of a usual run over the good batches; the counts tell of the others."""
    step, state = step_and_state(name)
    optimizer = OPTIMIZERS[name]()
    usual, usual_state = ft.make_step(ft.grad_and_value(loss_fn), optimizer), ft.init_state(params(), optimizer)
    in_a_row = skipped = 0
    for seed, kind in enumerate(kinds):
        batch = batch_of(3 * seed, *(kind or ()))
        witness = Witness(state, batch)
        state, metrics = step(state, batch)
        witness.check()
        if kind is None:
            usual_state, expected = usual(usual_state, batch)
            assert_bitwise(metrics["loss"], expected["loss"])
        in_a_row, skipped = (0, skipped) if kind is None else (in_a_row + 1, skipped + 1)
        assert_bitwise((state.params, state.opt_state.inner), (usual_state.params, usual_state.opt_state))
        assert metrics["skipped"] == float(kind is not None)
        assert (int(state.opt_state.num_consecutive), int(state.opt_state.num_skipped)) == (in_a_row, skipped)
        assert state.opt_state.num_spikes == 0
        if kind is not None:
            assert state.opt_state.nonfinite.tolist() == [path == kind[0] for path in NAMES]
    assert state.step == len(kinds)


def test_a_loss_that_is_not_finite_is_skipped_where_the_gradients_are() -> None:
    """`log` of what is 0 may be infinite while its gradient is nothing of the sort."""
    grad_fn = ft.grad_and_value(lambda params, batch: params.sum() + batch)
    step = ft.make_skipping_step(grad_fn, optimizer := ft.sgd(0.1))
    start = ft.init_skipping_state(torch.ones(2), optimizer)
    state, metrics = step(start, torch.tensor(torch.inf))
    assert metrics["skipped"] == 1
    assert_bitwise(state.params, start.params)
    assert not state.opt_state.nonfinite.any()


def test_buffers_stay_and_keys_go_on() -> None:
    """Statistics of a bad batch are not kept, and the next batch sees another key."""

    def loss_fn(params: Any, batch: Tensor, *, key: Tensor, buffers: Any) -> Any:
        return (params["w"] * batch).sum(), ft.Aux({"seen": key[0]}, {"mean": buffers["mean"] + batch})

    step = ft.make_skipping_step(ft.grad_and_value(loss_fn, has_aux=True), optimizer := ft.sgd(0.5))
    start = ft.init_skipping_state(
        {"w": torch.ones(())}, optimizer, buffers={"mean": torch.tensor(1.0)}, key=ft.random.key(0)
    )
    state, first = step(start, torch.tensor(torch.nan))
    assert_bitwise((state.params, state.buffers), (start.params, start.buffers))
    state, second = step(state, torch.tensor(2.0))
    assert (float(state.params["w"]), float(state.buffers["mean"])) == (0.0, 3.0)
    assert first["seen"] != second["seen"]
    assert set(second) == {"loss", "seen", "skipped"}


def losses(values: list[float], **options: Any) -> tuple[Any, dict[str, Tensor]]:
    """A run whose losses are given."""
    grad_fn = ft.grad_and_value(lambda params, batch: params.sum() * 0 + batch)
    step = ft.make_skipping_step(grad_fn, optimizer := ft.sgd(0.1), **options)
    state = ft.init_skipping_state(torch.ones(2), optimizer)
    return ft.scan(step, state, [torch.tensor(value) for value in values])


@settings(max_examples=examples(50))
@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=60), st.sampled_from([0.5, 0.9, 0.97]))
def test_mean_and_variance_are_those_of_pandas(values: list[float], decay: float) -> None:
    """Equal weights at first, then exponential ones, as pandas' `ewm` has them when it goes on from the first mean."""
    state, _ = losses(values, max_zscore=1e9, decay=decay)
    equal = min(len(values), math.floor(1 / (1 - decay) + 1e-9))
    weights = [1.0] * equal
    for _ in values[equal:]:
        weights = [weight * decay for weight in weights]
        weights.append(sum(weights) / decay * (1 - decay))
    series = pandas.Series(values, dtype="float64")
    mean = float((series * weights).sum() / sum(weights))
    var = float(((series - mean) ** 2 * weights).sum() / sum(weights))
    assert float(state.opt_state.loss_mean) == pytest.approx(mean, rel=1e-4, abs=1e-3)
    assert float(state.opt_state.loss_var) == pytest.approx(var, rel=1e-3, abs=1e-2)
    assert state.opt_state.num_measured == len(values)


def test_spikes_are_skipped_and_not_measured() -> None:
    """A loss far above the others is stepped over; one far below is taken."""
    usual = [1.0, 1.2, 0.8, 1.1, 0.9]
    state, metrics = losses([*usual, 9.0, 1.0, -9.0], max_zscore=6.0, warmup_steps=5)
    assert metrics["skipped"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    assert (int(state.opt_state.num_skipped), int(state.opt_state.num_spikes)) == (1, 1)
    assert state.opt_state.num_measured == 7
    assert state.opt_state.num_consecutive_spikes == 0


def test_nothing_is_a_spike_while_losses_are_few_or_all_alike() -> None:
    assert not losses([1.0, 1.2, 0.8, 9.0], max_zscore=1.0, warmup_steps=5)[1]["skipped"].any()
    assert not losses([1.0] * 9 + [9.0], max_zscore=1.0, warmup_steps=5)[1]["skipped"].any()
    assert not losses([1.0, 1.2, 0.8] * 9 + [9e9])[1]["skipped"].any()


@pytest.mark.parametrize("huge", [3e20, 1e38, 1e300])
def test_one_huge_loss_is_forgotten(huge: float) -> None:
    """Whatever the first loss is, mean and variance stay finite, and in time spikes are found again."""
    grad_fn = ft.grad_and_value(lambda params, batch: params.sum() * 0 + batch)
    decay = torch.tensor(0.5, dtype=torch.float64)
    step = ft.make_skipping_step(grad_fn, optimizer := ft.sgd(0.1), max_zscore=6.0, decay=decay, warmup_steps=2)
    start = ft.init_skipping_state(torch.ones(2, dtype=torch.float64), optimizer)
    values = [huge, *[1.0 + 0.1 * (place % 3) for place in range(2500)], 1e6]
    state, metrics = ft.scan(step, start, [torch.tensor(value, dtype=torch.float64) for value in values])
    assert metrics["skipped"].tolist() == [0] * 2501 + [1]
    assert [leaf.dtype for leaf in ft.tree.leaves(state)] == [leaf.dtype for leaf in ft.tree.leaves(start)]


def test_losses_that_stay_high_are_a_change() -> None:
    """After so many spikes the step is taken, and what is usual is measured anew; nan does not count towards them."""
    usual = [1.0, 1.2, 0.8, 1.1, 0.9]
    high = [9.0, math.nan, 9.1, 9.2, 9.0, 8.9]
    state, metrics = losses([*usual, *high], max_zscore=6.0, warmup_steps=5, max_consecutive_spikes=2)
    assert metrics["skipped"].tolist() == [0] * 5 + [1, 1, 1, 0, 0, 0]
    assert (int(state.opt_state.num_spikes), int(state.opt_state.num_measured)) == (2, 3)
    assert float(state.opt_state.loss_mean) == pytest.approx((9.2 + 9.0 + 8.9) / 3)


@pytest.mark.parametrize("law", LAWS["step"], ids=lambda law: law.__name__)
def test_a_skipping_step_keeps_the_law(law: Any) -> None:
    """Pure, of one structure, resumable anywhere, with bad batches among the others."""
    step, state = step_and_state(max_zscore=2.0, warmup_steps=2)
    kinds = st.lists(st.sampled_from([None, None, *NAMES]), max_size=4)
    batches = kinds.map(lambda drawn: [batch_of(3 * seed, kind) for seed, kind in enumerate(drawn)])
    check_law(law, step, st.tuples(st.just(state), batches))


def test_members_skip_by_themselves() -> None:
    step, alone = step_and_state(max_zscore=torch.tensor(2.0), warmup_steps=2)
    batches = [batch_of(3), batch_of(6, "w", "inf")]
    state, metrics = torch.func.vmap(step)(ft.tree.stack([alone, alone]), ft.tree.stack(batches))
    assert metrics["skipped"].tolist() == [0, 1]
    assert state.opt_state.nonfinite.tolist() == [[False] * 3, [False, False, True]]
    for member, batch in zip(ft.tree.unstack(state.params), batches, strict=True):
        torch.testing.assert_close(member, step(alone, batch)[0].params)


@pytest.mark.parametrize("donate", [False, True])
def test_compiled_it_is_one_graph(donate: bool) -> None:
    """Nothing asks the host; what is skipped keeps its bits also where the old state is written over."""
    step, start = step_and_state(max_zscore=2.0, warmup_steps=2)
    compiled = ft.compile(step, donate=donate, backend="eager")
    batches = [batch_of(3 * seed, name) for seed, name in enumerate((None, "w", None, "b", None, None))]
    expected, metrics = ft.scan(step, start, batches)
    state, found = ft.scan(compiled, ft.tree.copy(start), batches)
    assert_close(state, expected, 1e-12)
    torch.testing.assert_close(found, metrics, equal_nan=True)
    assert len(compiled.reports()) == 1
    before = ft.tree.copy(state)
    state, _ = compiled(state, batch_of(0, "k"))
    assert_bitwise((state.params, state.opt_state.inner), (before.params, before.opt_state.inner))


def test_parameters_without_gradients_count_as_finite() -> None:
    """The flags stand beside the parameters, whichever of them have a gradient, sparse ones among them."""
    start = {"a": torch.ones(2), "n": torch.tensor(3), "table": torch.ones(5, 2)}

    def grad_fn(params: Any, batch: Tensor) -> Any:
        rows = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), batch.expand(2, 2), (5, 2), check_invariants=True)
        return {"a": torch.ones(2), "n": None, "table": rows}, batch.sum() * 0 + 1.0

    optimizer = ft.partition({"s": ft.sparse_adam(), "d": ft.sgd()}, {"a": "d", "n": "d", "table": "s"})
    step = ft.make_skipping_step(grad_fn, optimizer)
    state = ft.init_skipping_state(start, optimizer)
    state, metrics = step(state, torch.ones(1, 2))
    assert metrics["skipped"] == 0
    state, metrics = ft.make_skipping_step(lambda p, b: (grad_fn(p, b * torch.inf)[0], torch.tensor(0.0)), optimizer)(
        state, torch.ones(1, 2)
    )
    assert metrics["skipped"] == 1
    assert state.opt_state.nonfinite.tolist() == [False, False, True]


def mistaken(**options: Any) -> Any:
    return ft.make_skipping_step(ft.grad_and_value(loss_fn), ft.sgd(), **options)


def stepped(grad_fn: Any) -> Any:
    return ft.make_skipping_step(grad_fn, ft.sgd())(ft.init_skipping_state(torch.ones(2), ft.sgd()), torch.ones(2))


MISTAKES = [
    (lambda: ft.make_skipping_step(3, ft.sgd()), r"takes a gradient function first, got a int\. Write make_skipping"),
    (lambda: ft.make_skipping_step(loss_fn, ft.sgd), r"make_skipping_step, as its second argument, takes a Gradient"),
    (lambda: mistaken(max_zscore=0.0), r"max_zscore must be a finite number > 0, got 0\.0\. 6\.0 is usual"),
    (lambda: mistaken(decay=1.0), r"decay must be in \(0, 1\), got 1\.0"),
    (lambda: mistaken(warmup_steps=1), r"warmup_steps must be an int >= 2, got 1"),
    (lambda: mistaken(max_consecutive_spikes=0), r"max_consecutive_spikes must be an int >= 1, got 0"),
    (
        lambda: mistaken()(ft.init_state(params(), ft.sgd()), batch_of(0)),
        r"given a state without counters: its opt_state is a tuple\. Make the step .* the state with ft\.init_skipping",
    ),
    (
        lambda: stepped(ft.grad_and_value(lambda p, b: (p.sum(), {"skipped": b}), has_aux=True)),
        r"a metric called 'skipped', which is this step's own",
    ),
    (lambda: stepped(lambda p, b: ({"w": p}, p.sum())), r"grads"),
    (
        lambda: ft.make_skipping_step(ft.grad_and_value(lambda p, b: p["w"].sum()), ft.sgd())(
            ft.init_skipping_state(params(), ft.sgd()).replace(params={"w": torch.ones(4, 3)}), None
        ),
        r"the state has counters for 3 parameters and holds 1\. After a change of the parameters make it anew",
    ),
]


@pytest.mark.parametrize(("make", "message"), MISTAKES)
def test_mistakes_are_explained(make: Any, message: str) -> None:
    with pytest.raises((ft.HyperparameterError, ft.StructureError), match=message):
        make()
