"""The cheap part of `check_pure`, which every plain step goes through."""

import contextlib
import functools
import itertools
from typing import Any

from torch import Tensor

from functional_train.steps._memory import keep_freed_pages
from functional_train.steps.state import check_untouched, versions_of
from functional_train.values._generators import first_draw, mark, set_back
from functional_train.values._watching import is_unmoded
from functional_train.values.errors import OwnershipError, PurityError
from functional_train.values.tree._structure import items, leaves, tensors
from functional_train.values.types import StepFn, Tree

_WHEN = "by this step, in its loss or its update"
# To ask the generator, 5 kB are copied, which drives other data out of the cache; who draws mostly draws each time. Who
# draws each k-th time is met as well where k and the number of steps between two questions have no common divisor.
_FIRST_ASKED, _ASKED_EVERY = 8, 13


def checked(step: StepFn) -> StepFn:
    """Have a step refuse a state that was written to, and a loss or an update that writes, or that draws from torch.

    What torch counts is compared: the versions of the leaves of state and batch, and, around the first 8 steps and each
    13th, the global generator. So neither a write that torch does not see nor another generator is found; `check_pure`
    finds those, and the line.

    Args:
        step: Any step.
    """
    turns = itertools.count(1)

    @functools.wraps(step)
    def checked_step(state: Any, batch: Tree) -> Any:
        # A trace refuses for itself.
        if not is_unmoded():
            check_untouched(state)
            result = step(state, batch)
            check_untouched(state, _WHEN)
            return result
        given = _tensors(batch)
        versions = versions_of(given)
        turn = next(turns)
        if turn == 1:
            keep_freed_pages(state)
        drawn = mark() if turn <= _FIRST_ASKED or turn % _ASKED_EVERY == 0 else None
        # One look at the state finds what was written before this step, too: what was computed of it is dropped.
        try:
            result = step(state, batch)
            check_untouched(state)
        except Exception:
            _explain_writes(step, state, batch)
            raise
        if versions_of(given) != versions:
            pairs = zip(given, versions_of(given), versions, strict=True)
            written = next(leaf for leaf, now, before in pairs if now != before)
            path = next((path for path, leaf in items(batch) if leaf is written), "")
            raise PurityError(
                f"{f'{path!r} of the batch' if path else 'the batch'} was written to {_WHEN}. Compute a new value "
                "(x = x + 1, not x += 1), or work on x.clone(); ft.check_pure(step, state, batch) names the line."
            )
        if drawn is not None and mark() != drawn:
            # Another thread may have drawn, whose numbers are not to come twice.
            line = first_draw(lambda: step(state, batch))
            if line is not None:
                set_back(drawn)
                raise PurityError(
                    f"this step draws from the global generator of torch, with {line}\nDraw with ft.random from a key "
                    "that the state owns, and in a module with apply(params, x, key=key)."
                )
        return result

    return checked_step


def _explain_writes(step: StepFn, state: Any, batch: Tree) -> None:
    """Raise OwnershipError if a state was written to, and say who did: a step that did does so once more."""
    try:
        check_untouched(state)
    except OwnershipError:
        before = _seen(state)
        with contextlib.suppress(Exception):
            step(state, batch)
        if _seen(state) != before:
            check_untouched(state, _WHEN)
        raise


def _seen(state: Any) -> list[tuple[int, Any]]:
    found = leaves(state)
    return list(zip(map(id, found), versions_of(found), strict=True))


def _tensors(batch: Tree) -> list[Tensor]:
    """The tensors of a batch; those of the usual pair are seen at a glance, in a fourth of the time."""
    if type(batch) is tuple and all(type(part) is Tensor for part in batch):
        return list(batch)
    return tensors(batch)
