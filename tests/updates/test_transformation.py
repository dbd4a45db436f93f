"""Chains of transformations: algebra, purity against every way of sharing tensors, differentiation, compilation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import functional_train as ft
from tests.global_rng import seeded
from tests.profiles import examples
from tests.trees import Witness, assert_bitwise, assert_close, like, nestings, normal, seeds, tensors, without

Tree = Any


def remembering(choose: Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]) -> Callable[[], ft.GradientTransformation]:
    """A link as users write one: `choose(grads, state, params) -> (updates, state)`, a tree like params as state."""
    return lambda: ft.GradientTransformation(
        init=ft.tree.zeros_like, update=lambda grads, state, params, **extra: choose(grads, state, params)
    )


def sum_so_far(grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
    total = ft.tree.add(state, grads)
    return total, total


def scaled_and_kept(grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
    half = ft.tree.map(lambda leaf: leaf * 0.5, grads)
    return half, half


def first_leaf_everywhere(grads: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
    # Views of one tensor as updates and as state.
    views = ft.tree.map(lambda leaf: leaf.reshape(-1).view_as(leaf), grads)
    return views, views


# What these return is also held by somebody else: the state, the caller, the parameters.
SHARING = {
    "delayed": remembering(lambda grads, state, params: (state, grads)),
    "state as updates": remembering(lambda grads, state, params: (state, state)),
    "input kept": remembering(lambda grads, state, params: (grads, grads)),
    "params as updates": remembering(lambda grads, state, params: (params, grads)),
    "params kept": remembering(lambda grads, state, params: (grads, params)),
    "sum so far": remembering(sum_so_far),
    "scaled and kept": remembering(scaled_and_kept),
    "views kept": remembering(first_leaf_everywhere),
}
SHIPPED: dict[str, Callable[[], ft.GradientTransformation]] = {
    "sgd": lambda: ft.sgd(0.1),
    "momentum": lambda: ft.sgd(0.1, momentum=0.9),
    "nesterov": lambda: ft.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "dampened": lambda: ft.add_momentum(0.5, dampening=0.2),
    "adam": lambda: ft.adam(0.1),
    "amsgrad": lambda: ft.adamw(0.1, amsgrad=True, maximize=True),
    "tensor lr": lambda: ft.adam(torch.tensor(0.1)),
    "tensor betas": lambda: ft.scale_by_adam((torch.tensor(0.9), torch.tensor(0.99))),
    "scheduled": lambda: ft.adamw(ft.schedules.cosine(0.1, 5), betas=(ft.schedules.linear(0.5, 0.9, 4), 0.99)),
    "clip": lambda: ft.clip_by_global_norm(0.5),
    "decay": lambda: ft.add_decayed_weights(0.1),
    "negate": ft.negate,
    "scale": lambda: ft.scale_by_lr(0.5),
    "identity": ft.identity,
    "empty chain": ft.chain,
    "cubed": lambda: ft.stateless(lambda grads, params: ft.tree.map(lambda leaf: leaf**3, grads)),
    "through": lambda: ft.stateless(lambda grads, params: grads),
}
LINKS = {**SHIPPED, **SHARING}


def links(names: Any = tuple(LINKS), max_size: int = 4) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(sorted(names)), max_size=max_size)


def watching(name: str, witnesses: list[Witness]) -> ft.GradientTransformation:
    """A link that remembers everything it is given and gives, to say later whether somebody wrote to it."""
    inner = LINKS[name]()
    if name not in SHARING:
        return inner

    def update(grads: Tree, state: Tree, params: Tree, **extra: Any) -> tuple[Tree, Tree]:
        updates, new_state = inner.update(grads, state, params, **extra)
        witnesses.append(Witness(grads, state, params, updates, new_state))
        return updates, new_state

    return ft.GradientTransformation(inner.init, update)


def apart(names: list[str], grads: Tree, states: tuple[Tree, ...], params: Tree) -> tuple[Tree, tuple[Tree, ...]]:
    """The chain without a chain: each link alone, on copies of its own."""
    new_states = []
    for name, state in zip(names, states, strict=True):
        grads, new_state = LINKS[name]().update(*map(ft.tree.copy, (grads, state, params)))
        grads, new_state = ft.tree.copy(grads), ft.tree.copy(new_state)
        new_states.append(new_state)
    return ft.tree.map(torch.add, params, grads), tuple(new_states)


@settings(max_examples=examples(60))
@given(links(), nestings(tensors()), seeds(), st.data())
def test_nothing_that_anybody_holds_ever_changes(
    names: list[str], params: Tree, seed: int, data: st.DataObject
) -> None:
    """Any chain, however its links share tensors, equals its links on copies of their own, and writes to nothing.

    To the bit, as long as updates are made; what a kernel takes straight to new parameters may round differently.
    Gradients, params, states and everything a link was given or gave stay what they were, to the bit and the version.
    """
    witnesses: list[Witness] = []
    split = data.draw(st.integers(0, len(names)))
    watched = [watching(name, witnesses) for name in names]
    # Chains in chains are handed columns too.
    optimizer = ft.chain(*watched[:split], ft.chain(*watched[split:]))
    update_fn = ft.make_update(optimizer)
    state, states = optimizer.init(params), tuple([LINKS[name]().init(params) for name in names])
    expected = params
    for step in range(3):
        grads = like(seed + step, params)
        before = Witness(grads, params, state)
        witnesses.append(before)
        moved = update_fn(grads, state, params)
        updates, new_state = optimizer.update(grads, state, params)
        witnesses.append(Witness(updates, moved))
        new_params = ft.apply_updates(params, updates)
        expected, states = apart(names, grads, states, expected)
        assert_bitwise(new_params, expected)
        assert_bitwise((*new_state[:split], *new_state[split]), states)
        assert_close(moved, (new_params, new_state), 1e-13)
        params, state = new_params, new_state
    for witness in witnesses:
        witness.check()


@settings(max_examples=examples(50))
@given(links(SHIPPED), nestings(tensors()), seeds(), st.data())
def test_absent_gradients_leave_params_and_state_alone(
    names: list[str], params: Tree, seed: int, data: st.DataObject
) -> None:
    """A leaf whose gradient is None keeps its value; the others move as they do among absent neighbors at any place."""
    optimizer = ft.chain(*[LINKS[name]() for name in names])
    num_leaves = len(ft.tree.leaves(params))
    absent = data.draw(st.sets(st.integers(0, num_leaves - 1)))
    state = optimizer.init(params)
    before = Witness(params, state)
    moved, new_state = ft.make_update(optimizer)(without(like(seed, params), absent.__contains__), state, params)
    before.check()
    for place, (old, new) in enumerate(zip(ft.tree.leaves(params), ft.tree.leaves(moved), strict=True)):
        if place in absent:
            assert new is old
    assert ft.tree.same_structure(new_state, state)
    if len(absent) == num_leaves:
        updates, _ = optimizer.update(ft.tree.map(lambda leaf: None, params), state, params)
        assert not ft.tree.leaves(updates)


@settings(max_examples=examples(25))
@given(links(max_size=2), links(max_size=2), links(max_size=2), nestings(tensors()), seeds())
def test_chain_is_associative_with_identity(
    one: list[str], two: list[str], three: list[str], params: Tree, seed: int
) -> None:
    """However a sequence of links is bracketed, and wherever identities stand in it, the numbers are the same bits."""
    a, b, c = (ft.chain(*[LINKS[name]() for name in names]) for names in (one, two, three))
    flat = ft.chain(*[LINKS[name]() for name in one + two + three])
    bracketings = [
        flat,
        ft.chain(a, b, c),
        ft.chain(ft.chain(a, b), c),
        ft.chain(a, ft.chain(b, c)),
        ft.chain(ft.identity(), a, ft.identity(), b, c, ft.identity()),
        ft.chain(flat),
    ]
    outcomes = []
    for optimizer in bracketings:
        current, state = params, optimizer.init(params)
        for step in range(2):
            current, state = ft.make_update(optimizer)(like(seed + step, params), state, current)
        outcomes.append((current, ft.tree.leaves(state)))
    for current, leaves in outcomes[1:]:
        assert_bitwise(current, outcomes[0][0])
        assert_bitwise(leaves, outcomes[0][1])


@settings(max_examples=examples(15))
@given(st.sampled_from(sorted(SHIPPED)), nestings(tensors()), seeds())
def test_runs_of_one_optimizer_do_not_meet(name: str, params: Tree, seed: int) -> None:
    """Two runs that take turns with one optimizer object are what each is alone."""

    def run(optimizer: ft.GradientTransformation, seed: int) -> Any:
        current, state = params, optimizer.init(params)
        for step in range(3):
            current, state = ft.make_update(optimizer)(like(seed + step, params), state, current)
            yield current, state

    shared = LINKS[name]()
    turns = list(zip(run(shared, seed), run(shared, seed + 100), strict=True))
    assert_bitwise([turn[0] for turn in turns], list(run(LINKS[name](), seed)))
    assert_bitwise([turn[1] for turn in turns], list(run(LINKS[name](), seed + 100)))


@settings(max_examples=examples(30))
@given(st.sampled_from(sorted(SHIPPED)), nestings(tensors()), seeds())
def test_updates_and_state_keep_their_structure(name: str, params: Tree, seed: int) -> None:
    """Updates look like params; the state after an update looks like the one before: structure, shapes and dtypes."""
    optimizer = LINKS[name]()
    state = optimizer.init(params)
    updates, new_state = optimizer.update(like(seed, params), state, params)
    for made, expected in ((updates, params), (new_state, state)):
        assert_bitwise(ft.tree.zeros_like(made), ft.tree.zeros_like(expected))


@pytest.mark.parametrize("name", sorted(SHIPPED))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_are_kept(name: str, dtype: torch.dtype) -> None:
    """Params, updates and moments stay in the dtype of the params, in mixed trees leaf by leaf."""
    params = {"a": normal(0, (3,), dtype), "b": normal(1, (2,), torch.float32), "c": normal(2, (2, 2), dtype)}
    optimizer = LINKS[name]()
    state = optimizer.init(params)
    updates, new_state = optimizer.update(like(3, params), state, params)
    moved, _ = ft.make_update(optimizer)(like(3, params), state, params)
    for made, expected in ((updates, params), (moved, params), (new_state, state)):
        assert_bitwise(ft.tree.zeros_like(made), ft.tree.zeros_like(expected))


def test_gradients_of_another_dtype_leave_params_in_theirs() -> None:
    """Float32 params take bfloat16 gradients, and bfloat16 params float32 ones, without changing."""
    for own, other in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        params = {"w": normal(0, (3,), own)}
        for make in SHIPPED.values():
            moved, _ = ft.make_update(make())({"w": normal(1, (3,), other)}, make().init(params), params)
            assert moved["w"].dtype == own


DIFFERENTIABLE = {
    "sgd": lambda lr: ft.sgd(lr, momentum=0.9, nesterov=True, weight_decay=0.1),
    "dampened": lambda lr: ft.sgd(lr, momentum=0.9, dampening=lr),
    "adam": lambda lr: ft.adam(lr, betas=(0.8, 0.9), weight_decay=0.1),
    "adamw": lambda lr: ft.adamw(lr, betas=(0.8, 0.9), weight_decay=lr),
    "betas and eps": lambda lr: ft.adam(0.1, betas=(lr, 1 - lr), eps=lr),
    "scheduled": lambda lr: ft.sgd(ft.schedules.linear(lr, 0.0, 5), momentum=ft.schedules.constant(lr)),
    "clipped": lambda lr: ft.chain(ft.clip_by_global_norm(lr), ft.sgd(lr)),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_updates_are_differentiable(name: str) -> None:
    """Two updates have right slopes, first and second, in gradients, parameters and the hyperparameter."""

    def twice(g1: Tensor, g2: Tensor, w: Tensor, b: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
        optimizer = DIFFERENTIABLE[name](lr)
        params, grads = {"w": w, "b": b}, ({"w": g1, "b": b * g1.sum()}, {"w": g2, "b": w.sum()})
        state = optimizer.init(params)
        for one in grads:
            params, state = ft.make_update(optimizer)(one, state, params)
        return params["w"], params["b"]

    inputs = [normal(seed, shape).requires_grad_() for seed, shape in enumerate([(3,), (3,), (3,), ()])]
    lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    with seeded():  # gradcheck draws directions
        assert torch.autograd.gradcheck(twice, (*inputs, lr), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(twice, (*inputs, lr))


def test_slopes_are_finite_where_a_gradient_vanishes() -> None:
    """At a zero gradient the root of Adam's second moment has no slope; the update still has a finite one."""
    zero = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    params = {"w": normal(0, (3,))}
    moved, _ = ft.make_update(ft.adam(0.1))({"w": zero}, ft.adam(0.1).init(params), params)
    (slope,) = torch.autograd.grad(moved["w"].sum(), zero)
    assert slope.isfinite().all()


