"""What is done when steps are skipped in a row: an error that says where, or an earlier state."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from tests.profiles import examples
from tests.trees import Witness, assert_bitwise, normal

SPOILED = {"inf": torch.inf, "-inf": -torch.inf, "nan": torch.nan}
NAN = {"w": torch.tensor(torch.nan), "b": torch.tensor(1.0)}


def loss_fn(params: Any, batch: Any) -> Tensor:
    return (params["w"] ** 2).sum() * batch["w"] + params["b"] * batch["b"]


def batch_of(seed: int) -> dict[str, Tensor]:
    return {"w": normal(seed, ()).abs(), "b": normal(seed + 1, ())}


def skipping(optimizer: ft.GradientTransformation | None = None, **options: Any) -> tuple[Any, Any]:
    optimizer = ft.adam(0.1) if optimizer is None else optimizer
    start = {"w": normal(0, (4, 3)), "b": normal(1, ())}
    step = ft.make_skipping_step(ft.grad_and_value(loss_fn), optimizer)
    return step, ft.init_skipping_state(start, optimizer, **options)


@settings(max_examples=examples(30))
@given(st.sampled_from(["w", "b"]), st.sampled_from(sorted(SPOILED)), st.integers(0, 4), st.integers(1, 3))
def test_the_error_names_the_leaf_and_hands_over_the_state(leaf: str, kind: str, good: int, after: int) -> None:
    """At whichever leaf and step the gradient is bad, the error says so, and no number of the state has changed."""
    step, state = skipping()
    raising = ft.raise_if_skipped(step, after)
    bad = {**batch_of(0), leaf: torch.tensor(SPOILED[kind])}
    state = ft.fold(raising, state, [batch_of(seed) for seed in range(good)])
    reached = ft.fold(raising, state, [bad] * (after - 1))
    witness = Witness(reached, bad)
    with pytest.raises(ft.NonFiniteError) as caught:
        raising(reached, bad)
    witness.check()
    assert_bitwise(
        (caught.value.state.params, caught.value.state.opt_state.inner), (state.params, state.opt_state.inner)
    )
    said = str(caught.value)
    assert said.startswith(f"step {good + after} was skipped")
    assert f"the gradient of {leaf!r} is not finite" in said
    assert f"'batch/{leaf}' holds 1 of 1 numbers that are not finite" in said
    assert (f"the last of {after} in a row" in said) == (after > 1)


def test_the_error_says_where_it_may_come_from() -> None:
    """Parameters that hold nan already, more leaves than fit, and a spike of numbers that are all finite."""
    optimizer = ft.sgd(0.1)
    step = ft.raise_if_skipped(
        ft.make_skipping_step(ft.grad_and_value(lambda p, b: sum(leaf.sum() for leaf in p.values()) * b), optimizer)
    )
    state = ft.init_skipping_state({f"p{place}": torch.ones(2) for place in range(7)}, optimizer)
    said = r"the gradients of 'p0', 'p1', 'p2', 'p3', 'p4', and of 2 more, are not finite"
    with pytest.raises(ft.NonFiniteError, match=said):
        step(state, torch.tensor(torch.inf))
    lost = state.replace(params={**state.params, "p3": torch.tensor([1.0, torch.nan])})
    with pytest.raises(ft.NonFiniteError, match=r"'params/p3' holds 1 of 2 numbers that are not finite"):
        step(lost, torch.tensor(1.0))
    root = ft.raise_if_skipped(ft.make_skipping_step(ft.grad_and_value(lambda p, b: (p * 0).sqrt().sum()), optimizer))
    with pytest.raises(ft.NonFiniteError, match=r"the gradient is not finite\. .* look for a log, a root, a norm"):
        root(ft.init_skipping_state(torch.ones(1), optimizer), [torch.ones(1), "text", 1.0])
    with pytest.raises(ft.NonFiniteError, match=r"'batch/1' holds 1 of 1 numbers"):
        root(ft.init_skipping_state(torch.ones(1), optimizer), [torch.ones(1), float("nan")])
    step = ft.raise_if_skipped(
        ft.make_skipping_step(
            ft.grad_and_value(lambda p, b: p.sum() * 0 + b), optimizer, max_zscore=2.0, warmup_steps=2
        )
    )
    state = ft.fold(step, ft.init_skipping_state(torch.ones(2), optimizer), [torch.tensor(1.0), torch.tensor(2.0)])
    said = r"its loss is 9, a spike where 1\.5 \+- 0\.5 is usual\. Look at the batch, lower lr, or pass a larger max_z"
    with pytest.raises(ft.NonFiniteError, match=said):
        step(state, torch.tensor(9.0))


@pytest.mark.parametrize("donate", [False, True])
def test_a_run_goes_back_and_on(donate: bool) -> None:
    """Going back gives the bits of the state that was kept; the batches that follow are others, and so are the keys."""

    def noisy_loss_fn(params: Any, batch: Any, *, key: Tensor) -> Tensor:
        return loss_fn(params, batch) + (params["w"] * ft.random.normal(key, (4, 3)).double()).sum()

    optimizer = ft.adam(0.1)
    plain = ft.make_skipping_step(ft.grad_and_value(noisy_loss_fn), optimizer)
    _, start = skipping(optimizer, key=ft.random.key(0))
    step = ft.compile(plain, donate=True, backend="eager") if donate else plain
    rolling = ft.roll_back(step, every=3, after=2)
    good, more = [batch_of(seed) for seed in range(5)], [batch_of(seed) for seed in range(5, 9)]
    batches = [*good, NAN, NAN, *more]
    state, metrics = ft.scan(rolling, ft.init_rollback_state(ft.tree.copy(start)), batches)
    assert metrics["rolled_back"].tolist() == [0] * 6 + [1] + [0] * 4
    assert (int(state.num_rollbacks), int(state.step), int(state.good.step)) == (1, 11, 10)

    kept = ft.fold(step, ft.tree.copy(start), good[:3])
    keys = ft.fold(plain, start, batches[:7]).key
    resumed = kept.replace(step=torch.tensor(7), key=keys)
    expected = ft.fold(step, resumed, more)
    assert_bitwise(
        (state.params, state.opt_state.inner, state.current.key),
        (expected.params, expected.opt_state.inner, expected.key),
    )
    assert state.opt_state.num_skipped == 2


def test_states_that_are_kept_share_their_leaves() -> None:
    """Keeping a state copies nothing, and nobody's old state is changed."""
    step, start = skipping()
    rolling = ft.roll_back(step, every=2, after=1)
    first = ft.init_rollback_state(start)
    witness = Witness(first)
    second = ft.fold(rolling, first, [batch_of(0), batch_of(1)])
    third, _ = rolling(second, batch_of(2))
    witness.check()
    assert third.good is not second.current
    kept, current = ft.tree.leaves(third.good), ft.tree.leaves(second.current)
    assert all(one is other for one, other in zip(kept, current, strict=True))
    back, _ = rolling(third, NAN)
    kept, current = ft.tree.leaves(third.good.params), ft.tree.leaves(back.params)
    assert all(one is other for one, other in zip(kept, current, strict=True))


