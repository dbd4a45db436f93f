"""LAMB."""

from functional_train.updates.chain import chain
from functional_train.updates.optimizers._adam import scale_by_adam
from functional_train.updates.optimizers._descent import decaying, descent
from functional_train.updates.transformation import GradientTransformation
from functional_train.updates.transforms._trust_ratio import scale_by_trust_ratio
from functional_train.values.types import Hyperparameter


def lamb(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    r"""LAMB: the direction of AdamW, in steps as long as `lr` times the parameter, leaf by leaf.

    $$p \leftarrow p - \mathrm{lr} \frac{\lVert p \rVert}{\lVert r + \lambda p \rVert} (r + \lambda p)$$

    Here r is the direction of Adam.

    Args:
        lr: Length of a step in lengths of the parameter, at least 0.
        betas: As `scale_by_adam`.
        eps: As `scale_by_adam`.
        weight_decay: As `add_decayed_weights`; it takes part in the length.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: You et al. 2019, arXiv:1904.00962, Algorithm 2, with the identity for its function of lengths; defaults of
        Optax, whose rule this is.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.lamb(0.1)
        >>> params = {"w": torch.full((1,), 3.0)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.3000])}
    """
    decay = decaying(weight_decay)
    return descent(chain(scale_by_adam(betas, eps), *decay, scale_by_trust_ratio()), lr, maximize=maximize)