@pytest.mark.parametrize(
    "name",
    [
        "scheduled",
        *[pytest.param(name, marks=pytest.mark.slow) for name in ("nesterov", "amsgrad", "dampened", "tensor betas")],
    ],
)
def test_compiles_as_one_graph(name: str) -> None:
    """torch.compile takes update and make_update whole, absent gradients included, and the numbers stay."""
    optimizer = ft.chain(ft.clip_by_global_norm(1.0), LINKS[name]())
    params = ft.Params({"w": normal(0, (3, 2)), "b": normal(1, (2,)), "rest": normal(2, (2,))})
    grads = ft.Params({"w": normal(3, (3, 2)), "b": normal(4, (2,)), "rest": None})
    counted = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ft.make_update(optimizer), fullgraph=True, backend=counted)
    try:
        expected = (params, optimizer.init(params))
        actual = expected
        for _ in range(3):
            actual = compiled(grads, actual[1], actual[0])
            expected = ft.make_update(optimizer)(grads, expected[1], expected[0])
            assert_close(actual, expected, 1e-13)
        assert counted.frame_count == 1
        compiled = torch.compile(optimizer.update, fullgraph=True, backend="aot_eager")
        assert_close(compiled(grads, expected[1], params), optimizer.update(grads, expected[1], params), 1e-13)
    finally:
        torch.compiler.reset()


