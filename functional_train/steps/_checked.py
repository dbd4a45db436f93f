"""The cheap part of `check_pure`, which every plain step goes through."""

import functools
from typing import Any

from functional_train.steps.state import check_untouched, versions_of
from functional_train.values._generators import mark, set_back
from functional_train.values._watching import is_unmoded
from functional_train.values.errors import PurityError
from functional_train.values.tree._structure import items, leaves
from functional_train.values.types import StepFn, Tree


def checked(step: StepFn) -> StepFn:
    """Have a step refuse a state that was written to, and a loss or an update that writes, or draws from torch.

    What torch counts is compared: the versions of the leaves of state and batch, and the global generator. So neither a
    write that torch does not see nor another generator is found; `check_pure` finds those, and the line.

    Args:
        step: Any step.
    """

    @functools.wraps(step)
    def checked_step(state: Any, batch: Tree) -> Any:
        check_untouched(state)
        # A trace refuses for itself.
        given = leaves(batch) if is_unmoded() else None
        versions, drawn = ([], None) if given is None else (versions_of(given), mark())
        result = step(state, batch)
        check_untouched(state, "by this step, in its loss or its update")
        if given is None or drawn is None:
            return result
        if versions_of(given) != versions:
            now = versions_of(given)
            place = next(place for place, version in enumerate(versions) if now[place] != version)
            path = items(batch)[place][0]
            raise PurityError(
                f"{f'{path!r} of the batch' if path else 'the batch'} was written to by this step, in its loss or its "
                "update. Compute a new value (x = x + 1, not x += 1), or work on x.clone(); ft.check_pure(step, state, "
                "batch) names the line."
            )
        if mark() != drawn:
            set_back(drawn)
            raise PurityError(
                "this step drew from the global generator of torch, in its loss or its update. Draw with ft.random "
                "from a key that the state owns, and of a module with apply(params, x, key=key); ft.check_pure(step, "
                "state, batch) names the line."
            )
        return result

    return checked_step
