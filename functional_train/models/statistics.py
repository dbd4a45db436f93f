"""Statistics of BatchNorm, computed anew."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from functional_train.models._dismantle import copy_module
from functional_train.models.functional import functionalize
from functional_train.values.errors import BatchesError
from functional_train.values.params import Params

__all__ = ["update_bn"]


def update_bn(
    module: nn.Module,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batches: Iterable[Any],
    *,
    train: bool | Callable[[str], bool] = True,
) -> Params:
    """Compute the running statistics of BatchNorm for other parameters than those that were trained: an average.

    Args:
        module: Where `params` belong. It is not changed.
        params: What to compute the statistics of, as from `averaged_params`.
        buffers: The module's; those that are not statistics of BatchNorm go through the calls as in training.
        batches: Inputs, or tuples and lists whose first part is the input. Each batch weighs the same.
        train: As of `apply`: which submodules are in training mode. A predicate can leave dropout out.

    Returns:
        Buffers in which mean and variance of each BatchNorm are averages over all batches, whatever its momentum. They
        are those given when there is no BatchNorm.

    Raises:
        BatchesError: there are no batches.
        StructureError: names, shapes or kinds of dtype do not fit.

    Source: torch.optim.swa_utils, `update_bn`; Izmailov et al. 2018, arXiv:1803.05407, section 3.2.

    Example:
        >>> import functional_train as ft, torch
        >>> module = torch.nn.BatchNorm1d(1)
        >>> _, params, buffers = ft.functionalize(module)
        >>> batches = [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])]
        >>> ft.update_bn(module, params, buffers, batches)["running_mean"]
        tensor([4.])
    """
    # Without momentum BatchNorm takes the plain mean over batches. The copy shares the weights, which nobody writes to.
    tensors = [*module.parameters(), *module.buffers()]
    counting = copy_module(module, {id(tensor): tensor for tensor in tensors})
    fresh = dict(buffers)
    for path, submodule in counting.named_modules():
        if isinstance(submodule, _BatchNorm) and submodule.track_running_stats:
            submodule.momentum = None
            for name, value in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
                full = f"{path}.{name}" if path else name
                fresh[full] = torch.full_like(buffers[full], value)
    if all(fresh[name] is buffers[name] for name in buffers):
        return Params(fresh)
    apply, current, seen = functionalize(counting).apply, Params(fresh), False
    with torch.no_grad():
        for batch in batches:
            given = batch[0] if isinstance(batch, tuple | list) else batch
            _, current = apply(params, given, buffers=current, train=train)
            seen = True
    if not seen:
        raise BatchesError("update_bn was given no batches, so there is nothing to take statistics of.")
    return current
