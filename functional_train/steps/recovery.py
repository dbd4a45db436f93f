"""StepFn -> StepFn on the host: what to do when steps are skipped, one after another."""

import math
from typing import Any

import torch
from torch import Tensor

from functional_train.steps.compiling._donate import is_lost
from functional_train.steps.skipping import SkippingState, counters
from functional_train.steps.state import TrainState, check_untouched, position
from functional_train.updates.checks import check_whole
from functional_train.values._watching import is_readable
from functional_train.values.errors import NonFiniteError, StructureError
from functional_train.values.struct import struct
from functional_train.values.tree._structure import items
from functional_train.values.types import StepFn, Tree

_MANY = 5


def raise_if_skipped(step: StepFn, after: int = 1) -> StepFn:
    """Raise when so many steps in a row were skipped, and name the leaves whose gradients were not finite.

    Around a compiled step, not inside it: the host reads after each step whether it was skipped, and waits for that.
    `roll_back` raises by itself when going back does not help, and needs no other around it.

    Args:
        step: From `make_skipping_step`, perhaps compiled: it keeps count in its state.
        after: How many steps in a row, at least 1.

    Returns:
        A step that raises NonFiniteError, whose `.state` is the state after the skipped step: but for its counts, its
        step and its key it is the one before.

    Raises:
        HyperparameterError: after is no int of at least 1.
        StructureError: step is no function; when called: the state was not made by `init_skipping_state`, or the step
            reports no `"skipped"`, or is mapped or traced.

    Example:
        >>> import functional_train as ft, torch
        >>> grad_fn = ft.grad_and_value(lambda params, batch: (params["w"] * batch).sum())
        >>> step = ft.raise_if_skipped(ft.make_skipping_step(grad_fn, optimizer := ft.sgd(0.5)))
        >>> step(ft.init_skipping_state({"w": torch.ones(1)}, optimizer), torch.tensor([torch.inf]))
        Traceback (most recent call last):
        ...
        functional_train.values.errors.NonFiniteError: step 1 was skipped: its loss is inf, and the gradient of 'w' ...
    """
    _check_step(step, "raise_if_skipped")
    check_whole("after", after, 1)

    def raising_step(state: Any, batch: Tree) -> tuple[Any, Any]:
        new, metrics = step(state, batch)
        if _is_skipped(metrics, "raise_if_skipped"):
            faults = counters(new, "raise_if_skipped")
            if int(faults.num_consecutive) >= after:
                raise NonFiniteError(_described(new, faults, metrics["loss"], batch), state=new)
        return new, metrics

    return _around(raising_step, "raise_if_skipped", step)


@struct
class RollbackState:
    """A state, and an earlier one to go back to.

    Args:
        current: The state that goes on.
        good: The state that is gone back to. Leaves that are those of `current` take no memory of their own.
        num_rollbacks: () int64, how often the run went back.
        num_in_a_row: () int64, how often since `good` was last replaced.

    Example:
        >>> import functional_train as ft, torch
        >>> state = ft.init_rollback_state(ft.init_skipping_state({"w": torch.zeros(1)}, ft.sgd()))
        >>> state.good.params is state.current.params
        True
    """

    current: TrainState
    good: TrainState
    num_rollbacks: Tensor
    num_in_a_row: Tensor

    @property
    def step(self) -> Tensor:
        """() int64, batches consumed."""
        return self.current.step

    @property
    def params(self) -> Tree:
        """What is trained, as it is now."""
        return self.current.params

    @property
    def opt_state(self) -> Tree:
        """What the optimizer remembers, as it is now."""
        return self.current.opt_state

    @property
    def key(self) -> Tensor | None:
        """The random key, as it is now."""
        return self.current.key

    @property
    def buffers(self) -> Tree | None:
        """The buffers, as they are now."""
        return self.current.buffers


def init_rollback_state(state: TrainState) -> RollbackState:
    """Make the state that a step of `roll_back` starts from.

    Args:
        state: Of `init_skipping_state`, or one that a run came to.

    Returns:
        The state beside itself; nothing is copied.

    Raises:
        StructureError: the state was not made by `init_skipping_state`.

    Example:
        >>> import functional_train as ft, torch
        >>> int(ft.init_rollback_state(ft.init_skipping_state({"w": torch.zeros(1)}, ft.sgd())).num_rollbacks)
        0
    """
    if not isinstance(state, TrainState):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StructureError(
            f"init_rollback_state takes a TrainState, got a {type(state).__name__}. Make it with "
            "ft.init_skipping_state(params, optimizer); of a RollbackState, pass state.current."
        )
    state = _afresh(state, counters(state, "init_rollback_state"))
    return RollbackState(state, state.replace(), torch.tensor(0), torch.tensor(0))


