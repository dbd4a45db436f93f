"""Muon."""

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import check_finite, check_non_negative, check_whole
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._adam import adamw
from functional_train.updates.optimizers._descent import decaying
from functional_train.updates.optimizers._newton_schulz import NewtonSchulz, as_matrix, orthogonalized
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.tree import Flat
from functional_train.values.tree._lookup import Predicate, matches
from functional_train.values.types import Hyperparameter, Tree

AdjustLR = Literal["original", "match_rms_adamw"]
"""How the step of a matrix depends on its shape."""


class MuonState(NamedTuple):
    """The mean of the gradients.

    Attributes:
        momentum_buffer: Like params.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_muon().init({"w": torch.ones(1, 2)}).momentum_buffer
        {'w': tensor([[0., 0.]])}
    """

    momentum_buffer: Tree


class MatricesState(NamedTuple):
    """The states of two transformations, of which one has the matrices and one all other leaves.

    Attributes:
        matrices: The state for params in which `()` stands for every other leaf.
        others: The state for params in which `()` stands for every matrix.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.muon().init({"w": torch.ones(1, 2), "b": torch.ones(1)}).matrices[0].momentum_buffer
        {'w': tensor([[0., 0.]]), 'b': ()}
    """

    matrices: Tree
    others: Tree


@schedulable
def scale_by_muon(
    momentum: Hyperparameter = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[Hyperparameter, Hyperparameter, Hyperparameter] = (3.4445, -4.7750, 2.0315),
    eps: Hyperparameter = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: AdjustLR | None = None,
    *,
    ns_dtype: torch.dtype | None = torch.bfloat16,
) -> GradientTransformation:
    r"""Replace the mean of the gradients by the nearest matrix with orthogonal rows or columns, nearly.

    $$m \leftarrow \mu m + (1-\mu) g, \quad X = \frac{\tilde m}{\max(\lVert \tilde m \rVert, \epsilon)}, \quad
      X \leftarrow a X + (b A + c A^2) X \;\text{ with } A = X X^\top, \quad u = r X$$

    where $\tilde m$ is $\mu m + (1-\mu) g$ once more with Nesterov, and m without. Every leaf is taken as a matrix of
    `shape[0]` rows: a kernel of a convolution has one a channel, a vector is one column.

    Args:
        momentum: Decay of the mean, at least 0 and usually below 1. Dimensionless.
        nesterov: Whether to look one step ahead.
        ns_coefficients: $a, b, c$. Dimensionless.
        eps: Least norm that is divided by, at least 0; in gradient units.
        ns_steps: Number of iterations, 0 to 99.
        adjust_lr_fn: The factor r of a matrix of A rows and B columns: $\sqrt{\max(1, A/B)}$ for `"original"` and
            `None`, $0.2 \sqrt{\max(A, B)}$ for `"match_rms_adamw"`, which lets one learning rate do for Adam too.
        ns_dtype: What the iteration is computed in; `None` for each leaf's own. In torch.bfloat16 it is fast on
            accelerators, and so coarse that derivatives through it mean little.

    Returns:
        Transformation with `MuonState`; a leaf whose gradient is `None` keeps its state.

    Raises:
        HyperparameterError: a number is outside its range, or a name is unknown.
        StructureError: at `init`: a parameter is complex.

    Source: Jordan 2024, "Muon: An optimizer for hidden layers in neural networks"; Liu et al. 2025, arXiv:2502.16982,
        section 2.2, for `"match_rms_adamw"`.

    Differs: from torch.optim.Muon, which refuses them, in that leaves that are no matrices are made one.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_muon(ns_steps=20, ns_coefficients=(2.0, -1.5, 0.5), ns_dtype=None)
        >>> grad = torch.tensor([[4.0, 0.0], [0.0, 3.0]])
        >>> tx.update(grad, tx.init(grad), None)[0]
        tensor([[1., 0.],
                [0., 1.]])
    """
    mu = check_non_negative("momentum", momentum, "0.95 is usual.")
    settings = NewtonSchulz(
        _checked_coefficients(ns_coefficients), check_non_negative("eps", eps, "1e-7 is usual."), ns_steps, ns_dtype
    )
    if check_whole("ns_steps", ns_steps, 0, "5 is usual.") >= 100:
        raise HyperparameterError(f"ns_steps must be below 100, got {ns_steps}. 5 is usual.")
    if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
        raise HyperparameterError(
            f"adjust_lr_fn must be None, 'original' or 'match_rms_adamw', got {adjust_lr_fn!r}. "
            "For another rule scale the updates of each leaf in a transformation that follows."
        )
    adjust = partial(_adjusted, to_adamw=adjust_lr_fn == "match_rms_adamw")

    def init(params: Tree) -> MuonState:
        for path, leaf in tree.items(params):
            if leaf.is_complex():
                raise StructureError(f"Muon has no rule for complex parameters, but {path!r} is {leaf.dtype}.")
        return MuonState(tree.zeros_like(params))

    def update(g: Flat, state: MuonState, p: Flat | None, **extra: Any) -> tuple[Flat, MuonState]:
        del p, extra
        check_state(state, MuonState)
        (m,) = g.beside(state.momentum_buffer)
        m = tree.lerp(m, g, 1 - mu)
        direction = orthogonalized(tree.lerp(g, m, mu) if nesterov else m, settings)
        return g.map(adjust, direction), MuonState(m.tree(absent=state.momentum_buffer))

    return GradientTransformation(init, columnwise(update))