def test_what_is_kept_was_seen_to_be_good() -> None:
    """An update that ruins the parameters is found by the next step, and so not kept, wherever it falls."""
    optimizer = ft.sgd(100.0)
    step = ft.make_skipping_step(ft.grad_and_value(lambda params, batch: (params * batch).sum()), optimizer)
    zeros, ones = torch.zeros(2), torch.ones(2)
    for every in range(1, 9):
        start = ft.init_rollback_state(ft.init_skipping_state(ones, optimizer))
        batches = [zeros] * 4 + [torch.full((2,), 1e37)] + [ones] * 3
        state = ft.fold(ft.roll_back(step, every=every, after=2), start, batches)
        assert state.num_rollbacks == 1
        assert_bitwise(state.params, ones - 100)


def test_losses_that_are_high_from_the_earlier_state_too_are_a_change() -> None:
    """The run goes back once, sees that it was the data, and trains on it."""
    optimizer = ft.sgd(0.1)
    skipping = ft.make_skipping_step(
        ft.grad_and_value(lambda params, batch: params.sum() * 0 + batch), optimizer, max_zscore=6.0, warmup_steps=5
    )
    usual = [torch.tensor(1.0 + 0.1 * (place % 3)) for place in range(20)]
    state = ft.init_rollback_state(ft.init_skipping_state(torch.ones(2), optimizer))
    state, metrics = ft.scan(ft.roll_back(skipping), state, [*usual, *[torch.tensor(100.0)] * 50])
    assert metrics["skipped"].sum() == 10
    assert state.num_rollbacks == 1
    assert state.opt_state.loss_mean == 100


