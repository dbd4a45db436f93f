"""Noise added to gradients."""

from typing import Any, NamedTuple

from torch import Tensor

from functional_train.updates.checks import check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.values import random, tree
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter, Tree


class NoiseState(NamedTuple):
    """How often noise was added.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.add_noise().init({"w": torch.ones(1)}).step
        tensor([0])
    """

    step: Tensor


@schedulable
def add_noise(eta: Hyperparameter = 0.01, gamma: Hyperparameter = 0.55) -> GradientTransformation:
    r"""Add normal noise that fades: $u = g + \sigma_t \epsilon$ with $\sigma_t^2 = \eta / (1 + t)^\gamma$.

    $t$ is 0 at the first update. The noise comes from the `key=` that a step passes when its state owns one. All links
    of a chain and all parts of a partition are passed the same key: two that add noise add the same draws.

    Args:
        eta: Variance at the first update, at least 0; in squared gradient units.
        gamma: How fast it fades, at least 0. Dimensionless.

    Returns:
        Transformation with `NoiseState`, or `ScheduledState` around it when a number is a schedule. Complex gradients
        get noise of this variance in both parts.

    Raises:
        HyperparameterError: a number is negative or not finite.
        StructureError: at the update: there is no key.

    Source: Neelakantan et al. 2015, arXiv:1511.06807, equation 1.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.add_noise()
        >>> params = [torch.zeros(2)]
        >>> tx.update(params, tx.init(params), params, key=ft.random.key(0))[0]
        [tensor([-0.0001,  0.0264])]
    """
    variance = check_non_negative("eta", eta, "0.01, 0.3 and 1.0 are usual.")
    fading = check_non_negative("gamma", gamma, "0.55 is usual.")

    def init(params: Tree) -> NoiseState:
        return NoiseState(zero_step_per_leaf(params))

    def update(g: Flat, state: NoiseState, p: Flat | None, **extra: Any) -> tuple[Flat, NoiseState]:
        del p
        check_state(state, NoiseState)
        if extra.get("key") is None:
            raise StructureError(
                "add_noise draws from a key, and its update was given none. Make the state with one, "
                "ft.init_state(params, optimizer, key=ft.random.key(seed)), or pass key= to the update."
            )
        deviation = g.spread((variance / (1 + state.step).double() ** fading) ** 0.5)
        keys = random.split(extra["key"], max(1, g.frame.num_leaves))
        keys = Flat(g.rows(keys[: g.frame.num_leaves]), g.frame, g.plain)

        def add(g: Flat) -> tuple[Flat]:
            noise = g.map(lambda leaf, key: random.normal(key, leaf.shape, dtype=leaf.dtype).to(leaf.device), keys)
            return (tree.add(g, noise, alpha=deviation),)

        return over_reals(add, g)[0], NoiseState(g.counted(state.step))

    return GradientTransformation(init, columnwise(update))
