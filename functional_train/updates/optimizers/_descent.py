"""From a direction to an optimizer: decoupled weight decay and the learning rate."""

from typing import Any

from functional_train.updates.apply import added
from functional_train.updates.chain import chain
from functional_train.updates.checks import check_non_negative, is_zero
from functional_train.updates.hyperparameters import scheduled
from functional_train.updates.transformation import GradientTransformation, update_columns, with_move
from functional_train.updates.transforms._decay import add_decayed_weights
from functional_train.updates.transforms._scale import negate, scale_by_lr
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


def descent(
    direction: GradientTransformation,
    lr: Hyperparameter,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    r"""Descend along a direction: $p \leftarrow (1 - \mathrm{lr} \lambda) p - \mathrm{lr} \cdot u$.

    A chain of `negate` (to climb), the direction, `add_decayed_weights` (with decay) and `scale_by_lr`. Straight to new
    parameters it takes one pass less over memory than those do one after another.
    """
    before = (*climbing(maximize), direction)
    decay = decaying(weight_decay)
    parts = (*before, *decay, scale_by_lr(lr))
    if not decay:
        return chain(*parts)

    def move(g: Flat, states: Tree, p: Flat, **extra: Any) -> tuple[Flat, Tree] | None:
        if type(states) is not tuple or len(states) != len(parts):
            return None
        u, made, at = g, [], p
        for part, state in zip(before, states[: len(before)], strict=True):
            u, new, laid = update_columns(part, u, state, at, extra)
            assert laid is not None
            made, at = [*made, new], laid
        rate, rate_state = scheduled(lr, states[-1])
        amount, decay_state = scheduled(weight_decay, states[-2])
        rate, amount = check_non_negative("lr", rate), check_non_negative("weight_decay", amount)
        return added(at, u, keep=1 - rate * amount, share=-rate), (*made, decay_state, rate_state)

    return with_move(chain(*parts), move)


def climbing(maximize: bool) -> list[GradientTransformation]:
    """What an optimizer begins with: `negate` when it climbs, else nothing."""
    return [negate()] if maximize else []


def decaying(weight_decay: Hyperparameter) -> list[GradientTransformation]:
    """Weight decay as a part of an optimizer: `add_decayed_weights`, or nothing when it is the number zero."""
    return [] if is_zero(weight_decay) else [add_decayed_weights(weight_decay)]
