"""Sign descent: signSGD, Signum and Tiger."""

from typing import Any, NamedTuple

from functional_train.updates.checks import check_fraction
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import descent
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, stateless_columns
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter, Tree


class SignumState(NamedTuple):
    """Running mean of the gradient.

    Attributes:
        exp_avg: Like params.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_signum().init({"w": torch.ones(1)}).exp_avg
        {'w': tensor([0.])}
    """

    exp_avg: Tree


def scale_by_sign() -> GradientTransformation:
    r"""Keep the sign of each element only: $u = \operatorname{sign}(g)$.

    A complex number keeps the signs of its two parts.

    Returns:
        Transformation with `EmptyState`.

    Source: Bernstein et al. 2018, arXiv:1802.04434, Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_sign().update([torch.tensor([5.0, 0.0, -0.1])], ft.EmptyState(), None)[0]
        [tensor([ 1.,  0., -1.])]
    """
    return stateless_columns(lambda g, p: over_reals(lambda g: (tree.sign(g),), g.spend())[0])


@schedulable
def scale_by_signum(momentum: Hyperparameter = 0.9) -> GradientTransformation:
    r"""Keep the sign of the mean of the gradients.

    $$m \leftarrow \beta m + (1-\beta) g, \quad u = \operatorname{sign}(m)$$

    Args:
        momentum: Decay of the mean, in [0, 1). Dimensionless.

    Returns:
        Transformation with `SignumState`; a leaf whose gradient is `None` keeps its state.

    Raises:
        HyperparameterError: momentum is outside [0, 1).

    Source: Bernstein et al. 2018, arXiv:1802.04434, Algorithm 2.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_signum()
        >>> updates, state = tx.update([torch.tensor([5.0])], tx.init([torch.zeros(1)]), None)
        >>> tx.update([torch.tensor([-1.0])], state, None)[0]
        [tensor([1.])]
    """
    beta = check_fraction("momentum", momentum, "With 1.0 the mean never moves; 0.9 is usual.")

    def init(params: Tree) -> SignumState:
        return SignumState(tree.zeros_like(params))

    def update(g: Flat, state: SignumState, p: Flat | None, **extra: Any) -> tuple[Flat, SignumState]:
        del p, extra
        check_state(state, SignumState)
        (m,) = g.beside(state.exp_avg)
        m = tree.lerp(m, g, 1 - beta)
        (direction,) = over_reals(lambda m: (tree.sign(m),), m)
        return direction, SignumState(m.tree(absent=state.exp_avg))

    return GradientTransformation(init, columnwise(update))


def sign_sgd(
    lr: Hyperparameter = 1e-3, weight_decay: Hyperparameter = 0.0, *, maximize: bool = False
) -> GradientTransformation:
    """Descend by `lr` in each coordinate, in the direction of the sign of the gradient.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        weight_decay: Decoupled, at least 0; direction units per unit of parameter.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Bernstein et al. 2018, arXiv:1802.04434, Algorithm 1; `lr` of torch.optim.SGD.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.sign_sgd(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.tensor([7.0])}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    return descent(scale_by_sign(), lr, weight_decay, maximize=maximize)


def signum(
    lr: Hyperparameter = 1e-3,
    momentum: Hyperparameter = 0.9,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Descend by `lr` in each coordinate, in the direction of the sign of the mean gradient.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        momentum: As `scale_by_signum`.
        weight_decay: Decoupled, at least 0; direction units per unit of parameter.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Bernstein et al. 2018, arXiv:1802.04434, Algorithm 2; momentum of Optax, `lr` of torch.optim.SGD.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.signum(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.tensor([7.0])}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    return descent(scale_by_signum(momentum), lr, weight_decay, maximize=maximize)


def tiger(
    lr: Hyperparameter = 1e-3,
    momentum: Hyperparameter = 0.965,
    weight_decay: Hyperparameter = 1e-2,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Tiger: `signum` with a longer memory and with weight decay.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        momentum: As `scale_by_signum`.
        weight_decay: Decoupled, at least 0; direction units per unit of parameter.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Su 2023, "Tiger: a tight-fisted optimizer", the rule of its README; defaults of pytorch_optimizer.

    Differs: one `lr` for all leaves, and gradients are accumulated by `accumulate_updates`, not inside.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.tiger(0.1, weight_decay=0.0)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.tensor([7.0])}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    return descent(scale_by_signum(momentum), lr, weight_decay, maximize=maximize)