def test_a_kept_state_that_was_written_to_is_found() -> None:
    step, start = skipping()
    rolling = ft.roll_back(step, every=1, after=1)
    state = ft.fold(rolling, ft.init_rollback_state(start), [batch_of(0), batch_of(1), batch_of(2)])
    state.good.params["w"].add_(1.0)
    with pytest.raises(ft.OwnershipError, match="after roll_back had kept it"):
        rolling(state, NAN)


def test_a_row_is_over_where_a_run_begins_to_go_back() -> None:
    """What was skipped before `init_rollback_state` does not count towards going back."""
    step, start = skipping()
    state = ft.fold(step, start, [NAN] * 3)
    state = ft.fold(ft.roll_back(step, after=2), ft.init_rollback_state(state), [NAN])
    assert state.num_rollbacks == 0
    assert state.opt_state.num_skipped == 4


def test_a_moved_state_that_is_lost_leaves_the_kept_one() -> None:
    step, start = skipping()
    rolling = ft.roll_back(ft.compile(step, donate=True, backend="eager"), every=1)
    state = ft.fold(rolling, ft.init_rollback_state(ft.tree.copy(start)), [batch_of(0), batch_of(1)])
    before = ft.tree.copy(state.good)

    def lost(given: Any, batch: Any) -> Any:
        ft.compile(step, donate=True, backend="eager")(given, batch)
        raise IndexError("on purpose")

    with pytest.raises(IndexError) as caught:
        ft.roll_back(lost, every=1)(state, batch_of(2))
    assert caught.value.__notes__ == ["The state that roll_back had kept, of step 1, is `good` of the one given."]
    assert_bitwise(state.good, before)


def test_fit_adds_what_it_knows_to_such_errors(tmp_path: Any) -> None:
    """Records, kept states and a checkpoint are there whoever raised."""
    step, start = skipping()
    batches = [batch_of(seed) for seed in range(5)] + [NAN] * 5
    for raising, state in (
        (ft.raise_if_skipped(step), start),
        (ft.roll_back(step, after=1, max_in_a_row=1), ft.init_rollback_state(start)),
    ):
        folder = tmp_path / raising.__name__
        with pytest.raises(ft.NonFiniteError) as caught:
            ft.fit(raising, state, batches, keep_every=2, checkpoint=folder, progress=False)
        error: Any = caught.value
        assert type(error.state) is type(state)
        assert len(error.history["loss"]) in (5, 6)
        assert list(error.history.states)[:3] == [0, 2, 4]
        assert error.history.ended == "not finite"
        assert "It is saved in" in error.__notes__[0]
        again = ft.Checkpointer(folder).restore(state)
        assert int(again.state.step) == len(error.history["loss"])


def test_a_run_that_does_not_get_on_is_given_up() -> None:
    """Going back again and again to one state is an error, with that state; getting on starts the count anew."""
    step, start = skipping()
    rolling = ft.roll_back(step, every=2, after=2, max_in_a_row=2)
    state = ft.fold(rolling, ft.init_rollback_state(start), [NAN] * 4)
    assert (int(state.num_rollbacks), int(state.num_in_a_row)) == (2, 2)
    state = ft.fold(rolling, state, [NAN])
    with pytest.raises(
        ft.NonFiniteError, match=r"step 6 was skipped as the last of 2 in a row, .* 2 times already"
    ) as caught:
        rolling(state, NAN)
    assert_bitwise(caught.value.state.params, start.params)
    state = ft.fold(rolling, state, [batch_of(0), batch_of(1), batch_of(2)])
    assert (int(state.num_rollbacks), int(state.num_in_a_row)) == (2, 0)
    ft.fold(rolling, state, [NAN] * 4)


