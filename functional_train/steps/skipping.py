"""A step that steps over batches on which it would come to harm: what is not finite, and losses that jump."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from functional_train.steps._checked import checked
from functional_train.steps.state import TrainState, init_state
from functional_train.steps.step import check_grad_fn, measure
from functional_train.updates.apply import make_update
from functional_train.updates.checks import Number, check_interior, check_positive, check_whole
from functional_train.updates.transformation import GradientTransformation, check_transformation
from functional_train.values import tree
from functional_train.values._watching import known
from functional_train.values.errors import StructureError
from functional_train.values.tree._reductions import finite_leaves
from functional_train.values.tree._structure import check_same_structure, flatten
from functional_train.values.types import GradFn, StepFn, Tree

T = TypeVar("T")
_LARGEST = 1e150


class SkippingState(NamedTuple):
    """An optimizer's state beside what was skipped, and what losses are usual.

    Attributes:
        num_consecutive: () int64, steps in a row that were skipped, up to the last one.
        num_skipped: () int64, steps that were skipped in all.
        num_spikes: () int64, those of them whose loss was a spike.
        num_consecutive_spikes: () int64, of these since the last step that was taken.
        nonfinite: (number of parameters,) bool, in the order of `ft.tree.paths(params)`: whose gradients were not
            finite in the step that was skipped last.
        loss_mean: () float64, mean of the losses that were not skipped, the later ones weighing more.
        loss_var: () float64, their variance.
        num_measured: () int64, losses in the two.
        inner: The optimizer's own state.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.init_skipping_state({"w": torch.ones(1)}, ft.sgd()).opt_state.nonfinite
        tensor([False])
    """

    num_consecutive: Tensor
    num_skipped: Tensor
    num_spikes: Tensor
    num_consecutive_spikes: Tensor
    nonfinite: Tensor
    loss_mean: Tensor
    loss_var: Tensor
    num_measured: Tensor
    inner: Tree


def init_skipping_state(
    params: Tree, optimizer: GradientTransformation, *, buffers: Tree | None = None, key: Tensor | None = None
) -> TrainState:
    """Make the state that a step of `make_skipping_step` starts from.

    Args:
        params: As `init_state`.
        optimizer: As `init_state`.
        buffers: As `init_state`.
        key: As `init_state`.

    Returns:
        The state at step 0, with a `SkippingState` as `opt_state`.

    Raises:
        StructureError: as `init_state`.

    Example:
        >>> import functional_train as ft, torch
        >>> state = ft.init_skipping_state({"w": torch.ones(1)}, ft.sgd())
        >>> int(state.opt_state.num_skipped)
        0
    """
    state = init_state(params, optimizer, buffers=buffers, key=key)
    none = torch.zeros_like(state.step)
    skipped = SkippingState(
        num_consecutive=none,
        num_skipped=none.clone(),
        num_spikes=none.clone(),
        num_consecutive_spikes=none.clone(),
        nonfinite=torch.zeros(len(tree.leaves(params)), dtype=torch.bool, device=none.device),
        loss_mean=none.double(),
        loss_var=none.double(),
        num_measured=none.clone(),
        inner=state.opt_state,
    )
    return state.replace(opt_state=skipped)


def make_skipping_step(
    grad_fn: GradFn,
    optimizer: GradientTransformation,
    *,
    max_zscore: Number | None = None,
    decay: Number = 0.97,
    warmup_steps: int = 25,
    max_consecutive_spikes: int = 10,
) -> StepFn:
    r"""Make a pure step that skips a batch whose loss or gradients are not finite, or whose loss is a spike.

    Parameters, optimizer state and buffers then stay as they are, bit for bit; the batch is counted, the key used up,
    and the state counts what was skipped. The host waits for no device. A loss $l$ is a spike where, of those before
    that were not skipped,

    $$l > \mu + z \sigma$$

    Losses that stay high are no spike but a change: after `max_consecutive_spikes` in a row the step is taken, and what
    is usual is measured anew. Losses that never varied say nothing about what is usual. What is not finite is skipped
    always. So a run whose parameters are lost stands still; `fit` ends it, `raise_if_skipped` around the step raises,
    and `roll_back` goes back to an earlier state.

    Looked at are the loss and the gradients, and not what an update makes of them: finite gradients may still be too
    large for a parameter or a moment. For float16, `make_scaled_step` skips by a rule of its own.

    Args:
        grad_fn: As `make_step`.
        optimizer: As `make_step`.
        max_zscore: How many standard deviations above its mean a loss is a spike, above 0; None skips no spike.
            Were losses normal, 6.0 would skip one good batch in 10^9. Dimensionless.
        decay: Of the mean and the variance of losses, in (0, 1). The first 1 / (1 - decay) losses weigh the same; then
            each weighs `decay` of the next, so that high losses of the beginning are forgotten. Dimensionless.
        warmup_steps: Losses that are measured before one can be a spike, at least 2.
        max_consecutive_spikes: Spikes in a row that are skipped, at least 1.

    Returns:
        `(state, batch) -> (state, metrics)` for states of `init_skipping_state`. Metrics are those of `make_step`, and
        `"skipped"` (1.0 or 0.0).

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: as `make_step`, or when called: the state was not made by `init_skipping_state`.
        OwnershipError: as `make_step`.
        PurityError: as `make_step`.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, section 5.1, skip batches around a spike; the score is that of
        Kumar et al. 2025, arXiv:2504.02507, section 3, there of the gradient's norm; the variance is that of West 1979.

    Differs: from the first, which starts again before the spike, batches are skipped as they come; from the second,
        which clips. From `apply_if_finite`, which is a part of an optimizer, the loss is looked at too, buffers stay as
        they were, and what is not finite is never applied.

    Example:
        >>> import functional_train as ft, torch
        >>> grad_fn = ft.grad_and_value(lambda params, batch: (params["w"] * batch).sum())
        >>> step = ft.make_skipping_step(grad_fn, optimizer := ft.sgd(0.5))
        >>> state = ft.init_skipping_state({"w": torch.ones(1)}, optimizer)
        >>> state, metrics = ft.scan(step, state, [torch.ones(1), torch.tensor([torch.nan])])
        >>> state.params, metrics
        ({'w': tensor([0.5000])}, {'loss': tensor([1., nan]), 'skipped': tensor([0., 1.])})
    """
    check_transformation(optimizer, "make_skipping_step, as its second argument,")
    check_grad_fn(grad_fn, "make_skipping_step")
    if max_zscore is not None:
        check_positive("max_zscore", max_zscore, "6.0 is usual.")
    check_interior("decay", decay, "0.97 is usual.")
    check_whole("warmup_steps", warmup_steps, 2, "25 is usual.")
    check_whole("max_consecutive_spikes", max_consecutive_spikes, 1, "10 is usual.")
    update_fn = make_update(optimizer)

    def judged(loss: Tensor, finite: Tensor, faults: SkippingState) -> tuple[Tensor, SkippingState]:
        """Whether a step is taken, and everything but the optimizer's state after it."""
        mean, var, measured = faults.loss_mean, faults.loss_var, faults.num_measured
        if max_zscore is None:
            return finite, faults
        # The square of what is kept must be finite, or one loss would be remembered for good.
        value = loss.to(mean.dtype).clamp(-_LARGEST, _LARGEST)
        # A loss that never varied says nothing about what is usual.
        is_high = (measured >= warmup_steps) & (var > 0) & (value > mean + max_zscore * var.sqrt())
        spike = finite & is_high & (faults.num_consecutive_spikes < max_consecutive_spikes)
        anew = finite & is_high & ~spike
        share = (1.0 / (measured + 1)).to(mean.dtype).clamp(min=1 - decay)
        apart = value - mean
        moved = torch.where(anew, value, mean + share * apart)
        spread = torch.where(anew, 0.0, (1 - share) * (var + share * apart * apart))
        taken = finite & ~spike
        return taken, faults._replace(
            num_spikes=faults.num_spikes + spike,
            num_consecutive_spikes=torch.where(taken, 0, faults.num_consecutive_spikes + spike),
            loss_mean=torch.where(taken, moved, mean),
            loss_var=torch.where(taken, spread, var),
            num_measured=torch.where(taken, torch.where(anew, 1, measured + 1), measured),
        )

    def step(state: TrainState, batch: Tree) -> tuple[TrainState, dict[str, Any]]:
        faults = counters(state, "a step that skips")
        grads, metrics, buffers, next_key, extra = measure(grad_fn, state, batch)
        if "skipped" in metrics:
            raise StructureError("aux has a metric called 'skipped', which is this step's own. Call it otherwise.")
        are_finite = _finite_grads(grads, state.params).to(faults.nonfinite.device)
        if len(are_finite) != len(faults.nonfinite):
            raise StructureError(
                f"the state has counters for {len(faults.nonfinite)} parameters and holds {len(are_finite)}. After a "
                "change of the parameters make it anew with ft.init_skipping_state."
            )
        loss = metrics["loss"].to(are_finite.device)
        taken, judgement = judged(loss, are_finite.all() & torch.isfinite(loss), faults)
        before = (state.params, faults.inner, state.buffers)
        params, inner, buffers = chosen(
            taken, lambda: (*update_fn(grads, faults.inner, state.params, **extra), buffers), before
        )
        opt_state = judgement._replace(
            num_consecutive=torch.where(taken, 0, faults.num_consecutive + 1),
            num_skipped=faults.num_skipped + ~taken,
            nonfinite=torch.where(taken, faults.nonfinite, ~are_finite),
            inner=inner,
        )
        return TrainState(state.step + 1, params, opt_state, buffers, next_key), {
            **metrics,
            "skipped": (~taken).to(torch.float32),
        }

    return checked(step)


