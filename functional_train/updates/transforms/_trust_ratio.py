"""Updates in proportion to the size of what they change, layer by layer."""

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import GradientTransformation, stateless_columns
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter


@schedulable
def scale_by_trust_ratio(trust_coefficient: Hyperparameter = 1.0, eps: Hyperparameter = 0.0) -> GradientTransformation:
    r"""Make updates as long as their parameters, leaf by leaf.

    $$u = \eta \frac{\lVert p \rVert}{\lVert g \rVert + \epsilon} g$$

    Where one of the lengths is 0, the update stays as it is.

    Args:
        trust_coefficient: Length of an update in lengths of its parameter, at least 0. Dimensionless.
        eps: Added to the length that is divided by, at least 0; in units of the gradient.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when a number is a schedule.

    Raises:
        HyperparameterError: a number is negative or not finite.

    Source: You et al. 2017, arXiv:1708.03888, the local learning rate; You et al. 2019, arXiv:1904.00962, Algorithm 2.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_trust_ratio()
        >>> tx.update([torch.tensor([3.0, 4.0])], tx.init(None), [torch.tensor([0.0, 1.0])])[0]
        [tensor([0.6000, 0.8000])]
    """
    trust = check_non_negative("trust_coefficient", trust_coefficient, "1.0 is usual, and 0.001 in LARS.")
    shift = check_non_negative("eps", eps)

    def scaled(g: Flat, p: Flat | None) -> Flat:
        assert p is not None
        ratios = tree.norms(p).jointly(lambda p, g: trust_ratio(p, g + shift, trust), tree.norms(g))
        return tree.scale(ratios, g.spend())

    return stateless_columns(scaled)


def trust_ratio(lengths: Tensor, divisors: Tensor, trust: Number) -> Tensor:
    """Lengths of parameters in lengths of their updates, times the trust; 1 where one of them is 0."""
    nothing = (lengths == 0) | (divisors == 0)
    return torch.where(nothing, 1, trust * lengths / torch.where(nothing, 1, divisors))
