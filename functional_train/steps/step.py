"""`make_step`: a gradient and an optimizer as one pure step of training."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from functional_train.steps._checked import checked
from functional_train.steps.state import TrainState
from functional_train.updates.apply import make_update
from functional_train.updates.transformation import GradientTransformation, check_transformation
from functional_train.values import random
from functional_train.values.errors import StructureError
from functional_train.values.tree._structure import check_same_structure, map
from functional_train.values.types import Aux, GradFn, StepFn, Tree


def make_step(grad_fn: GradFn, optimizer: GradientTransformation) -> StepFn:
    """Make the pure function that trains on one batch.

    The gradient function is passed `key=` exactly when the state owns a key, and `buffers=` exactly when it owns
    buffers. A loss that is handed buffers returns `(loss, Aux(metrics, buffers))`; an aux that is a plain mapping is
    metrics.

    Args:
        grad_fn: `(params, batch, **owned) -> (grads, loss)` or `-> (grads, (loss, aux))`; from `grad_and_value`.
        optimizer: Any transformation. Its update is passed `value=` (the loss), `grad_and_value_fn=` (params -> (grads,
            value), on this batch) and `key=` when the state owns one.

    Returns:
        `(state, batch) -> (state, metrics)`. Metrics are a dict of detached tensors, `"loss"` among them; to
        differentiate through training, differentiate a loss of the last state's params.

    Raises:
        StructureError: an argument is no gradient function or no transformation; when called: what the gradient
            function returns does not fit the state.
        OwnershipError: when called: a leaf of the state was written to since the state was made.
        PurityError: when called: the batch was written to, or torch's global generator drawn from (looked for at the
            first 8 calls and each 13th).

    Example:
        >>> import functional_train as ft, torch
        >>> loss_fn = lambda params, batch: (params["w"] - batch).square().sum()
        >>> step = ft.make_step(ft.grad_and_value(loss_fn), optimizer := ft.sgd(0.25))
        >>> state, metrics = step(ft.init_state({"w": torch.zeros(1)}, optimizer), torch.ones(1))
        >>> state.params, metrics
        ({'w': tensor([0.5000])}, {'loss': tensor(1.)})
    """
    check_transformation(optimizer, "make_step, as its second argument,")
    check_grad_fn(grad_fn, "make_step")
    update_fn = make_update(optimizer)

    def step(state: TrainState, batch: Tree) -> tuple[TrainState, dict[str, Any]]:
        grads, metrics, buffers, next_key, extra = measure(grad_fn, state, batch)
        params, opt_state = update_fn(grads, state.opt_state, state.params, **extra)
        return TrainState(state.step + 1, params, opt_state, buffers, next_key), metrics

    return checked(step)


def check_grad_fn(grad_fn: Any, taker: str) -> None:
    """Refuse what cannot be called where a step is made of a gradient function."""
    if not callable(grad_fn):
        raise StructureError(
            f"{taker} takes a gradient function first, got a {type(grad_fn).__name__}. Write "
            f"{taker}(ft.grad_and_value(loss_fn), optimizer)."
        )


def measure(
    grad_fn: GradFn, state: TrainState, batch: Tree
) -> tuple[Tree, dict[str, Any], Tree | None, Tensor | None, dict[str, Any]]:
    """Call a gradient function with what a state owns: gradients, metrics, buffers, next key, extras of the update."""
    owned: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    next_key = state.key
    if state.key is not None:
        next_key, owned["key"], extra["key"] = random.split(state.key, 3)
    if state.buffers is not None:
        owned["buffers"] = state.buffers

    try:
        returned = grad_fn(state.params, batch, **owned)
    except TypeError as error:
        _explain_owned(error, owned)
        raise
    grads, value = checked_gradients(returned)
    loss, metrics, buffers = parts_of_value(value, state.buffers)

    def grad_and_value_fn(params: Tree) -> tuple[Tree, Tensor]:
        again, value = grad_fn(params, batch, **owned)
        return again, parts_of_value(value, state.buffers)[0]

    return grads, metrics, buffers, next_key, {"value": loss, "grad_and_value_fn": grad_and_value_fn, **extra}


def checked_gradients(returned: Any) -> tuple[Tree, Any]:
    """What a gradient function returned, if it is a pair."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise StructureError(
            f"make_step needs a grad_fn that returns (grads, loss), this one returned a {type(returned).__name__}. "
            "Pass ft.grad_and_value(loss_fn): neither the loss function itself nor ft.grad."
        )
    return returned


def _explain_owned(error: TypeError, owned: Mapping[str, Any]) -> None:
    """Say why a loss was called with `key=` or `buffers=`, or without."""
    for name in ("key", "buffers"):
        if "argument" in str(error) and f"'{name}'" in str(error):
            owns = "owns" if name in owned else "does not own"
            error.add_note(
                f"A loss is passed {name}= exactly when the state owns it, and this state {owns} it. See {name}= of "
                "ft.init_state."
            )


def parts_of_value(value: Any, buffers: Tree | None) -> tuple[Tensor, dict[str, Any], Tree | None]:
    """The loss, all metrics, and the buffers that the next state owns."""
    loss, aux = value if isinstance(value, tuple) else (value, None)
    if not isinstance(loss, Tensor):
        raise StructureError(
            f"grad_fn returned a {type(loss).__name__} where the loss belongs; it must return (grads, loss) or "
            "(grads, (loss, aux)), as ft.grad_and_value does."
        )
    if loss.ndim != 0:
        raise StructureError(
            f"grad_fn returned a tensor of shape {tuple(loss.shape)} where the loss belongs, which is 0-d. It must "
            "return (grads, loss) or (grads, (loss, aux)): pass ft.grad_and_value(loss_fn), not ft.grad."
        )
    if isinstance(aux, Aux):
        metrics, new_buffers = aux.metrics, aux.buffers
    elif aux is None or isinstance(aux, Mapping):
        metrics, new_buffers = aux or {}, None
    else:
        raise StructureError(
            f"the loss returned a {type(aux).__name__} as aux; it must be a mapping of metrics, or ft.Aux(metrics, "
            "buffers)."
        )
    if "loss" in metrics:
        raise StructureError(
            "aux has a metric called 'loss', which is the name of the loss itself. Call it something else."
        )
    if buffers is not None and new_buffers is None:
        raise StructureError(
            "the state owns buffers, but the loss returned none. Return (loss, ft.Aux(metrics, buffers=new_buffers)) "
            "and pass has_aux=True to ft.grad_and_value; an aux that is a mapping is metrics, even if it is Params."
        )
    if buffers is None and new_buffers is not None:
        raise StructureError(
            "the loss returned buffers, but the state owns none, so they would be lost. Pass buffers= to ft.init_state."
        )
    if new_buffers is not None:
        check_same_structure(new_buffers, buffers, ("the new buffers", "the state's buffers"))
    measured = map(_detached, dict(metrics)) if metrics else {}
    loss = loss.detach()
    return loss, {"loss": loss, **measured}, new_buffers


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