def test_extra_arguments_reach_every_link() -> None:
    """What is passed by name comes to each transformation, in chains within chains too; others ignore it."""
    seen: list[float] = []

    def update(grads: Tree, state: Tree, params: Tree, *, value: float, **extra: Any) -> tuple[Tree, Tree]:
        seen.append(value)
        return grads, state

    listening = ft.GradientTransformation(lambda params: (), update)
    optimizer = ft.chain(listening, ft.adam(), ft.chain(ft.identity(), listening))
    params = {"w": normal(0, (2,))}
    optimizer.update(params, optimizer.init(params), params, value=0.25, other=None)
    assert seen == [0.25, 0.25]


def test_updates_without_params() -> None:
    """A chain that needs no parameters takes None in their place."""
    grads = {"w": normal(0, (2,)), "b": None}
    optimizer = ft.chain(ft.clip_by_global_norm(0.1), SHARING["delayed"](), ft.sgd(0.5, momentum=0.5))
    state = optimizer.init({"w": normal(1, (2,)), "b": normal(2, ())})
    alone, _ = optimizer.update(grads, state, None)
    assert_bitwise(alone, optimizer.update(grads, state, state[1])[0])


def test_apply_updates_adds() -> None:
    """Updates are added, leaf by leaf; None and what it stands for stay."""
    params = {"w": normal(0, (3,)), "n": torch.tensor(3), "b": normal(1, ())}
    moved = ft.apply_updates(params, {"w": normal(2, (3,)), "n": None, "b": torch.ones((), dtype=torch.float64)})
    assert_bitwise(moved, {"w": params["w"] + normal(2, (3,)), "n": params["n"], "b": params["b"] + 1})
    assert moved["n"] is params["n"]
