"""Recurrences for which torch has one kernel. It writes in place, so it is given copies that nobody else holds."""

from typing import Any

import torch
from torch import Tensor

from functional_train.values.tree._flat import Flat

_KERNEL_DTYPES = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
_KERNEL_DEVICES = frozenset({"cpu", "cuda"})


def fused_adam(
    grads: Flat, moments: tuple[Flat, ...], step: Tensor, betas: tuple[Any, Any], eps: Any
) -> tuple[Flat, tuple[Flat, ...]] | None:
    """Adam's direction and new moments in one pass over memory, or None where torch has no kernel for it.

    `moments` are the mean, the mean square and, for amsgrad, its maximum; `step` has shape `(num_leaves,)` and counts
    this update too. There is a kernel for plain, dense leaves of one dtype and device and for hyperparameters that are
    numbers.
    """
    if not (_is_dense(grads, *moments) and all(isinstance(number, float | int) for number in (*betas, eps))):
        return None
    steps = step.float().unbind()
    if grads.frame.ranks is not None:
        steps = [steps[rank] for rank in grads.frame.ranks]
    copies = [[leaf.clone() for leaf in column.leaves] for column in moments]
    # The kernel subtracts lr times the direction from parameters; zeros and a rate of -1 leave the direction itself.
    direction = [torch.zeros_like(leaf) for leaf in grads.leaves]
    torch._fused_adam_(
        direction,
        grads.leaves,
        copies[0],
        copies[1],
        copies[2] if len(copies) > 2 else [],
        list(steps),
        lr=-1.0,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=0.0,
        eps=eps,
        amsgrad=len(copies) > 2,
        maximize=False,
    )
    made = [Flat(column, grads.frame, True, fresh=True) for column in (direction, *copies)]
    return made[0], tuple(made[1:])


def _is_dense(*columns: Flat) -> bool:
    if not all(column.plain for column in columns) or not columns[0].leaves or torch._C._len_torch_dispatch_stack():
        return False
    first = columns[0].leaves[0]
    dtype, device = first.dtype, first.get_device()
    if dtype not in _KERNEL_DTYPES or first.device.type not in _KERNEL_DEVICES:
        return False
    for column in columns:
        for leaf, beside in zip(column.leaves, columns[0].leaves, strict=True):
            if type(leaf) is not Tensor or leaf.dtype is not dtype or leaf.get_device() != device:
                return False
            # The kernel trusts the sizes of the first column, and would write past the end of a smaller leaf.
            if not leaf.is_contiguous() or (leaf is not beside and leaf.shape != beside.shape):
                return False
    return True