def roll_back(step: StepFn, every: int = 100, after: int = 10, max_in_a_row: int = 3) -> StepFn:
    """Go back to an earlier state when so many steps in a row were skipped, and on with the batches that come next.

    Every so many steps a state is kept beside the one that goes on, as soon as a step from it was not skipped. Going
    back takes parameters, buffers and the optimizer's state from it, its schedules among it; batches stay consumed,
    keys used up and what was skipped counted, so other batches and other random numbers follow. Spikes in a row stay
    counted too: losses that are as high from the earlier state are a change of the data, and trained on.

    Around a compiled step, not inside it: the host reads after each step whether it was skipped, and waits for that.
    States are values, so keeping one copies nothing; of a step that moves its state the leaves that are kept are
    copied once for each state that is kept, and take memory.

    Args:
        step: From `make_skipping_step`, perhaps compiled.
        every: Steps between states that are kept, at least 1.
        after: How many steps in a row are skipped before the run goes back, at least 1; for spikes it means something
            up to the step's `max_consecutive_spikes`, and in `fit` up to 99, for it ends a run after 100.
        max_in_a_row: How often the run goes back to one state before it is given up, at least 1.

    Returns:
        `(state, batch) -> (state, metrics)` for states of `init_rollback_state`, with `"rolled_back"` (1.0 or 0.0) in
        the metrics. It raises NonFiniteError when it goes back once too often; the error's `.state` is the one that it
        went back to.

    Raises:
        HyperparameterError: a number is no int of at least 1.
        StructureError: step is no function; when called: the state was not made by `init_rollback_state`, or the step
            reports no `"skipped"`, or is mapped or traced.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, section 5.1.

    Differs: there training went on from about 100 steps before a spike; here from the state that was kept last, which
        is between 0 and `every` steps before the first step of the row, so that one copy is kept and not several.

    Example:
        >>> import functional_train as ft, torch
        >>> grad_fn = ft.grad_and_value(lambda params, batch: (params["w"] * batch).sum())
        >>> step = ft.roll_back(ft.make_skipping_step(grad_fn, optimizer := ft.sgd(0.5)), every=100, after=2)
        >>> state = ft.init_rollback_state(ft.init_skipping_state({"w": torch.ones(1)}, optimizer))
        >>> batches = [torch.ones(1), torch.tensor([torch.nan]), torch.tensor([torch.nan])]
        >>> state, metrics = ft.scan(step, state, batches)
        >>> state.params, metrics["rolled_back"]
        ({'w': tensor([1.])}, tensor([0., 0., 1.]))
    """
    _check_step(step, "roll_back")
    for name, value in (("every", every), ("after", after), ("max_in_a_row", max_in_a_row)):
        check_whole(name, value, 1)

    def returning_step(state: RollbackState, batch: Tree) -> tuple[RollbackState, Any]:
        if not isinstance(state, RollbackState):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise StructureError(
                f"a step that rolls back was given a {type(state).__name__}. Make the state with "
                "ft.init_rollback_state(state)."
            )
        good, rollbacks, in_a_row = state.good, state.num_rollbacks, state.num_in_a_row
        is_due = position(state) - position(good) >= every
        # Another value of the same leaves: a step that moves its state takes the one away, not the other.
        given = state.current.replace() if is_due else None
        try:
            current, metrics = step(state.current, batch)
        except Exception as error:
            if is_lost(state.current):
                error.add_note(
                    f"The state that roll_back had kept, of step {position(good)}, is `good` of the one given."
                )
            raise
        skipped = _is_skipped(metrics, "roll_back")
        if "rolled_back" in metrics:
            raise StructureError("the step has a metric called 'rolled_back', which is this step's own. Rename it.")
        faults = counters(current, "roll_back")
        back = skipped and int(faults.num_consecutive) >= after
        if back:
            check_untouched(good, "after roll_back had kept it")
            current = good = _afresh(good.replace(step=current.step, key=current.key), faults)
            current, rollbacks, in_a_row = current.replace(), rollbacks + 1, in_a_row + 1
        elif given is not None and not skipped:
            # Not the new state, of which nobody knows yet whether its loss and its gradients are finite.
            good, in_a_row = given, torch.zeros_like(in_a_row)
        new = RollbackState(current, good, rollbacks, in_a_row)
        if int(in_a_row) > max_in_a_row:
            raise NonFiniteError(
                f"step {position(current)} was skipped as the last of {after} in a row, and the run has gone back to "
                f"one state {max_in_a_row} times already: other batches do not help. Lower lr, or look at the data "
                "from there on. The state that it went back to is error.state.",
                state=new,
            )
        return new, {**metrics, "rolled_back": torch.tensor(float(back), dtype=torch.float32)}

    return _around(returning_step, "roll_back", step)


