"""StepFn -> StepFn on the host: what to do when steps are skipped, one after another."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functional_train.steps.skipping import SkippingState
from functional_train.steps.state import TrainState, position
from functional_train.updates.checks import check_whole
from functional_train.values._watching import is_readable
from functional_train.values.errors import NonFiniteError, StructureError
from functional_train.values.struct import struct
from functional_train.values.tree._reductions import finite_leaves
from functional_train.values.tree._structure import items
from functional_train.values.types import StepFn, Tree

_MANY = 5


def raise_if_skipped(step: StepFn, after: int = 1) -> StepFn:
    """Raise when so many steps in a row were skipped, and name the leaves whose gradients were not finite.

    Around a compiled step, not inside it: the host reads after each step whether it was skipped, and waits for that.

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
            faults = _faults(new, "raise_if_skipped")
            count = int(faults.num_consecutive)
            if count >= after:
                raise NonFiniteError(_described(new, faults, metrics["loss"], batch, count), state=new)
        return new, metrics

    return _named(raising_step, step)


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
    _faults(state, "init_rollback_state")
    return RollbackState(state, state.replace(), torch.tensor(0), torch.tensor(0))


def roll_back(step: StepFn, every: int = 100, after: int = 10, max_in_a_row: int = 3) -> StepFn:
    """Go back to an earlier state when so many steps in a row were skipped, and on with the batches that come next.

    Every so many steps, after one that was not skipped, the state is kept beside the one that goes on. Going back
    takes parameters, buffers and the optimizer's state from it, its schedules among it; batches stay consumed, keys
    used up and what was skipped counted, so other batches and other random numbers follow.

    Around a compiled step, not inside it: the host reads after each step whether it was skipped, and waits for that.
    States are values, so keeping one copies nothing; of a step that moves its state the leaves that are kept are
    copied once for each state that is kept, and take memory.

    Args:
        step: From `make_skipping_step`, perhaps compiled.
        every: Steps between states that are kept, at least 1.
        after: How many steps in a row are skipped before the run goes back, at least 1.
        max_in_a_row: How often the run goes back to one state before it is given up, at least 1.

    Returns:
        `(state, batch) -> (state, metrics)` for states of `init_rollback_state`, with `"rolled_back"` (1.0 or 0.0) in
        the metrics. It raises NonFiniteError when it would go back once too often; the error's `.state` is the good
        one.

    Raises:
        HyperparameterError: a number is no int of at least 1.
        StructureError: step is no function; when called: the state was not made by `init_rollback_state`, or the step
            reports no `"skipped"`, or is mapped or traced.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, section 5.1: training went on from about 100 steps before a spike,
        with other batches.

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
        current, metrics = step(state.current, batch)
        skipped = _is_skipped(metrics, "roll_back")
        faults = _faults(current, "roll_back")
        back = skipped and int(faults.num_consecutive) >= after
        if back and int(in_a_row) >= max_in_a_row:
            raise NonFiniteError(
                f"step {position(current)} was skipped as the last of {int(faults.num_consecutive)} in a row, and the "
                f"run has gone back to one state {max_in_a_row} times already: other batches do not help. Lower lr, or "
                "look at the data from there on. The state that it went back to is error.state.",
                state=good,
            )
        if back:
            counts = {"num_skipped": faults.num_skipped, "num_spikes": faults.num_spikes}
            current = good.replace(step=current.step, key=current.key, opt_state=good.opt_state._replace(**counts))
            good, rollbacks, in_a_row = current.replace(), rollbacks + 1, in_a_row + 1
        elif not skipped and position(current) - position(good) >= every:
            # Another value of the same leaves: a step that moves its state takes the one away, not the other.
            good, in_a_row = current.replace(), torch.zeros_like(in_a_row)
        new = RollbackState(current, good, rollbacks, in_a_row)
        return new, {**metrics, "rolled_back": torch.tensor(float(back))}

    return _named(returning_step, step)


def _check_step(step: Any, taker: str) -> None:
    if not callable(step):
        raise StructureError(
            f"{taker} takes a step, got a {type(step).__name__}. Write ft.{taker}(ft.make_skipping_step(grad_fn, "
            "optimizer))."
        )


def _faults(state: Any, taker: str) -> SkippingState:
    """The counters in a state."""
    faults = getattr(state, "opt_state", None)
    if not isinstance(faults, SkippingState):
        raise StructureError(
            f"{taker} was given a {type(state).__name__} without counters of what is skipped. Make the step with "
            "ft.make_skipping_step(grad_fn, optimizer), and the state with ft.init_skipping_state(params, optimizer)."
        )
    return faults


def _named(around: Callable[..., Any], step: StepFn) -> StepFn:
    """A step around another, which moves its state exactly when that does."""
    if getattr(step, "donates", False):
        around.donates = True  # pyright: ignore[reportFunctionMemberAccess]
    return around


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


def _described(state: TrainState, faults: SkippingState, loss: Tensor, batch: Tree, count: int) -> str:
    """What happened in the step that was skipped last, and what to do."""
    value = float(loss)
    bad = [path for (path, _), flag in zip(items(state.params), faults.nonfinite.tolist(), strict=True) if flag]
    what = [f"its loss is {value:g}"]
    if bad:
        more = f", and of {len(bad) - _MANY} more," if len(bad) > _MANY else ""
        named = ", ".join(map(repr, bad[:_MANY]))
        what.append(
            f"the gradient{'s' if len(bad) > 1 else ''} of {named}{more} {'are' if len(bad) > 1 else 'is'} not finite"
        )
    elif math.isfinite(value):
        what[0] += f", where {float(faults.loss_mean):g} +- {float(faults.loss_var.sqrt()):g} is usual"
    row = f", the last of {count} in a row" if count > 1 else ""
    return (
        f"step {position(state)} was skipped{row}: {', and '.join(what)}. {_where_from(state, batch)} Parameters, "
        "optimizer state and buffers are those from before it, in error.state."
    )


def _where_from(state: TrainState, batch: Tree) -> str:
    for name, value in (("batch", batch), ("params", state.params), ("buffers", state.buffers)):
        pairs = [(path, leaf) for path, leaf in items(value) if isinstance(leaf, Tensor)]
        for (path, leaf), finite in zip(pairs, finite_leaves([leaf for _, leaf in pairs]).tolist(), strict=True):
            if not finite:
                bad = int((~torch.isfinite(leaf.to_dense())).sum())
                where = "/".join(part for part in (name, path) if part)
                return f"{where!r} holds {bad} of {leaf.numel()} numbers that are not finite."
    return "Batch and parameters are finite: lower lr, or clip with ft.clip_by_global_norm."