def _checked_coefficients(coefficients: tuple[Hyperparameter, Hyperparameter, Hyperparameter]) -> tuple[Any, Any, Any]:
    if not isinstance(coefficients, tuple | list) or len(coefficients) != 3:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HyperparameterError(
            f"ns_coefficients must be three numbers, got {coefficients!r}. (3.4445, -4.775, 2.0315) is usual."
        )
    a, b, c = (check_finite(f"ns_coefficients[{place}]", one) for place, one in enumerate(coefficients))
    return a, b, c


def _adjusted(leaf: Tensor, direction: Tensor, *, to_adamw: bool) -> Tensor:
    rows, columns = as_matrix(leaf).shape
    factor = 0.2 * math.sqrt(max(rows, columns)) if to_adamw else math.sqrt(max(1.0, rows / max(columns, 1)))
    return (direction.to(torch.promote_types(leaf.dtype, torch.float32)) * factor).to(leaf.dtype)


def muon(
    lr: Hyperparameter = 1e-3,
    weight_decay: Hyperparameter = 0.1,
    momentum: Hyperparameter = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[Hyperparameter, Hyperparameter, Hyperparameter] = (3.4445, -4.7750, 2.0315),
    eps: Hyperparameter = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: AdjustLR | None = None,
    *,
    ns_dtype: torch.dtype | None = torch.bfloat16,
    matrices: Predicate | None = None,
    adam_lr: Hyperparameter | None = None,
    adam_betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    adam_eps: Hyperparameter = 1e-8,
    adam_weight_decay: Hyperparameter = 1e-2,
) -> GradientTransformation:
    """Muon for matrices, AdamW for all other leaves.

    Embeddings and the last layer are matrices by shape, but not maps between hidden layers, and do better with AdamW.
    Leave them out by path: `matrices=lambda path, leaf: leaf.ndim == 2 and not path.startswith(("embed", "head"))`.
    Kernels of convolutions have more than two dimensions, so they are AdamW's unless `matrices` takes them, as with
    `leaf.ndim >= 2`.

    Args:
        lr: As `scale_by_lr`; not adjusted where it scales the decay.
        weight_decay: As `add_decayed_weights`, of the matrices.
        momentum: As `scale_by_muon`.
        nesterov: As `scale_by_muon`.
        ns_coefficients: As `scale_by_muon`.
        eps: As `scale_by_muon`.
        ns_steps: As `scale_by_muon`.
        adjust_lr_fn: As `scale_by_muon`.
        ns_dtype: As `scale_by_muon`.
        matrices: The leaves for Muon, as the predicate of `ft.tree.partition`: globs of the path, or
            `(path, leaf) -> bool`; by default all real leaves of two dimensions.
        adam_lr: As `scale_by_lr`, of the other leaves; by default lr.
        adam_betas: As `scale_by_adam`, of the other leaves.
        adam_eps: As `scale_by_adam`, of the other leaves.
        adam_weight_decay: As `add_decayed_weights`, of the other leaves.

    Returns:
        Transformation with `MatricesState`.

    Raises:
        HyperparameterError: a number is outside its range, or a name is unknown.
        PathError: at `init`: a glob matches no path.
        StructureError: at `init`: a leaf that was chosen for Muon is complex.

    Source: torch.optim.Muon, whose rule this is for matrices; Jordan 2024, "Muon: An optimizer for hidden layers in
        neural networks".

    Differs: from torch.optim.Muon, which refuses leaves that are no matrices.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.muon(0.02, matrices="hidden.*", adam_lr=3e-4)
        >>> params = {"embedding": torch.ones(5, 2), "hidden.weight": torch.ones(2, 2)}
        >>> grads = {"embedding": torch.ones(5, 2), "hidden.weight": torch.eye(2)}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["embedding"][0]
        tensor([-0.0003, -0.0003])
    """
    direction = scale_by_muon(momentum, nesterov, ns_coefficients, eps, ns_steps, adjust_lr_fn, ns_dtype=ns_dtype)
    decay = decaying(weight_decay)
    of_others = adamw(lr if adam_lr is None else adam_lr, adam_betas, adam_eps, adam_weight_decay)
    return _split(chain(direction, *decay, scale_by_lr(lr)), of_others, matrices)


