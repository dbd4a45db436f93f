"""Buffers as values: what goes in and comes out of steps is what the usual loop leaves in the module."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

import functional_train as ft
from tests.global_rng import seeded
from tests.profiles import examples
from tests.trees import Witness, assert_bitwise, assert_close, normal

OPTIMIZER = ft.sgd(lr=0.05)
# A graph and a mapped operation round in another order; everything is float64.
ROUNDING = 1e-12


class Counter(nn.Module):
    """Counts in place how often it was trained, and uses the count."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count += 1
        return self.linear(x) / self.count.clamp(min=1).sqrt()


class Remembering(nn.Module):
    """Subtracts what it has seen, which it remembers in one of several ways."""

    def __init__(self, remember: Callable[[Any, Tensor], None]) -> None:
        super().__init__()
        self.linear, self.remember = nn.Linear(3, 4), remember
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if self.training:
            self.remember(self, y.detach().mean(0))
        return y - self.seen


def rebinds(module: Any, mean: Tensor) -> None:
    module.seen = module.seen + mean


def writes_data(module: Any, mean: Tensor) -> None:
    module.seen.data.mul_(0.9).add_(mean)


def assigns_data(module: Any, mean: Tensor) -> None:
    module.seen.data = 0.9 * module.seen + mean


class TwoParents(nn.Module):
    """One BatchNorm at the end of two branches, inside both of them: it sees two batches a call."""

    def __init__(self) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(3)
        self.left = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Tanh(), norm))
        self.right = nn.Sequential(nn.Linear(3, 3), norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) * self.right(x.sin())


def after_linear(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh(), nn.Linear(4, 2))


def before_linear(linear: nn.Module) -> nn.Module:
    return nn.Sequential(linear, nn.Tanh(), nn.Linear(4, 2))


VECTORS = (5, 3)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "BatchNorm1d": (lambda: after_linear(nn.BatchNorm1d(4)), VECTORS),
    "BatchNorm2d": (lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)), (5, 3, 4, 4)),
    "BatchNorm3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (5, 2, 3, 3, 3)),
    # Without a group of processes it is a BatchNorm; with one, torch refuses tensors on CPU.
    "SyncBatchNorm": (lambda: after_linear(nn.SyncBatchNorm(4)), VECTORS),
    "cumulative BatchNorm": (lambda: after_linear(nn.BatchNorm1d(4, momentum=None)), VECTORS),
    "InstanceNorm": (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 2), nn.InstanceNorm1d(4, affine=True, track_running_stats=True)),
        (5, 3, 4),
    ),
    "spectral_norm, a hook": (lambda: before_linear(spectral_norm(nn.Linear(3, 4))), VECTORS),
    "spectral_norm": (lambda: before_linear(parametrizations.spectral_norm(nn.Linear(3, 4))), VECTORS),
    "weight_norm": (lambda: before_linear(parametrizations.weight_norm(nn.Linear(3, 4))), VECTORS),
    "counter": (Counter, VECTORS),
    "rebinds": (lambda: Remembering(rebinds), VECTORS),
    "writes .data": (lambda: Remembering(writes_data), VECTORS),
    "assigns .data": (lambda: Remembering(assigns_data), VECTORS),
    "two parents": (TwoParents, VECTORS),
}
WITHOUT_BUFFERS = ("weight_norm",)
# torch reads the count of a cumulative BatchNorm as a Python number, and has no rule for that under vmap, nor for a
# tensor that is given other memory.
NOT_MAPPED = {
    "cumulative BatchNorm": r"calling \.item\(\) on a Tensor",
    "assigns .data": r"mutating directly with `\.data` inside functorch transform",
}
MAPPED = [case for case in CASES if case not in NOT_MAPPED]
TRACED = [case for case in CASES if case not in ("cumulative BatchNorm", "assigns .data")]


def make(case: str) -> nn.Module:
    with seeded():
        return CASES[case][0]().double()


def batches(case: str, num: int) -> list[Tensor]:
    return [normal(place, CASES[case][1]) * (1 + place) + place for place in range(num)]


def loss_of(output: Tensor) -> Tensor:
    return (output - 0.3).square().mean() + output.sin().mean()


def start(case: str) -> tuple[ft.StepFn, ft.TrainState]:
    apply, params, buffers = ft.functionalize(make(case))

    def loss_fn(params: Any, x: Tensor, **owned: Any) -> Any:
        returned = apply(params, x, **owned)
        output, new_buffers = returned if owned else (returned, None)
        return loss_of(output), ft.Aux(buffers=new_buffers)

    step = ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), OPTIMIZER)
    return step, ft.init_state(params, OPTIMIZER, buffers=buffers)


def assert_holds(module: nn.Module, params: Any, buffers: Any) -> None:
    """A module has these parameters and these buffers, bit for bit."""
    assert_bitwise(params, ft.Params({name: leaf.detach() for name, leaf in module.named_parameters()}))
    assert_bitwise(buffers, ft.Params(dict(module.named_buffers())))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("modes", [(True, True, False, True, False, False, True), (False, True)])
