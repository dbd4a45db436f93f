"""Mixed precision as a function of the loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functional_train.values.errors import HyperparameterError
from functional_train.values.tree._structure import device_of, map
from functional_train.values.types import Aux


def mixed_precision(loss_fn: Callable[..., Any], dtype: torch.dtype = torch.bfloat16) -> Callable[..., Any]:
    """Compute a loss in 16 bits where that is safe, with parameters and gradients in their own dtype.

    Matrix products and convolutions run in `dtype`; sums, norms and losses stay in float32, as `torch.autocast`
    decides. The cache of converted weights is off: it would be state that nobody owns.

    Args:
        loss_fn: `(params, batch, **owned) -> loss` or `-> (loss, aux)`.
        dtype: torch.bfloat16 or torch.float16. The latter wants dynamic loss scaling on most models.

    Returns:
        A loss function of the same signature whose loss is float32 (or wider).

    Raises:
        HyperparameterError: `dtype` is another one.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.

    Example:
        >>> import functional_train as ft, torch
        >>> loss_fn = ft.mixed_precision(lambda params, batch: (batch @ params["w"]).square().mean())
        >>> loss_fn({"w": torch.ones(2, 1)}, torch.ones(3, 2))
        tensor(4.)
    """
    if dtype not in (torch.bfloat16, torch.float16):
        raise HyperparameterError(
            f"mixed_precision needs torch.bfloat16 or torch.float16, got {dtype}. For full float64 use "
            "ft.tree.to(params, "
            "torch.float64) instead."
        )

    def lower_precision_loss_fn(params: Any, batch: Any, **owned: Any) -> Any:
        device = device_of(params)
        with torch.autocast(device.type if device else "cpu", dtype, cache_enabled=False):
            returned = loss_fn(params, batch, **owned)
        if isinstance(returned, tuple):
            loss, aux = returned
            # Buffers belong to the state and keep their dtypes.
            return _widened(loss), Aux(map(_widened, aux.metrics), aux.buffers) if isinstance(aux, Aux) else map(
                _widened, aux
            )
        return _widened(returned)

    return lower_precision_loss_fn


def _widened(leaf: Any) -> Any:
    low = isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16)
    return leaf.float() if low else leaf
