"""LARS."""

from functional_train.updates.chain import chain
from functional_train.updates.checks import check_non_negative, is_zero
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import climbing
from functional_train.updates.transformation import GradientTransformation, stateless_columns
from functional_train.updates.transforms._momentum import add_momentum
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.updates.transforms._trust_ratio import trust_ratio
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter


@schedulable
def _scale_layers(
    trust_coefficient: Hyperparameter, weight_decay: Hyperparameter, eps: Hyperparameter
) -> GradientTransformation:
    trust = check_non_negative("trust_coefficient", trust_coefficient, "0.001 is usual.")
    decay, shift = check_non_negative("weight_decay", weight_decay), check_non_negative("eps", eps)

    def scaled(g: Flat, p: Flat | None) -> Flat:
        assert p is not None
        ratios = tree.norms(p).jointly(lambda p, g: trust_ratio(p, g + decay * p + shift, trust), tree.norms(g))
        u = g if is_zero(decay) else tree.add(g.spend(), p, alpha=decay)
        return tree.scale(ratios, u.spend())

    return stateless_columns(scaled)


def lars(
    lr: Hyperparameter = 1.0,
    momentum: Hyperparameter = 0.9,
    dampening: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
    trust_coefficient: Hyperparameter = 1e-3,
    eps: Hyperparameter = 0.0,
) -> GradientTransformation:
    r"""LARS: SGD with momentum whose steps are in proportion to the parameter, leaf by leaf.

    $$b \leftarrow \mu b + \mathrm{lr} \frac{\eta \lVert p \rVert}{\lVert g \rVert + \lambda \lVert p \rVert + \epsilon}
      (g + \lambda p), \quad p \leftarrow p - b$$

    Where a parameter or what it is divided by is 0, the ratio is 1.

    Args:
        lr: As `scale_by_lr`; 1 and more is usual. A parameter that is 0 moves by `lr` times its gradient, so give
            biases another optimizer.
        momentum: As `add_momentum`; with 0, nothing is kept.
        dampening: As `add_momentum`.
        weight_decay: L2 penalty added to the gradient, at least 0; gradient units per unit of parameter.
        nesterov: As `add_momentum`.
        maximize: Whether to climb.
        trust_coefficient: Length of a step in lengths of the parameter, at least 0. Dimensionless.
        eps: Added to the length that is divided by, at least 0; in gradient units.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: You et al. 2017, arXiv:1708.03888, Algorithm 1; its momentum and trust coefficient.

    Differs: from Optax, whose ratio divides by the length of the gradient with the decay in it.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.lars(1.0, trust_coefficient=0.1)
        >>> params = {"w": torch.full((1,), 3.0)}
        >>> optimizer.update({"w": torch.full((1,), 7.0)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.3000])}
    """
    climb = climbing(maximize)
    memory = [] if is_zero(momentum) else [add_momentum(momentum, dampening, nesterov)]
    return chain(*climb, _scale_layers(trust_coefficient, weight_decay, eps), scale_by_lr(lr), *memory)