def _afresh(state: TrainState, seen: SkippingState) -> TrainState:
    """A state whose row of skipped steps is over; what was skipped in all stays counted, high losses in a row too."""
    counts = {
        "num_consecutive": torch.zeros_like(seen.num_consecutive),
        "num_skipped": seen.num_skipped,
        "num_spikes": seen.num_spikes,
        "num_consecutive_spikes": seen.num_consecutive_spikes,
    }
    return state.replace(opt_state=state.opt_state._replace(**counts))


def _check_step(step: Any, taker: str) -> None:
    if not callable(step):
        raise StructureError(
            f"{taker} takes a step, got a {type(step).__name__}. Write ft.{taker}(ft.make_skipping_step(grad_fn, "
            "optimizer))."
        )


def _around(wrapped: Any, name: str, step: StepFn) -> StepFn:
    """Say of a step around another what it is, and that it moves its state if that does."""
    wrapped.__name__ = f"{name}({getattr(step, '__name__', type(step).__name__)})"
    if getattr(step, "donates", False):
        wrapped.donates = True
    return wrapped


def _is_skipped(metrics: Any, taker: str) -> bool:
    """Read whether a step was skipped."""
    skipped = metrics.get("skipped") if isinstance(metrics, dict) else None
    if not isinstance(skipped, Tensor):
        raise StructureError(
            f"{taker} is around a step that reports no 'skipped' in its metrics. Make the step with "
            "ft.make_skipping_step(grad_fn, optimizer)."
        )
    if not is_readable(skipped):
        raise StructureError(
            f"{taker} reads on the host whether a step was skipped, which cannot be mapped or traced. Put it outside: "
            f"ft.{taker}(ft.compile(step))."
        )
    if skipped.ndim != 0:
        raise StructureError(
            f"{taker} is around several steps at once: 'skipped' has shape {tuple(skipped.shape)}. Put it inside "
            "ft.repeat; members of an ensemble skip by themselves."
        )
    return bool(skipped)


def _described(state: Any, faults: SkippingState, loss: Tensor, batch: Tree) -> str:
    """What happened in the step that was skipped last, and what to do."""
    value, count = float(loss), int(faults.num_consecutive)
    bad = [path for (path, _), flag in zip(items(state.params), faults.nonfinite.tolist(), strict=True) if flag]
    row = f", the last of {count} in a row" if count > 1 else ""
    kept = "Parameters, optimizer state and buffers are those from before it, in error.state."
    if math.isfinite(value) and not bad:
        usual = f"{float(faults.loss_mean):g} +- {float(faults.loss_var.sqrt()):g}"
        return (
            f"step {position(state)} was skipped{row}: its loss is {value:g}, a spike where {usual} is usual. Look at "
            f"the batch, lower lr, or pass a larger max_zscore. {kept}"
        )
    what = f"its loss is {value:g}"
    if bad:
        leaves = "s of " + ", ".join(map(repr, bad[:_MANY])) if len(bad) > 1 else f" of {bad[0]!r}" if bad[0] else ""
        more = f", and of {len(bad) - _MANY} more," if len(bad) > _MANY else ""
        what += f", and the gradient{leaves}{more} {'are' if len(bad) > 1 else 'is'} not finite"
    return f"step {position(state)} was skipped{row}: {what}. {_where_from(state, batch)} {kept}"


def _where_from(state: Any, batch: Tree) -> str:
    for name, value in (("batch", batch), ("params", state.params), ("buffers", state.buffers)):
        for path, leaf in items(value):
            numbers = (
                leaf.to_dense() if isinstance(leaf, Tensor) else torch.tensor(leaf if type(leaf) is float else 0.0)
            )
            bad = int((~torch.isfinite(numbers)).sum())
            if bad:
                where = "/".join(part for part in (name, path) if part)
                return f"{where!r} holds {bad} of {numbers.numel()} numbers that are not finite."
    return (
        "The numbers of the batch, the parameters and the buffers are finite, so they became infinite or nan on the "
        "way: look for a log, a root, a norm or a quotient at 0, or for what overflows."
    )
