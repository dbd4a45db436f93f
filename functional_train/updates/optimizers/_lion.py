"""Lion."""

from typing import Any, NamedTuple

from functional_train.updates.checks import Number, check_betas
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import descent
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter, Tree


class LionState(NamedTuple):
    """Running mean of the gradient.

    Attributes:
        exp_avg: Like params.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_lion().init({"w": torch.ones(1)}).exp_avg
        {'w': tensor([0.])}
    """

    exp_avg: Tree


@schedulable
def scale_by_lion(betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.99)) -> GradientTransformation:
    r"""Take the sign of a mean in which the newest gradient weighs more than in the mean that is kept.

    $$u = \operatorname{sign}(\beta_1 m + (1-\beta_1) g), \quad m \leftarrow \beta_2 m + (1-\beta_2) g$$

    Args:
        betas: Decay of the mean, in the direction and in the state, each in [0, 1). Dimensionless.

    Returns:
        Transformation with `LionState`; a leaf whose gradient is `None` keeps its state.

    Raises:
        HyperparameterError: a beta is outside [0, 1).

    Source: Chen et al. 2023, arXiv:2302.06675, Algorithm 2.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_lion()
        >>> tx.update([torch.tensor([5.0, 0.0, -0.1])], tx.init([torch.zeros(3)]), None)[0]
        [tensor([ 1.,  0., -1.])]
    """
    beta1, beta2 = check_betas(betas)

    def init(params: Tree) -> LionState:
        return LionState(tree.zeros_like(params))

    def update(g: Flat, state: LionState, p: Flat | None, **extra: Any) -> tuple[Flat, LionState]:
        del p, extra
        check_state(state, LionState)
        (m,) = g.beside(state.exp_avg)
        direction, m = over_reals(lambda g, m: _signed(g, m, beta1, beta2), g, m)
        return direction, LionState(m.tree(absent=state.exp_avg))

    return GradientTransformation(init, columnwise(update))


def _signed(g: Flat, m: Flat, beta1: Number, beta2: Number) -> tuple[Flat, Flat]:
    return tree.sign(tree.lerp(m, g, 1 - beta1).spend()), tree.lerp(m, g, 1 - beta2)


def lion(
    lr: Hyperparameter = 1e-4,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.99),
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Lion: every coordinate moves by `lr`, in the direction of the sign of the momentum.

    Args:
        lr: As `scale_by_lr`; a third to a tenth of Adam's. It also scales the decay.
        betas: As `scale_by_lion`.
        weight_decay: Decoupled, at least 0; three to ten times that of AdamW.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Chen et al. 2023, arXiv:2302.06675, Algorithm 2; defaults of the authors' code.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.lion(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.tensor([7.0])}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    return descent(scale_by_lion(betas), lr, weight_decay, maximize=maximize)
