"""All laws by the kind of function that they are about, and a search for a counterexample."""

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis.strategies import SearchStrategy

from functional_train.testing._algebra_laws import composes, descends
from functional_train.testing._loop_laws import folds_in_parts, loops_agree, step_is_pure, step_keeps_structure
from functional_train.testing._purity_laws import is_pure, resumes_from_leaves, runs_are_independent
from functional_train.testing._schedule_laws import has_no_jumps, is_finite, is_function_of_step
from functional_train.testing._structure_laws import (
    ignores_names_and_order,
    keeps_low_precision,
    state_keeps_its_structure,
    takes_any_tree,
    updates_are_like_params,
)
from functional_train.testing._transform_laws import is_differentiable, traces_as_one_graph, vmap_equals_loop

Law = Callable[..., None]

_OF_TRANSFORMATIONS: tuple[Law, ...] = (
    updates_are_like_params,
    state_keeps_its_structure,
    keeps_low_precision,
    takes_any_tree,
    ignores_names_and_order,
    is_pure,
    resumes_from_leaves,
    runs_are_independent,
    composes,
    vmap_equals_loop,
    is_differentiable,
    traces_as_one_graph,
)

LAWS: Mapping[str, tuple[Law, ...]] = {
    "transformation": _OF_TRANSFORMATIONS,  # law(transformation, params, grads)
    "optimizer": (*_OF_TRANSFORMATIONS, descends),  # law(optimizer, params, grads)
    "schedule": (is_finite, is_function_of_step, has_no_jumps),  # law(schedule, num_steps)
    "step": (step_is_pure, step_keeps_structure, folds_in_parts, loops_agree),  # law(step, state, batches)
}

# An example takes some ten milliseconds, and a trace most of a second.
_SHARE_OF_EXAMPLES = {traces_as_one_graph: 50}


def settings_for(law: Law) -> settings:
    """As many examples of a law as its cost allows, none of them too slow: the first trace takes a second.

    A law that traces is not given time to simplify a failure.
    """
    profile = settings()
    examples = max(1, profile.max_examples // _SHARE_OF_EXAMPLES.get(law, 10))
    skipped = (Phase.shrink, Phase.explain) if law in _SHARE_OF_EXAMPLES else ()
    phases = [phase for phase in profile.phases if phase not in skipped]
    return settings(profile, max_examples=examples, phases=phases, deadline=None)


def check_law(law: Law, subject: Any, arguments: SearchStrategy[Any]) -> None:
    """Look for arguments that break a law.

    Tried are a tenth as many as the `max_examples` of the Hypothesis profile in force, and fewer of a law that traces.

    Args:
        law: One of `LAWS`, or any function that raises AssertionError.
        subject: What the law is about, its first argument.
        arguments: Draws the others, as a tuple.

    Raises:
        AssertionError: the law is broken; the notes of the error show the simplest arguments that were found.

    Example:
        >>> import functional_train as ft, functional_train.testing
        >>> for law in ft.testing.LAWS["optimizer"][:3]:
        ...     ft.testing.check_law(law, ft.sgd(0.1), ft.testing.params_and_grads())
    """

    @settings_for(law)
    @given(arguments)
    def holds(drawn: tuple[Any, ...]) -> None:
        law(subject, *drawn)

    holds()