def test_fit_and_files_take_such_states(tmp_path: Any) -> None:
    """A run with going back resumes as any other."""
    step, start = skipping()
    batches = [NAN if seed in (4, 5, 6) else batch_of(seed) for seed in range(12)]
    rolling, state = ft.roll_back(step, every=2, after=3), ft.init_rollback_state(start)
    whole, history = ft.fit(rolling, state, batches, progress=False)
    assert history["rolled_back"].sum() == 1
    for count in (5, 6, 12):
        got, resumed = ft.fit(
            rolling, state, batches, steps=count, checkpoint=ft.Checkpointer(tmp_path, every=2), progress=False
        )
    assert_bitwise(got, whole)
    assert_bitwise(dict(resumed), dict(history))


def test_raising_around_going_back() -> None:
    step, start = skipping()
    both = ft.raise_if_skipped(ft.roll_back(step, after=3), 2)
    with pytest.raises(ft.NonFiniteError, match="step 2 was skipped, the last of 2 in a row"):
        ft.fold(both, ft.init_rollback_state(start), [NAN] * 2)


def plain() -> tuple[Any, Any]:
    optimizer = ft.sgd()
    return ft.make_step(ft.grad_and_value(loss_fn), optimizer), ft.init_state(
        {"w": torch.ones(2), "b": torch.ones(())}, optimizer
    )


def rolled(step: Any) -> Any:
    return ft.roll_back(step)(ft.init_rollback_state(skipping()[1]), NAN)


MISTAKES = [
    (lambda: ft.raise_if_skipped(3), r"raise_if_skipped takes a step, got a int\. Write ft\.raise_if_skipped\("),
    (lambda: ft.roll_back(3), r"roll_back takes a step, got a int"),
    (lambda: ft.raise_if_skipped(plain()[0], after=0), r"after must be an int >= 1, got 0"),
    (lambda: ft.roll_back(plain()[0], every=0), r"every must be an int >= 1, got 0"),
    (lambda: ft.roll_back(plain()[0], max_in_a_row=0), r"max_in_a_row must be an int >= 1, got 0"),
    (lambda: ft.raise_if_skipped(plain()[0])(plain()[1], NAN), r"around a step that reports no 'skipped'"),
    (lambda: ft.init_rollback_state(plain()[1]), r"init_rollback_state was given a state without counters"),
    (lambda: ft.init_rollback_state(torch.ones(1)), r"init_rollback_state takes a TrainState, got a Tensor"),
    (
        lambda: ft.init_rollback_state(ft.init_rollback_state(skipping()[1])),
        r"takes a TrainState, got a RollbackState.*pass state\.current",
    ),
    (
        lambda: ft.roll_back(skipping()[0])(skipping()[1], NAN),
        r"was given a TrainState\. Make the state with ft\.init_roll",
    ),
    (
        lambda: ft.compile(ft.raise_if_skipped(skipping()[0]), backend="eager")(skipping()[1], NAN),
        r"cannot be mapped or traced\. Put it outside: ft\.raise_if_skipped\(ft\.compile",
    ),
    (
        lambda: torch.func.vmap(ft.raise_if_skipped(skipping()[0]), in_dims=(None, 0))(
            skipping()[1], ft.tree.stack([NAN] * 2)
        ),
        r"cannot be mapped or traced",
    ),
    (
        lambda: ft.raise_if_skipped(ft.repeat(skipping()[0], 2))(skipping()[1], ft.tree.stack([NAN] * 2)),
        r"several steps at once: 'skipped' has shape \(2,\)\. Put it inside",
    ),
]


@pytest.mark.parametrize(("make", "message"), MISTAKES)
def test_mistakes_are_explained(make: Any, message: str) -> None:
    with pytest.raises((ft.HyperparameterError, ft.StructureError), match=message):
        make()
