"""Dynamic loss scaling: a step whose gradients do not underflow, and which steps over those that overflow."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.gradients.reverse import grad_and_value
from functional_train.steps._checked import checked
from functional_train.steps.skipping import chosen
from functional_train.steps.state import TrainState, init_state
from functional_train.steps.step import checked_gradients, measure
from functional_train.updates.apply import make_update
from functional_train.updates.checks import check_interior, check_positive
from functional_train.updates.transformation import GradientTransformation, check_transformation
from functional_train.values import tree
from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.types import Aux, GradFn, LossFn, StepFn, Tree

_TRUE_LOSS = "loss before scaling"


class ScaledState(NamedTuple):
    """An optimizer's state beside the scale of the loss.

    Attributes:
        scale: () float32, what the loss is multiplied with.
        growth_tracker: () int64, steps in a row whose gradients were finite, since the scale last changed.
        inner: The optimizer's own state.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.init_scaled_state({"w": torch.ones(1)}, ft.sgd()).opt_state.scale
        tensor(65536.)
    """

    scale: Tensor
    growth_tracker: Tensor
    inner: Tree


def init_scaled_state(
    params: Tree,
    optimizer: GradientTransformation,
    *,
    init_scale: float | Tensor = 65536.0,
    buffers: Tree | None = None,
    key: Tensor | None = None,
) -> TrainState:
    """Make the state that training with dynamic loss scaling starts from.

    Args:
        params: As `init_state`.
        optimizer: As `init_state`.
        init_scale: First scale of the loss, above 0; a power of 2 costs no digits. Dimensionless.
        buffers: As `init_state`.
        key: As `init_state`.

    Returns:
        The state at step 0, with a `ScaledState` as `opt_state`.

    Raises:
        StructureError: as `init_state`.
        HyperparameterError: init_scale is not above 0.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.paths(ft.init_scaled_state({"w": torch.ones(1)}, ft.sgd()))
        ['step', 'params/w', 'opt_state/scale', 'opt_state/growth_tracker']
    """
    scale = check_positive("init_scale", init_scale, "65536.0 is usual.")
    state = init_state(params, optimizer, buffers=buffers, key=key)
    zero = torch.zeros_like(state.step)
    return state.replace(opt_state=ScaledState(zero.float() + scale, zero, state.opt_state))


def make_scaled_step(
    loss_fn: LossFn,
    optimizer: GradientTransformation,
    *,
    has_aux: bool = False,
    make_grad_fn: Callable[..., GradFn] = grad_and_value,
    growth_factor: float = 2.0,
    backoff_factor: float = 0.5,
    growth_interval: int = 2000,
) -> StepFn:
    r"""Make a pure step that multiplies the loss by a scale, and divides its gradients by it.

    Gradients in float16 that would be too small to hold then are not. Where one is infinite or nan, the scale was too
    large: parameters, optimizer state and buffers stay as they are, bit for bit, and the scale backs off. After enough
    finite steps in a row it grows. The host is not waited for. Batches are counted and keys are used up as by any step.

    Args:
        loss_fn: `(params, batch, **owned) -> loss`, or `-> (loss, aux)` with `has_aux`; usually of `mixed_precision`
            with torch.float16.
        optimizer: Any transformation; it is given what `make_step` gives, gradients, loss and `grad_and_value_fn` all
            without the scale.
        has_aux: Whether the loss function returns a pair.
        make_grad_fn: Makes the gradient function of the scaled loss, called as `grad_and_value(loss_fn,
            has_aux=True)`; `lambda *a, **k: ft.sam(ft.grad_and_value(*a, **k))` for another.
        growth_factor: The scale grows by it, above 1. Dimensionless.
        backoff_factor: The scale backs off by it, in (0, 1). Dimensionless.
        growth_interval: Finite steps in a row before the scale grows, at least 1.

    Returns:
        `(state, batch) -> (state, metrics)` for states of `init_scaled_state`. Metrics are those of `make_step`, the
        loss without the scale among them, and `"loss_scale"` (the scale of this step) and `"skipped"` (1.0 or 0.0).

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: an argument is no loss function or no transformation; when called: the state was not made by
            `init_scaled_state`, or as `make_step`.
        OwnershipError: as `make_step`.
        PurityError: as `make_step`.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2; the rule is that of torch.amp.GradScaler.

    Differs: from the usual loop with a GradScaler, buffers stay where they were when a step is skipped: statistics of
        an overflow would stay in them.

    Example:
        >>> import functional_train as ft, torch
        >>> loss_fn = ft.mixed_precision(lambda params, batch: (batch @ params["w"]).float().mean(), torch.float16)
        >>> step = ft.make_scaled_step(loss_fn, optimizer := ft.sgd(0.5))
        >>> state, metrics = step(ft.init_scaled_state({"w": torch.ones(2, 1)}, optimizer), torch.full((3, 2), 0.5))
        >>> state.params["w"].flatten(), metrics
        (tensor([0.7500, 0.7500]), {'loss': tensor(1.), 'loss_scale': tensor(65536.), 'skipped': tensor(0.)})
    """
    check_transformation(optimizer, "make_scaled_step, as its second argument,")
    if not callable(loss_fn):
        raise StructureError(
            f"make_scaled_step takes a loss function first, got a {type(loss_fn).__name__}. Write "
            "make_scaled_step(loss_fn, optimizer); the gradient is taken inside, of the scaled loss."
        )
    if not isinstance(growth_factor, Tensor) and not 1.0 < growth_factor < float("inf"):
        raise HyperparameterError(f"growth_factor must be a finite number > 1, got {growth_factor!r}. 2.0 is usual.")
    check_interior("backoff_factor", backoff_factor, "0.5 is usual.")
    if not isinstance(growth_interval, int) or isinstance(growth_interval, bool) or growth_interval < 1:
        raise HyperparameterError(f"growth_interval must be an int >= 1, got {growth_interval!r}. 2000 is usual.")
    update_fn = make_update(optimizer)

    def moved_on(opt_state: ScaledState, finite: Tensor) -> tuple[Tensor, Tensor]:
        scale, count = opt_state.scale, opt_state.growth_tracker + 1
        due = count == growth_interval
        grown = scale * growth_factor
        grown = torch.where(due & torch.isfinite(grown), grown, scale)
        new_count = torch.where(finite & ~due, count, 0)
        return torch.where(finite, grown, scale * backoff_factor), new_count

    def step(state: TrainState, batch: Tree) -> tuple[TrainState, dict[str, Any]]:
        opt_state = _checked_state(state.opt_state)
        scale = opt_state.scale
        inverse = scale.double().reciprocal().float()
        scaled_grad_fn = make_grad_fn(_scaled(loss_fn, scale, has_aux), has_aux=True)

        def unscaled(params: Tree, batch: Tree, /, **owned: Any) -> tuple[Tree, tuple[Tensor, Aux]]:
            grads, (_, aux) = checked_gradients(scaled_grad_fn(params, batch, **owned))
            metrics = dict(aux.metrics)
            loss = metrics.pop(_TRUE_LOSS)
            return tree.scale(inverse, grads), (loss, Aux(metrics, aux.buffers))

        grads, metrics, buffers, next_key, extra = measure(unscaled, state, batch)
        finite = tree.all_finite(grads).to(scale.device)
        before = (state.params, opt_state.inner, state.buffers)
        params, inner, buffers = chosen(
            finite, lambda: (*update_fn(grads, opt_state.inner, state.params, **extra), buffers), before
        )
        metrics = {**metrics, "loss_scale": scale, "skipped": (~finite).float()}
        new_state = ScaledState(*moved_on(opt_state, finite), inner)
        return TrainState(state.step + 1, params, new_state, buffers, next_key), metrics

    return checked(step)


def _scaled(loss_fn: LossFn, scale: Tensor, has_aux: bool) -> Callable[..., tuple[Tensor, Aux]]:
    """The loss times the scale, and the loss itself among the metrics, where nothing loses it."""

    def scaled_loss_fn(params: Tree, batch: Tree, /, *args: Any, **owned: Any) -> tuple[Any, Any]:
        returned = loss_fn(params, batch, *args, **owned)
        if has_aux != (isinstance(returned, tuple) and len(returned) == 2):
            raise StructureError(
                f"the loss function returned a {type(returned).__name__}, but has_aux is {has_aux}. Return (loss, aux) "
                "exactly when make_scaled_step is passed has_aux=True."
            )
        loss, aux = returned if has_aux else (returned, None)
        if not isinstance(loss, Tensor):
            raise StructureError(f"the loss is a {type(loss).__name__}, not a tensor. Return the 0-d tensor itself.")
        aux = aux if isinstance(aux, Aux) else Aux(_metrics(aux))
        taken = sorted({"loss_scale", "skipped"} & aux.metrics.keys())
        if taken:
            raise StructureError(f"aux has a metric called {taken[0]!r}, which is this step's own. Call it otherwise.")
        return loss * scale, Aux({**aux.metrics, _TRUE_LOSS: loss}, aux.buffers)

    return scaled_loss_fn


def _metrics(aux: Any) -> Mapping[str, Any]:
    if aux is not None and not isinstance(aux, Mapping):
        raise StructureError(
            f"the loss returned a {type(aux).__name__} as aux; it must be a mapping of metrics, or ft.Aux(metrics, "
            "buffers)."
        )
    return aux or {}


def _checked_state(opt_state: Any) -> ScaledState:
    if not isinstance(opt_state, ScaledState):
        raise StructureError(
            f"a step with loss scaling was given a state without a scale: its opt_state is a "
            f"{type(opt_state).__name__}. Make the state with ft.init_scaled_state(params, optimizer)."
        )
    return opt_state
