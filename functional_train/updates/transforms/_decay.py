"""Weight decay."""

from functional_train.updates.hyperparameters import check_non_negative, schedulable
from functional_train.updates.transformation import GradientTransformation, stateless_columns
from functional_train.values import tree
from functional_train.values.types import Hyperparameter


@schedulable
def add_decayed_weights(weight_decay: Hyperparameter = 1e-2) -> GradientTransformation:
    r"""Add a multiple of the parameters: $u = g + \lambda p$.

    Before a preconditioner this is the gradient of an L2 penalty; after it, decoupled weight decay.

    Args:
        weight_decay: At least 0; direction units per unit of parameter.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when `weight_decay` is a schedule.

    Raises:
        HyperparameterError: weight_decay is negative or not finite.

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2, line 12.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.add_decayed_weights(0.1)
        >>> tx.update([torch.zeros(1)], tx.init(None), [torch.ones(1)])[0]
        [tensor([0.1000])]
    """
    decay = check_non_negative("weight_decay", weight_decay)
    return stateless_columns(lambda g, p: tree.add(g.spend(), p, alpha=decay))
