"""Reverse-mode gradients of losses over any tree."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd.graph import _engine_run_backward

from functional_train.values.errors import LossError, StructureError
from functional_train.values.tree._structure import as_known_mappings, flatten, is_floating, map, paths, unflatten

ArgNums = int | tuple[int, ...]

_INDEPENDENT = (
    "the loss does not depend on the parameters: no path leads from it to any of them. Was it computed under "
    "torch.no_grad(), after .detach() or .item(), or from a module's own weights instead of the params passed in?"
)


def grad(loss_fn: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Make the function that computes the gradient of a loss.

    Args:
        loss_fn: `(params, batch, **owned) -> loss`, or `-> (loss, aux)` with `has_aux`. The loss is a real 0-d tensor.
        argnums: Which positional arguments to differentiate: one position, or a tuple of them.
        has_aux: Whether the loss function returns a pair whose second part is not differentiated.

    Returns:
        `(*args, **kwargs) -> grads`, or `-> (grads, aux)`. Gradients have the structure of the argument (a tuple of
        them for a tuple of positions), its shapes and dtypes; leaves that are not floating have `None`.

    Raises:
        LossError: when called: the loss is not a real scalar, or no leaf influences it, or `has_aux` does not say what
            the loss returns.

    Source: torch.func.grad, whose signature and results these are. At top level reverse-mode autograd runs directly on
        detached leaves, which also allows activation checkpointing and any `autograd.Function`.

    Example:
        >>> import functional_train as ft, torch
        >>> grad_fn = ft.grad(lambda params, batch: (params["w"] * batch).sum())
        >>> grad_fn({"w": torch.ones(2)}, torch.tensor([3.0, 4.0]))
        {'w': tensor([3., 4.])}
    """
    compute = grad_and_value(loss_fn, argnums, has_aux)

    def grad_fn(*args: Any, **kwargs: Any) -> Any:
        grads, value = compute(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return grad_fn


def grad_and_value(loss_fn: Callable[..., Any], argnums: ArgNums = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Make the function that computes the gradient of a loss and the loss itself.

    Args:
        loss_fn: `(params, batch, **owned) -> loss`, or `-> (loss, aux)` with `has_aux`. The loss is a real 0-d tensor.
        argnums: Which positional arguments to differentiate: one position, or a tuple of them.
        has_aux: Whether the loss function returns a pair whose second part is not differentiated.

    Returns:
        `(*args, **kwargs) -> (grads, loss)`, or `-> (grads, (loss, aux))`; the order is torch.func's. Gradients are as
        in `grad`; loss and aux are detached from the leaves.

    Raises:
        LossError: when called: the loss is not a real scalar, or no leaf influences it, or `has_aux` does not say what
            the loss returns.

    Source: torch.func.grad_and_value.

    Example:
        >>> import functional_train as ft, torch
        >>> grads, loss = ft.grad_and_value(lambda params, batch: (params * batch).sum())(torch.ones(2), torch.ones(2))
        >>> grads, loss
        (tensor([1., 1.]), tensor(2.))
    """
    is_single = isinstance(argnums, int)
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def grad_and_value_fn(*args: Any, **kwargs: Any) -> Any:
        for position in positions:
            if not -len(args) <= position < len(args):
                raise StructureError(
                    f"argnums={argnums} asks for positional argument {position}, but only {len(args)} were passed. "
                    "Pass what is differentiated by position."
                )
        targets = args[positions[0]] if is_single else [args[position] for position in positions]
        leaves, structure = flatten(targets)
        chosen = [position for position, leaf in enumerate(leaves) if is_floating(leaf)]
        if not chosen:
            raise LossError(
                "there is nothing to differentiate: no leaf of the argument is a floating tensor "
                f"(leaves: {_describe(targets)})."
            )

        def loss_of(floating: Sequence[Tensor]) -> tuple[Tensor, Any]:
            filled = list(leaves)
            for position, leaf in zip(chosen, floating, strict=True):
                filled[position] = leaf
            called, moved = list(args), unflatten(structure, filled)
            for position, target in zip(positions, [moved] if is_single else moved, strict=True):
                called[position] = target
            return _checked(loss_fn(*called, **kwargs), has_aux)

        floating = [leaves[position] for position in chosen]
        others = [arg for position, arg in enumerate(args) if position not in positions]
        direct = (
            _is_top_level()
            and not _is_watched(floating)
            and not _any_requires_grad((others, kwargs) if kwargs else others)
        )
        slopes, loss, aux = (_direct if direct else _transformed)(loss_of, floating)
        filled: list[Tensor | None] = [None] * len(leaves)
        for position, slope in zip(chosen, slopes, strict=True):
            filled[position] = slope
        grads = unflatten(structure, filled)
        return (grads if is_single else tuple(grads)), ((loss, aux) if has_aux else loss)

    return grad_and_value_fn


def _is_top_level() -> bool:
    """Whether nothing is active that a direct autograd call would escape.

    That is so for transforms, for tracers of Python, and for export, which records what comes before autograd. Dispatch
    modes, and the traces made with them, come after autograd and see what it does.
    """
    return (
        not torch.compiler.is_dynamo_compiling()
        and peek_interpreter_stack() is None
        and not torch.compiler.is_exporting()
        and not torch.is_inference_mode_enabled()
        and torch.autograd.forward_ad._current_level < 0
    )


def _is_watched(leaves: list[Tensor]) -> bool:
    """Whether a leaf belongs to an outer graph, or was made in inference mode, where autograd records nothing."""
    # A plain loop: this runs at each step, and a generator would double its cost.
    for leaf in leaves:  # noqa: SIM110
        if leaf.requires_grad or leaf.is_inference():
            return True
    return False


def _any_requires_grad(tree: Any) -> bool:
    for leaf in flatten(tree)[0]:
        if (
            leaf.requires_grad
            if isinstance(leaf, Tensor)
            else isinstance(leaf, Mapping) and _any_requires_grad(dict(leaf))
        ):
            return True
    return False


def _direct(
    loss_of: Callable[[Sequence[Tensor]], tuple[Tensor, Any]], floating: list[Tensor]
) -> tuple[Any, Tensor, Any]:
    watched = [leaf.detach().requires_grad_() for leaf in floating]
    with torch.enable_grad():
        loss, aux = loss_of(watched)
        _check_depends(loss)
    slopes = _backward(loss, watched)
    if all(slope is None for slope in slopes):
        raise LossError(_INDEPENDENT)
    filled = [torch.zeros_like(leaf) if slope is None else slope for slope, leaf in zip(slopes, watched, strict=True)]
    return filled, loss.detach(), None if aux is None else _outside(aux)


def _backward(loss: Tensor, leaves: list[Tensor]) -> Sequence[Tensor | None]:
    """`torch.autograd.grad` of a scalar; where all is plain, without what it asks of its arguments in Python first.

    On a small model that costs as much as a tenth of the step.
    """
    if torch._C._len_torch_function_stack() or {type(tensor) for tensor in (loss, *leaves)} != {Tensor}:
        return torch.autograd.grad(loss, leaves, allow_unused=True)
    start = torch.ones_like(loss)
    return _engine_run_backward((loss,), (start,), False, False, tuple(leaves), True, accumulate_grad=False)


def _transformed(
    loss_of: Callable[[Sequence[Tensor]], tuple[Tensor, Any]], floating: list[Tensor]
) -> tuple[Any, Tensor, Any]:
    """torch.func's way. Only tensors cross its border, because it knows no containers but torch's own."""
    rest: list[Any] = []

    def loss_and_tensors(leaves: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        loss, aux = loss_of(leaves)
        _check_depends(loss)
        aux_leaves, structure = flatten(as_known_mappings(aux))
        rest[:] = [structure, [None if isinstance(leaf, Tensor) else leaf for leaf in aux_leaves]]
        return loss, [leaf for leaf in aux_leaves if isinstance(leaf, Tensor)]

    slopes, (loss, aux_tensors) = torch.func.grad_and_value(loss_and_tensors, has_aux=True)(floating)
    structure, static = rest
    from_inside = iter(aux_tensors)
    return slopes, loss, unflatten(structure, [next(from_inside) if leaf is None else leaf for leaf in static])


def _outside(aux: Any) -> Any:
    """What a loss returned besides, outside of its graph; what is outside already is left as it is."""
    for leaf in flatten(aux)[0]:
        if isinstance(leaf, Mapping) or (isinstance(leaf, Tensor) and leaf.requires_grad):
            return map(_detached, as_known_mappings(aux))
    return aux


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) and leaf.requires_grad else leaf


def _checked(returned: Any, has_aux: bool) -> tuple[Tensor, Any]:
    if has_aux:
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise LossError(
                f"has_aux=True, but the loss function returned {_kind(returned)}. Return (loss, aux), or leave has_aux "
                "out."
            )
        loss, aux = returned
    else:
        if isinstance(returned, tuple):
            raise LossError(
                f"the loss function returned {_kind(returned)}, but has_aux is False. "
                "Return the loss alone, or pass has_aux=True for (loss, aux)."
            )
        loss, aux = returned, None
    if not isinstance(loss, Tensor):
        raise LossError(
            f"the loss is {_kind(loss)}, not a tensor. A number made by .item() or float() has no slope: "
            "return the 0-d tensor itself."
        )
    if loss.ndim != 0:
        raise LossError(
            f"the loss has shape {tuple(loss.shape)}; it must be a 0-d tensor. Reduce it, with .mean() or .sum()."
        )
    if loss.is_complex():
        raise LossError(
            f"the loss is complex ({loss.dtype}); only a real number can be made small. Take .abs() or .real."
        )
    return loss, aux


def _check_depends(loss: Tensor) -> None:
    if not loss.requires_grad:
        raise LossError(_INDEPENDENT)


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _describe(tree: Any) -> str:
    return ", ".join(paths(tree)[:5]) or "none"
