"""Strategies draw everything that is supported, nothing else, from Hypothesis alone, and shrink to something small."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import functional_train as ft
from functional_train import testing
from functional_train.testing.factories import makes_transformation, registered_factories
from functional_train.testing.strategies import Layer, Pair
from tests.global_rng import seeded
from tests.profiles import examples

SEARCH = settings(
    max_examples=3000,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
WITHOUT_SHRINKING = settings(SEARCH, phases=[Phase.generate])

TENSORS: dict[str, Callable[[Tensor], bool]] = {
    "scalar": lambda t: t.ndim == 0,
    "zero-size": lambda t: t.numel() == 0,
    "three dims": lambda t: t.ndim == 3 and t.numel() > 8,
    "transposed": lambda t: not t.is_contiguous() and 0 not in t.stride(),
    "expanded": lambda t: t.numel() > 1 and set(t.stride()) == {0},
    "nan": lambda t: t.is_floating_point() and bool(t.isnan().any()),
    "infinite": lambda t: t.dtype == torch.bfloat16 and bool(t.isinf().any()),
    "negative zero": lambda t: t.is_floating_point() and bool(((t == 0) & t.signbit()).any()),
    **{str(dtype): lambda t, dtype=dtype: t.dtype == dtype for dtype in (torch.complex64, torch.bool, torch.uint8)},
}


@pytest.mark.parametrize("kind_of_tensor", TENSORS)
def test_tensors_are_of_every_kind(kind_of_tensor: str) -> None:
    """Among tensors is one of each kind."""
    find(testing.tensors(), TENSORS[kind_of_tensor], settings=WITHOUT_SHRINKING)


@given(
    st.data(), st.sampled_from((torch.float16, torch.int32, torch.complex128)), st.lists(st.integers(0, 4), max_size=3)
)
def test_tensors_keep_to_what_was_asked(data: st.DataObject, dtype: torch.dtype, shape: list[int]) -> None:
    """A given dtype, shape and set of elements are those of every tensor; none requires grad."""
    tensor = data.draw(testing.tensors(dtype=dtype, shape=shape, elements=st.sampled_from((1, 2))))
    assert tensor.dtype == dtype
    assert tensor.shape == tuple(shape)
    assert not tensor.requires_grad
    assert ((tensor == 1) | (tensor == 2)).all()


def nodes(tree: Any) -> list[Any]:
    """Every container of a tree."""
    below = ft.tree._structure.children(tree)  # type: ignore[attr-defined]
    return [] if below is None else [tree, *(node for _, child in below for node in nodes(child))]


@pytest.mark.parametrize("kind", [dict, list, tuple, ft.Params, Pair, Layer, type(None)])
def test_trees_hold_every_container(kind: type) -> None:
    """Among trees, every container occurs, empty and filled where it can be empty, and below another."""
    leaves = testing.pytrees(st.just(1))
    below = find(leaves, lambda tree: any(type(node) is kind for node in nodes(tree)[1:]), settings=WITHOUT_SHRINKING)
    assert nodes(below)
    if kind not in (Pair, Layer):
        find(leaves, lambda tree: type(tree) is kind and not ft.tree.leaves(tree), settings=WITHOUT_SHRINKING)


def test_shrinks_to_one_scalar() -> None:
    """The simplest parameters with a leaf are one scalar of zero, and so are their gradients."""
    params, grads = find(
        testing.params_and_grads(min_leaves=1), lambda drawn: bool(ft.tree.leaves(drawn[1])), settings=SEARCH
    )
    testing.assert_trees_equal((params, grads), (torch.zeros(()).double(), torch.zeros(()).double()))
    nested = find(testing.params(), lambda tree: len(ft.tree.leaves(tree)) == 2, settings=SEARCH)
    assert all(leaf.shape == () and leaf == 0 for leaf in ft.tree.leaves(nested))


@given(testing.params_and_grads())
def test_gradients_are_like_params(drawn: tuple[Any, Any]) -> None:
    """Each gradient is finite, has its parameter's shape and dtype or is None, and is None for an integer."""
    params, grads = drawn

    def compare(param: Tensor, grad: Tensor | None) -> None:
        if grad is not None:
            assert (grad.shape, grad.dtype) == (param.shape, param.dtype)
            assert param.is_floating_point()
            assert grad.isfinite().all()
        assert (param.abs() <= 10).all()

    ft.tree.map(compare, params, grads)


@pytest.mark.parametrize(
    "holds",
    [
        lambda drawn: any(not leaf.is_floating_point() for leaf in ft.tree.leaves(drawn[0])),
        lambda drawn: len({leaf.dtype for leaf in ft.tree.leaves(drawn[1])}) > 1,
        lambda drawn: 0 < len(ft.tree.leaves(drawn[1])) < sum(p.is_floating_point() for p in ft.tree.leaves(drawn[0])),
        lambda drawn: not ft.tree.leaves(drawn[0]),
    ],
    ids=["an integer leaf", "mixed dtypes", "a gradient of None", "no leaf"],
)
def test_pairs_are_of_every_kind(holds: Callable[[Any], bool]) -> None:
    """Among pairs of parameters and gradients is one of each kind."""
    find(testing.params_and_grads(), holds, settings=WITHOUT_SHRINKING)


