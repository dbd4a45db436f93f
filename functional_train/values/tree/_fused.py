"""Recurrences for which torch has one kernel. It writes in place, so it is given copies that nobody else holds."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.values._watching import only_onlookers
from functional_train.values.tree._alike import are_alike
from functional_train.values.tree._flat import Flat, is_plain

_KERNEL_DTYPES = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
_KERNEL_DEVICES = frozenset({"cpu", "cuda"})
_CLONES_TOGETHER = hasattr(torch, "_foreach_clone")


class AdamNumbers(NamedTuple):
    """The hyperparameters of Adam. There is a kernel where all but `lr` are numbers."""

    lr: Any
    betas: tuple[Any, Any]
    eps: Any
    weight_decay: Any = 0.0
    decoupled: bool = False
    maximize: bool = False


def fused_adam(
    grads: Flat, moments: tuple[Flat, ...], step: Tensor, numbers: AdamNumbers, params: Flat | None = None
) -> tuple[Flat, tuple[Flat, ...]] | None:
    """New parameters and moments in one pass over memory, or None where torch has no kernel for it.

    `moments` are the mean, the mean square and, for amsgrad, its maximum; `step` has shape `(num_leaves,)` and counts
    this update too. Without parameters zeros take their place. Leaves must be plain, dense and of one dtype and device.
    """
    beta1, beta2 = numbers.betas
    if not all(isinstance(number, float | int) for number in (beta1, beta2, numbers.eps, numbers.weight_decay)):
        return None
    columns = (grads, *moments) if params is None else (grads, *moments, params)
    lr = _rate(numbers.lr)
    if lr is None or not _is_dense(_KERNEL_DTYPES, *columns):
        return None
    if params is None:
        start, copies = [torch.zeros_like(leaf) for leaf in grads.leaves], _copies(*moments)
    else:
        start, *copies = _copies(params, *moments)
    kernel = torch._fused_adamw_ if numbers.decoupled else torch._fused_adam_
    kernel(
        start,
        grads.leaves,
        copies[0],
        copies[1],
        copies[2] if len(copies) > 2 else [],
        _steps(grads, step),
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=numbers.weight_decay,
        eps=numbers.eps,
        amsgrad=len(copies) > 2,
        maximize=numbers.maximize,
    )
    made = [Flat(column, grads.frame, True, fresh=True) for column in (start, *copies)]
    return made[0], tuple(made[1:])


class SGDNumbers(NamedTuple):
    """The hyperparameters of SGD. There is a kernel where all but `lr` are numbers."""

    lr: Any
    momentum: Any
    weight_decay: Any
    nesterov: bool
    maximize: bool


def fused_sgd(grads: Flat, velocity: Flat | None, numbers: SGDNumbers, params: Flat) -> tuple[Flat, Flat | None] | None:
    """New parameters and velocity in one pass over memory, or None where torch has no kernel for it.

    A velocity of zero is that of a leaf that has seen no gradient, which is right as long as nothing is dampened.
    """
    if not all(isinstance(number, float | int) for number in (numbers.momentum, numbers.weight_decay)):
        return None
    columns = (grads, params) if velocity is None else (grads, params, velocity)
    lr = _rate(numbers.lr)
    # In 16 bits the kernel of torch 2.13 leaves out whole blocks of a leaf.
    if lr is None or not _is_dense(_KERNEL_DTYPES - {torch.float16, torch.bfloat16}, *columns):
        return None
    start, buffers = (_copies(params)[0], []) if velocity is None else _copies(params, velocity)
    torch._fused_sgd_(
        start,
        grads.leaves,
        buffers,
        lr=lr,
        momentum=numbers.momentum,
        weight_decay=numbers.weight_decay,
        dampening=0.0,
        nesterov=numbers.nesterov,
        maximize=numbers.maximize,
        is_first_step=False,
    )
    made = [Flat(column, grads.frame, True, fresh=True) for column in (start, buffers)]
    return made[0], made[1] if velocity is not None else None


class AdagradNumbers(NamedTuple):
    """The hyperparameters of Adagrad. There is a kernel where all but `lr` are numbers."""

    lr: Any
    lr_decay: Any
    weight_decay: Any
    eps: Any
    maximize: bool


def fused_adagrad(
    grads: Flat, total: Flat, step: Tensor, numbers: AdagradNumbers, params: Flat
) -> tuple[Flat, Flat] | None:
    """New parameters and sums in one pass over memory, or None where torch has no kernel for it.

    `step` has shape `(num_leaves,)` and counts this update too.
    """
    if not all(isinstance(number, float | int) for number in numbers[1:]):
        return None
    lr = _rate(numbers.lr)
    if lr is None or not _is_dense(_KERNEL_DTYPES, grads, total, params):
        return None
    start, sums = _copies(params, total)
    torch._fused_adagrad_(
        start,
        grads.leaves,
        sums,
        _steps(grads, step),
        lr=lr,
        lr_decay=numbers.lr_decay,
        weight_decay=numbers.weight_decay,
        eps=numbers.eps,
        maximize=numbers.maximize,
    )
    made = [Flat(column, grads.frame, True, fresh=True) for column in (start, sums)]
    return made[0], made[1]


def _steps(grads: Flat, step: Tensor) -> list[Tensor]:
    steps = step.float().unbind()
    return list(steps) if grads.frame.ranks is None else [steps[rank] for rank in grads.frame.ranks]


def _copies(*columns: Flat) -> list[list[Tensor]]:
    every = [leaf for column in columns for leaf in column.leaves]
    copies = torch._foreach_clone(every) if _CLONES_TOGETHER else [leaf.clone() for leaf in every]
    count = len(columns[0].leaves)
    return [list(copies[start : start + count]) for start in range(0, len(every), count)]


def _rate(lr: Any) -> Any:
    """A learning rate as the kernels take it, or None when somebody watches it."""
    if not isinstance(lr, Tensor):
        return lr if isinstance(lr, float | int) else None
    if not is_plain(((lr,),)):
        return None
    # In host memory it can be read without waiting; elsewhere the kernel reads it.
    return lr.item() if lr.device.type == "cpu" else lr.float()


def _is_dense(dtypes: frozenset[torch.dtype], *columns: Flat) -> bool:
    # The kernel trusts the sizes of the first column, and would write past the end of a smaller leaf.
    if not are_alike(*columns) or not only_onlookers():
        return False
    first = columns[0].leaves
    if first[0].dtype not in dtypes or first[0].device.type not in _KERNEL_DEVICES:
        return False
    every = [leaf for column in columns for leaf in column.leaves]
    return set(map(type, every)) == {Tensor} and len(set(map(Tensor.get_device, every))) == 1