def chosen(condition: Tensor, make: Callable[[], T], otherwise: T) -> T:
    """What is made where the 0-d condition is true, and otherwise the other tree, with the same bits."""
    apply = known(condition)
    if apply is None:
        return tree.where(condition, make(), otherwise)
    return make() if apply else otherwise


def _finite_grads(grads: Tree, params: Tree) -> Tensor:
    """Whose gradients are finite, with one entry for each parameter; one without a gradient has finite ones."""
    asked, found = (flatten(each, none_is_leaf=True)[0] for each in (params, grads))
    if len(asked) != len(found):
        check_same_structure(
            grads, params, ("grads", "params"), "Take gradients with respect to the tree that is updated, whole."
        )
    return finite_leaves([grad for grad, param in zip(found, asked, strict=True) if param is not None])


def counters(state: Any, taker: str) -> SkippingState:
    """The counters in a state, if it has them."""
    opt_state = getattr(state, "opt_state", None)
    if not isinstance(opt_state, SkippingState):
        raise StructureError(
            f"{taker} was given a state without counters: its opt_state is a {type(opt_state).__name__}. Make the step "
            "with ft.make_skipping_step(grad_fn, optimizer), and the state with ft.init_skipping_state(params, "
            "optimizer)."
        )
    return opt_state
