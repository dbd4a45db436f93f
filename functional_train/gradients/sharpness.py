"""GradFn -> GradFn: gradients from the worst point nearby, which lead to flat minima."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from functional_train.values import tree
from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.tree import Flat
from functional_train.values.types import GradFn, Tree

Number = float | Tensor


def sam(grad_fn: GradFn, rho: Number = 0.05, *, eps: Number = 1e-12) -> GradFn:
    r"""Take gradients where the loss is about largest within a ball.

    $$\nabla L\Big(p + \rho \frac{g}{\lVert g \rVert_2 + \epsilon}\Big), \quad g = \nabla L(p)$$

    The gradient function is called twice, with one batch and one key, so that both calls see one loss; and both are
    handed the same buffers. Loss, aux and new buffers are those of the first call: running statistics of BatchNorm move
    once a step, and never from the perturbed parameters.

    Args:
        grad_fn: `(params, batch, **owned) -> (grads, loss | (loss, aux))`.
        rho: Radius of the ball, at least 0; in parameter units. With 0 the gradient is that of `grad_fn`.
        eps: Keeps the quotient finite where the gradient vanishes, at least 0; in gradient units.

    Returns:
        A gradient function of the same signature, for `make_step`. Leaves whose gradient is `None` are not perturbed.

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: grad_fn is no function, or when called: it does not return a pair.

    Source: Foret et al. 2021, arXiv:2010.01412, equation 2 and Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> grad_fn = ft.sam(ft.grad_and_value(lambda params, batch: params.square().sum() / 2), rho=0.5)
        >>> grad_fn(torch.tensor([3.0, 4.0]), None)
        (tensor([3.3000, 4.4000]), tensor(12.5000))
    """
    radius, shift = _non_negative("rho", rho), _non_negative("eps", eps)

    def climb(p: Flat, g: Flat) -> Flat:
        return tree.add(p, g, alpha=radius / (tree.global_norm(g.leaves) + shift))

    return _at(climb, grad_fn, "sam")


def asam(grad_fn: GradFn, rho: Number = 0.5, eta: Number = 0.01, *, eps: Number = 1e-12) -> GradFn:
    r"""Take gradients where the loss is about largest within a ball that scales with the parameters.

    $$\nabla L\Big(p + \rho \frac{T^2 g}{\lVert T g \rVert_2 + \epsilon}\Big), \quad g = \nabla L(p), \quad
      T = |p| + \eta$$

    Rescaling parameters without changing the function then does not change the sharpness that is seen. Calls, key,
    buffers, loss and aux are as with `sam`.

    Args:
        grad_fn: As `sam`.
        rho: Radius of the ball relative to the parameters, at least 0; ten times that of `sam` is usual. Dimensionless.
        eta: Moves parameters that are 0, at least 0; in parameter units.
        eps: As `sam`.

    Returns:
        As `sam`.

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: as `sam`.

    Source: Kwon et al. 2021, arXiv:2102.11600, Algorithm 1, with the elementwise operator.

    Example:
        >>> import functional_train as ft, torch
        >>> grad_fn = ft.asam(ft.grad_and_value(lambda params, batch: params.square().sum() / 2), rho=0.5, eta=0.0)
        >>> grad_fn(torch.tensor([2.0, 0.0]), None)
        (tensor([3., 0.]), tensor(2.))
    """
    radius, floor, shift = _non_negative("rho", rho), _non_negative("eta", eta), _non_negative("eps", eps)

    def climb(p: Flat, g: Flat) -> Flat:
        size = tree.add(tree.abs(p), floor)
        scaled = tree.mul(g, size)
        return tree.add(p, tree.mul(scaled, size), alpha=radius / (tree.global_norm(scaled.leaves) + shift))

    return _at(climb, grad_fn, "asam")


def _at(climb: Callable[[Flat, Flat], Flat], grad_fn: GradFn, taker: str) -> GradFn:
    """The gradient at the point that is climbed to, with what the first call measured."""
    if not callable(grad_fn):
        raise StructureError(
            f"{taker} takes a gradient function, got a {type(grad_fn).__name__}. Write "
            f"ft.{taker}(ft.grad_and_value(loss_fn))."
        )

    def sharp_grad_fn(params: Tree, batch: Tree, /, *args: Any, **owned: Any) -> tuple[Tree, Any]:
        returned = grad_fn(params, batch, *args, **owned)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise StructureError(
                f"{taker} needs a grad_fn that returns (grads, loss), this one returned a {type(returned).__name__}. "
                "Pass ft.grad_and_value(loss_fn): neither the loss function itself nor ft.grad."
            )
        grads, value = returned
        p, g = tree.flat(params, grads)
        grads, _ = grad_fn(climb(p, g).tree(absent=params), batch, *args, **owned)
        return grads, value

    return sharp_grad_fn


def _non_negative(name: str, value: Any) -> Number:
    if isinstance(value, Tensor):
        if value.ndim != 0:
            raise HyperparameterError(f"{name} has shape {tuple(value.shape)}; a tensor hyperparameter is 0-d.")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < float("inf"):
        raise HyperparameterError(
            f"{name} must be a finite number >= 0 or a 0-d tensor, got {value!r}. A gradient function counts no steps, "
            "so it follows no schedule."
        )
    return value