def test_passing_buffers_on_is_the_loop(case: str, modes: tuple[bool, ...]) -> None:
    """Trained and evaluated in turn, outputs, parameters and buffers are the loop's; nothing given is changed."""
    module, reference = make(case), make(case)
    optimizer, update_fn = torch.optim.SGD(reference.parameters(), lr=0.05), ft.make_update(OPTIMIZER)
    apply, params, buffers = ft.functionalize(module)
    opt_state = OPTIMIZER.init(params)
    given = Witness(list(module.parameters()), list(module.buffers()), params, buffers)

    def loss_fn(params: Any, x: Tensor, buffers: Any) -> tuple[Tensor, Any]:
        output, new_buffers = apply(params, x, buffers=buffers)
        return loss_of(output), new_buffers

    for x, train in zip(batches(case, len(modes)), modes, strict=True):
        expected = reference.train(train)(x)
        if train:
            optimizer.zero_grad()
            loss_of(expected).backward()
            optimizer.step()
            grads, new_buffers = ft.grad(loss_fn, has_aux=True)(params, x, buffers)
            params, opt_state = update_fn(grads, opt_state, params)
            assert case in WITHOUT_BUFFERS or not ft.tree.leaves(buffers)[0].equal(ft.tree.leaves(new_buffers)[0])
        else:
            output, new_buffers = apply(params, x, buffers=buffers, train=False)
            assert torch.equal(output, expected)
            assert_bitwise(new_buffers, buffers)
        buffers = new_buffers
    assert_holds(reference, params, buffers)
    given.check()


@pytest.mark.parametrize("case", CASES)
def test_steps_are_the_loop(case: str) -> None:
    """A fold and a scan of a step that owns the buffers leave what the loop leaves."""
    module, xs = make(case), batches(case, 6)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    losses: list[Tensor] = []
    for x in xs:
        optimizer.zero_grad()
        losses.append(loss_of(module(x)))
        losses[-1].backward()
        optimizer.step()
    step, first = start(case)
    given = Witness(first)
    scanned, metrics = ft.scan(step, first, xs)
    assert_bitwise(scanned, ft.fold(step, first, xs))
    assert_bitwise(metrics["loss"], torch.stack(losses).detach())
    assert_holds(module, scanned.params, ft.Params({}) if scanned.buffers is None else scanned.buffers)
    assert (scanned.buffers is None) == (case in WITHOUT_BUFFERS)
    given.check()


@settings(max_examples=examples(30))
@given(case=st.sampled_from(list(CASES)), at=st.integers(0, 5))
def test_a_state_is_branched_from(case: str, at: int) -> None:
    """From any state two runs are the same, whatever ran from it between, and it stays as it was."""
    step, first = start(case)
    xs = batches(case, 6)
    early = ft.fold(step, first, xs[:at])
    given = Witness(early)
    end = ft.fold(step, early, xs[at:])
    other = ft.fold(step, early, xs[:at][::-1])
    assert_bitwise(ft.fold(step, early, xs[at:]), end)
    assert_bitwise(ft.fold(step, early, xs[:at][::-1]), other)
    given.check()


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # a weight norm is mapped member by member
@pytest.mark.parametrize("case", MAPPED)
def test_members_of_an_ensemble_have_buffers_of_their_own(case: str) -> None:
    """A step mapped over stacked states is the loop over members, whose histories differ."""
    step, first = start(case)
    xs = batches(case, 4)
    states = [ft.fold(step, first, xs[:num]) for num in (0, 3, 1)]
    mapped = torch.func.vmap(step, in_dims=(0, None))
    together, _ = mapped(mapped(ft.tree.stack(states), xs[3])[0], xs[2])
    for one, state in zip(ft.tree.unstack(together), states, strict=True):
        assert_close(one, ft.fold(step, state, [xs[3], xs[2]]), ROUNDING)


@pytest.mark.parametrize("case", NOT_MAPPED)
def test_what_cannot_be_mapped_in_training(case: str) -> None:
    """A buffer that torch writes past vmap is an error and nothing else; in evaluation the same modules are mapped."""
    step, first = start(case)
    xs = batches(case, 2)
    states = [first, step(first, xs[0])[0]]
    with pytest.raises(RuntimeError, match=NOT_MAPPED[case]):
        torch.func.vmap(step, in_dims=(0, None))(ft.tree.stack(states), xs[1])

    apply = ft.functionalize(make(case)).apply

    def evaluate(state: ft.TrainState) -> Tensor:
        return apply(state.params, xs[1], buffers=state.buffers, train=False)[0]

    together = torch.func.vmap(evaluate)(ft.tree.stack(states))
    for one, state in zip(together, states, strict=True):
        assert_close(one, evaluate(state), ROUNDING)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", TRACED)
def test_compiled_steps_pass_buffers_on(case: str, backend: str) -> None:
    """In one graph, its state moved, a run leaves what it leaves without one; one variant serves all steps."""
    step, first = start(case)
    xs = batches(case, 4)
    given = Witness(first)
    end = ft.fold(step, first, xs)
    moved_step = ft.compile(step, donate=True, backend=backend)
    assert_close(ft.fold(moved_step, ft.tree.copy(first), xs), end, ROUNDING)
    assert moved_step.cache_info().currsize == 1
    given.check()


def test_a_cumulative_batch_norm_is_not_compiled() -> None:
    """torch divides by its count as a Python number, which no graph knows: an error, and no stale number."""
    step, first = start("cumulative BatchNorm")
    with pytest.raises(ft.CompileError, match="depends on numbers in a tensor"):
        ft.compile(step, backend="eager")(first, batches("cumulative BatchNorm", 1)[0])