@given(st.data())
def test_options_of_params(data: st.DataObject) -> None:
    """`dtype` fixes the dtype of every leaf, and `min_leaves` how many there are at least."""
    params = data.draw(testing.params(dtype=torch.complex64, min_leaves=2))
    assert {leaf.dtype for leaf in ft.tree.leaves(params)} == {torch.complex64}
    assert len(ft.tree.leaves(params)) >= 2


@given(st.data())
def test_batches_are_like_params(data: st.DataObject) -> None:
    """Each batch has the structure, shapes and dtypes of the parameters, and there are as many as asked for."""
    params = data.draw(testing.params())
    batches = data.draw(testing.batches(params, min_size=1, max_size=2))
    assert 1 <= len(batches) <= 2
    for batch in batches:
        testing.assert_trees_alike(batch, params)


@given(testing.keys())
def test_keys_are_keys(key: Tensor) -> None:
    """Every key can be split."""
    assert ft.random.split(key).shape == (2, 2)


def test_nothing_moves_a_global_generator() -> None:
    """Every strategy draws from Hypothesis alone."""
    everything = st.tuples(
        *(testing.tensors(), testing.params_and_grads(), testing.keys(), testing.schedules(), testing.train_states()),
        testing.from_module(nn.Identity()),
    )

    @settings(max_examples=examples(20))
    @given(everything)
    def draw(drawn: Any) -> None:
        del drawn

    with testing.assert_global_rng_untouched():
        draw()


@given(st.data())
@settings(max_examples=examples(20))
def test_parameters_for_a_module(data: st.DataObject) -> None:
    """`from_module` gives what `functionalize` takes, of any size, and another dtype where the module has one."""
    with seeded():
        module = nn.Sequential(nn.Linear(50, 40), nn.BatchNorm1d(40)).to(torch.bfloat16)
    apply, params, buffers = ft.functionalize(module)
    drawn = data.draw(testing.from_module(module))
    testing.assert_trees_alike(drawn, params)
    output, _ = apply(drawn, torch.ones(2, 50, dtype=torch.bfloat16), buffers=buffers)
    assert output.shape == (2, 40)


@given(testing.schedules(), st.integers(0, 100))
def test_schedules_are_bounded(schedule: Any, step: int) -> None:
    """A drawn schedule stays between 0 and 1."""
    assert 0 <= schedule(step) <= 1


@given(testing.from_factory(ft.sgd), testing.params_and_grads())
def test_drawn_hyperparameters_are_accepted(optimizer: ft.GradientTransformation, drawn: Any) -> None:
    """What `from_factory` gives is a transformation that works, whatever options go together."""
    params, grads = drawn
    ft.make_update(optimizer)(grads, optimizer.init(params), params)


def test_hyperparameters_take_every_form() -> None:
    """Numbers, tensors, schedules, tuples of them, and both truth values are drawn; no default is left out."""
    seen: list[Any] = []

    def factory(
        lr: ft.Hyperparameter = 0.5,
        betas: tuple[ft.Hyperparameter, ft.Hyperparameter] = (0.0, 0.9),
        nesterov: bool = False,
        *,
        where: str = "here",
    ) -> ft.GradientTransformation:
        seen.append((lr, betas, nesterov, where))
        if nesterov and not callable(lr):
            raise ft.HyperparameterError("nesterov needs a schedule")
        return ft.identity()

    @settings(max_examples=200, derandomize=True, database=None)
    @given(testing.from_factory(factory))
    def draw(made: Any) -> None:
        assert made.init(None) == ft.EmptyState()

    draw()
    rates, betas, nesterov, where = ([*column] for column in zip(*seen, strict=True))
    assert {rate for rate in rates if isinstance(rate, float)} == {0.5, 0.25}
    assert {first for first, _ in betas if isinstance(first, float)} == {0.0, 0.1}
    assert any(isinstance(rate, Tensor) for rate in rates)
    assert any(callable(rate) for rate in rates)
    assert (set(nesterov), set(where)) == ({True, False}, {"here"})


def test_chains_are_made_of_all_that_is_registered() -> None:
    """Among chains are the empty one and one of each length; every factory without arguments is registered."""
    for length in range(3):
        find(testing.gradient_transformations(), lambda tx, n=length: len(tx.init({})) == n, settings=WITHOUT_SHRINKING)
    assert {"adam", "identity", "clip_by_global_norm"} <= set(registered_factories())
    assert not {"chain", "stateless"} & set(registered_factories())
    assert all(makes_transformation(factory) for factory in registered_factories().values())


@given(testing.train_states())
@settings(max_examples=examples(30))
def test_states_are_at_the_beginning(state: ft.TrainState) -> None:
    """A drawn state counts no batch, holds something to train, and passes its own check."""
    assert state.step == 0
    assert any(leaf.is_floating_point() for leaf in ft.tree.leaves(state.params))


def test_states_own_what_they_may() -> None:
    """Among states are those with and without a key and buffers."""
    states = testing.train_states(optimizer=ft.sgd())
    for has_key, has_buffers in ((True, False), (False, True), (True, True), (False, False)):
        find(
            states,
            lambda state, owns=(has_key, has_buffers): (state.key is not None, state.buffers is not None) == owns,
            settings=WITHOUT_SHRINKING,
        )
