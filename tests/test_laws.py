"""Every transformation, schedule and step of the library keeps every law that users can hold theirs to."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train import testing
from functional_train.testing._runs import extras
from functional_train.testing.factories import registered_factories
from functional_train.testing.laws import LAWS, check_law, settings_for
from tests import cases
from tests.profiles import examples
from tests.trees import normal

Law = Callable[..., None]
USUAL = (
    {"w": normal(0, (3, 2)), "b": normal(1, (2,)), "c": normal(2, ())},
    {"w": normal(3, (3, 2)), "b": normal(4, (2,)), "c": normal(5, ())},
)
WITH_ZEROS = ({**USUAL[0], "c": torch.zeros(())}, USUAL[1])
FACTORIES = {**cases.OPTIMIZERS, **cases.TRANSFORMS, **cases.WRAPPERS, **cases.STAND_INS}


@pytest.mark.parametrize(
    ("case", "law"),
    cases.with_laws("optimizer", cases.OPTIMIZERS)
    + cases.with_laws("transformation", [*cases.TRANSFORMS, *cases.WRAPPERS]),
)
def test_transformation(case: str, law: Law) -> None:
    """What a factory makes without arguments keeps the law, whatever the parameters and gradients."""
    if (case, law.__name__) in cases.EXEMPT:
        for point in (USUAL, WITH_ZEROS):  # whether an exemption is needed is not left to chance
            law(FACTORIES[case](), *point)
        check_exempt(law, FACTORIES[case]())
    check_law(law, FACTORIES[case](), testing.params_and_grads())


def check_exempt(law: Law, transformation: ft.GradientTransformation) -> None:
    """Look for a failure that is known to be there: among trees of several leaves, and without simplifying it."""

    @settings(settings_for(law), phases=[Phase.generate])
    @given(testing.params_and_grads(min_leaves=3))
    def holds(drawn: Any) -> None:
        law(transformation, *drawn)

    holds()


# Whether 16 bits hold what comes out of a chain depends on the sizes that its links hand on.
OF_CHAINS = [law for law in LAWS["transformation"] if law not in {testing.keeps_low_precision, testing.takes_any_tree}]


@pytest.mark.parametrize("law", OF_CHAINS, ids=lambda law: law.__name__)
def test_random_chain(law: Law) -> None:
    """A chain of transformations with drawn hyperparameters keeps the law."""

    without = [*cases.STAND_INS, *(name for name, exempt in cases.EXEMPT if exempt == law.__name__)]

    @settings_for(law)
    @given(testing.gradient_transformations(without=without), testing.params_and_grads())
    def holds(chain: ft.GradientTransformation, drawn: Any) -> None:
        law(chain, *drawn)

    holds()


@pytest.mark.parametrize(("case", "law"), cases.with_laws("schedule", cases.SCHEDULES))
def test_schedule(case: str, law: Law) -> None:
    """A schedule keeps the law, however many of its steps are looked at."""
    check_law(law, cases.SCHEDULES[case](*cases.SCHEDULE_ARGUMENTS[case]), st.tuples(st.integers(2, 60)))


def distance(params: Any, target: Any, key: Tensor | None = None, buffers: Any = None) -> tuple[Tensor, ft.Aux]:
    """Half the squared distance to a target, moved by noise when there is a key, and counted when there are buffers."""
    shift = 0.0 if key is None else ft.random.normal(key)
    pairs = zip(ft.tree.leaves(params), ft.tree.leaves(target), strict=True)
    apart = [(leaf - goal - shift).float().square().sum() for leaf, goal in pairs if leaf.is_floating_point()]
    counted = buffers and buffers | {"num_batches_tracked": buffers["num_batches_tracked"] + 1}
    return torch.stack(apart).sum() / 2, ft.Aux(buffers=counted)


@pytest.mark.parametrize(("case", "law"), cases.with_laws("step", cases.OPTIMIZERS))
def test_step(case: str, law: Law) -> None:
    """A step made of a gradient and an optimizer keeps the law, with and without a key and buffers."""
    optimizer = FACTORIES[case]()
    states = testing.train_states(optimizer=optimizer)
    if case in cases.DRAWS:
        states = states.filter(lambda state: state.key is not None)
    arguments = states.flatmap(lambda state: st.tuples(st.just(state), testing.batches(state.params, max_size=3)))
    check_law(law, ft.make_step(ft.grad_and_value(distance, has_aux=True), optimizer), arguments)


@pytest.mark.parametrize("case", cases.REFERENCES)
def test_equals_its_reference(case: str) -> None:
    """Three updates in float64, the last without some gradients, lead where the reference leads."""
    is_posed = cases.WELL_POSED.get(case, lambda grad: True)

    @settings(max_examples=examples(20))
    @given(testing.params_and_grads(dtype=torch.float64, min_leaves=1))
    def holds(drawn: Any) -> None:
        params, grads = drawn
        leaves: list[Tensor] = ft.tree.leaves(params)
        first: list[Tensor | None] = []
        ft.tree.map(lambda _, grad: first.append(grad), params, grads)
        assume(all(is_posed(grad) for grad in first if grad is not None))
        second = [None if grad is None else -0.5 * grad for grad in first]
        third = [None if place % 2 else grad for place, grad in enumerate(first)]
        optimizer = FACTORIES[case]()
        reached, state = list(leaves), optimizer.init(leaves)
        for row, expected in zip(
            (first, second, third), cases.REFERENCES[case](leaves, [first, second, third]), strict=True
        ):
            told = extras(row)
            if case in cases.STAND_INS:
                del told["grad_and_value_fn"]  # where it is used, a stand-in brings one of its own
            reached, state = ft.make_update(optimizer)(row, state, reached, **told)
            # Three steps of a handful of roundings of numbers up to 10.
            testing.assert_trees_close(reached, expected, rtol=1e-12, atol=1e-12)

    holds()


def test_all_that_is_public_is_registered() -> None:
    """The strategies draw from exactly the factories that are promised."""
    assert set(registered_factories()) == {*cases.OPTIMIZERS, *cases.TRANSFORMS}


def test_tables_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing row and a spare row are errors that name it."""
    monkeypatch.setitem(cases.REFERENCES, "adagio", cases.REFERENCES["adam"])
    with pytest.raises(LookupError, match=r"REFERENCES: no row for \[\], and rows for nothing: \['adagio'\]"):
        cases.check_tables()
    monkeypatch.delitem(cases.REFERENCES, "adagio")
    monkeypatch.delitem(cases.SCHEDULE_ARGUMENTS, "linear")
    with pytest.raises(LookupError, match=r"SCHEDULE_ARGUMENTS: no row for \['linear'\]"):
        cases.check_tables()
