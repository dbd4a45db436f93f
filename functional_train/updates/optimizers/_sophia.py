"""Sophia: momentum over curvature, clipped."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import check_betas, check_count, check_non_negative, check_positive
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import climbing, decaying
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.updates.transforms._hutchinson import DiagonalFn, diagonal, hutchinson
from functional_train.updates.transforms._refresh import flags
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.tree._precision import wide
from functional_train.values.types import Hyperparameter, Tree


class SophiaState(NamedTuple):
    """Running means of the gradient and of the curvature.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        exp_avg: Like params, the mean of the gradient.
        hessian: Like params, the mean of the estimates of the Hessian's diagonal.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_sophia().init({"w": torch.ones(1)}).hessian
        {'w': tensor([0.])}
    """

    step: Tensor
    exp_avg: Tree
    hessian: Tree


def scale_by_sophia(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.96, 0.99),
    eps: Hyperparameter = 1e-12,
    gamma: Hyperparameter = 0.01,
    clip_threshold: Hyperparameter = 1.0,
    update_interval: int = 10,
    *,
    estimator: DiagonalFn = hutchinson,
) -> GradientTransformation:
    r"""Divide the mean of the gradients by the mean of the curvature, and clip each number.

    $$m \leftarrow \beta_1 m + (1-\beta_1) g, \quad h \leftarrow \beta_2 h + (1-\beta_2) \hat h \text{ every } k
      \text{ updates}, \quad u = \operatorname{clip}\big(m / \max(\gamma h, \epsilon), \rho\big)$$

    Where the curvature is small or negative, u has the size of the bound: there it is a sign.

    Args:
        betas: Decay of the two means, each in [0, 1). Dimensionless.
        eps: Least divisor, above 0; in gradient units.
        gamma: Share of the curvature that is divided by, at least 0: the larger, the less is clipped. Parameter units.
        clip_threshold: Largest size of a number of u, above 0.
        update_interval: Updates from one estimate to the next, at least 1; the first has one.
        estimator: `(params, **extra) -> diagonal`: `hutchinson`, `gauss_newton_bartlett`, or a function of yours.

    Returns:
        Transformation with `SophiaState`; a leaf whose gradient is `None` keeps its state. Under `vmap` and in a
        compiled step an estimate is made at each update, and used where it is due.

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: at the update: what the estimator needs is not there; `hutchinson` needs a key.

    Source: Liu et al. 2023, arXiv:2305.14342, Algorithm 3.

    Differs: the paper's bound is 1. Optax corrects m for its start at zero, and divides by the curvature of the update
        before.

    Example:
        >>> import functional_train as ft, torch
        >>> loss_fn = lambda params, batch, key: (batch * params["w"] ** 2).sum()
        >>> optimizer = ft.chain(ft.scale_by_sophia(gamma=1.0), ft.scale_by_lr(0.1))
        >>> state = ft.init_state({"w": torch.ones(2)}, optimizer, key=ft.random.key(0))
        >>> state, _ = ft.make_step(ft.grad_and_value(loss_fn), optimizer)(state, torch.tensor([1.0, 3.0]))
        >>> state.opt_state[0].hessian
        {'w': tensor([0.0200, 0.0600])}
    """
    check_count("update_interval", update_interval, 1, "10 is usual.")

    @schedulable
    def make(
        betas: tuple[Hyperparameter, Hyperparameter],
        eps: Hyperparameter,
        gamma: Hyperparameter,
        clip_threshold: Hyperparameter,
    ) -> GradientTransformation:
        beta1, beta2 = check_betas(betas)
        least = check_positive("eps", eps, "1e-12 is usual.")
        share = check_non_negative("gamma", gamma, "0.01 is usual, 0.05 with gauss_newton_bartlett.")
        bound = check_positive("clip_threshold", clip_threshold, "1.0 is usual.")

        def update(g: Flat, state: SophiaState, p: Flat | None, **extra: Any) -> tuple[Flat, SophiaState]:
            check_state(state, SophiaState)
            m, h = g.beside(state.exp_avg, state.hessian)
            due = flags(g, state.step % update_interval == 0)
            # Nobody pays for an estimate that no leaf uses.
            fresh = [diagonal(estimator, g, p, extra)] if any(flag is not False for flag in due) else []
            chosen = g.map(lambda leaf, flag: torch.as_tensor(flag, device=leaf.device), Flat(due, g.frame, g.plain))

            def recurrence(g: Flat, m: Flat, h: Flat, *fresh: Flat) -> tuple[Flat, ...]:
                m = tree.lerp(m, g, 1 - beta1)
                for estimate in fresh:
                    h = tree.where(chosen, tree.lerp(h, estimate, 1 - beta2), h)
                ratio = tree.div(m.map(wide), tree.clamp(tree.scale(share, h.map(wide)), least, float("inf")))
                direction = tree.clamp(ratio, -bound, bound)
                return m.map(lambda like, u: u.to(like.dtype), direction), m, h

            direction, m, h = over_reals(recurrence, g, m, h, *fresh)
            new = SophiaState(g.counted(state.step), m.tree(absent=state.exp_avg), h.tree(absent=state.hessian))
            return direction, new

        return GradientTransformation(_init, columnwise(update))

    return make(betas, eps, gamma, clip_threshold)


def _init(params: Tree) -> SophiaState:
    step = zero_step_per_leaf(params)
    return SophiaState(step, tree.zeros_like(params), tree.zeros_like(params))


def sophia(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.96, 0.99),
    eps: Hyperparameter = 1e-12,
    weight_decay: Hyperparameter = 0.1,
    gamma: Hyperparameter = 0.01,
    clip_threshold: Hyperparameter = 1.0,
    update_interval: int = 10,
    *,
    estimator: DiagonalFn = hutchinson,
    maximize: bool = False,
) -> GradientTransformation:
    """Sophia: momentum over an estimate of the curvature, clipped, with decoupled weight decay.

    The state that is trained must own a key: `ft.init_state(params, optimizer, key=...)`.

    Args:
        lr: As `scale_by_lr`; it also scales the decay. Parameter units: no number moves further in one update.
        betas: As `scale_by_sophia`.
        eps: As `scale_by_sophia`.
        weight_decay: As `add_decayed_weights`.
        gamma: As `scale_by_sophia`.
        clip_threshold: As `scale_by_sophia`.
        update_interval: As `scale_by_sophia`.
        estimator: As `scale_by_sophia`.
        maximize: Whether to climb; the curvature is then that of the loss turned around.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: at the update: the state owns no key, or what else the estimator needs is not there.

    Source: Liu et al. 2023, arXiv:2305.14342, Algorithm 3.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.sophia(0.1, weight_decay=0.0)
        >>> state = ft.init_state(torch.tensor(1.0), optimizer, key=ft.random.key(0))
        >>> step = ft.make_step(ft.grad_and_value(lambda params, batch, key: params**2), optimizer)
        >>> step(state, None)[0].params
        tensor(0.9000)
    """
    direction = scale_by_sophia(
        betas, eps, gamma, clip_threshold, update_interval, estimator=_turned(estimator) if maximize else estimator
    )
    decay = decaying(weight_decay)
    return chain(*climbing(maximize), direction, *decay, scale_by_lr(lr))


def _turned(estimator: DiagonalFn) -> DiagonalFn:
    """The estimator for the loss turned around; one that squares gradients is not changed by it."""

    def turned(params: Tree, /, **extra: Any) -> Tree:
        climbed = extra.get("grad_and_value_fn")
        if climbed is not None:
            extra["grad_and_value_fn"] = lambda at: (tree.scale(-1, climbed(at)[0]), None)
        return estimator(params, **extra)

    return turned