def _split(
    of_matrices: GradientTransformation, of_others: GradientTransformation, matrices: Predicate | None
) -> GradientTransformation:
    """One transformation for the leaves that a predicate takes, one for the rest."""

    def init(params: Tree) -> MatricesState:
        if matrices is not None:
            tree.partition(params, matrices)  # which refuses a glob that matches nothing
        mine = _taken(params, matrices)
        return MatricesState(
            of_matrices.init(_picked(params, mine)), of_others.init(_picked(params, [not one for one in mine]))
        )

    def update(grads: Tree, state: MatricesState, params: Tree, **extra: Any) -> tuple[Tree, MatricesState]:
        check_state(state, MatricesState)
        mine = _taken(grads if params is None else params, matrices)
        made: list[Tree] = []
        states: list[Tree] = []
        parts = ((of_matrices, state.matrices, mine), (of_others, state.others, [not one for one in mine]))
        for transformation, part, here in parts:
            own = None if params is None else _picked(params, here)
            slopes = _picked(grads, here)
            # Without a gradient nothing moves.
            moves = len(tree.leaves(slopes)) > 0
            updates, new = transformation.update(slopes, part, own, **extra) if moves else ((), part)
            made.append(updates)
            states.append(new)
        return _together(grads, made[0], made[1], mine), MatricesState(states[0], states[1])

    return GradientTransformation(init, update)


def _taken(params: Tree, matrices: Predicate | None) -> list[bool]:
    """Which slots of a tree, those of `None` included, hold a leaf for Muon."""
    leaves, _ = tree.flatten(params, none_is_leaf=True)
    if matrices is None:
        return [leaf is not None and leaf.ndim == 2 and not leaf.is_complex() for leaf in leaves]
    there = iter([matches(matrices, path, leaf) for path, leaf in tree.items(params)])
    return [leaf is not None and next(there) for leaf in leaves]


def _picked(params: Tree, here: list[bool]) -> Tree:
    # torch's own pytree, which vmap goes by, has no leaf in `()` but one in None; torch's tracer fails on a dict of
    # nothing else.
    leaves, structure = tree.flatten(params, none_is_leaf=True)
    if all(leaf is None or not one for leaf, one in zip(leaves, here, strict=True)):
        return ()
    return tree.unflatten(structure, [leaf if one else () for leaf, one in zip(leaves, here, strict=True)])


def _together(like: Tree, first: Tree, second: Tree, here: list[bool]) -> Tree:
    _, structure = tree.flatten(like, none_is_leaf=True)
    one, other = (iter(tree.flatten(part, none_is_leaf=True)[0]) for part in (first, second))
    return tree.unflatten(structure, [next(one if mine else other, None) for mine in here])
