"""Adam for sparse gradients, which touches only the rows that they hold."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_betas, check_positive
from functional_train.updates.hyperparameters import schedulable, scheduled
from functional_train.updates.optimizers._adam import AdamState
from functional_train.updates.optimizers._descent import climbing
from functional_train.updates.transformation import (
    EmptyState,
    GradientTransformation,
    check_state,
    columnwise,
    with_move,
    zero_step_per_leaf,
)
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


class _Rows(NamedTuple):
    """Where the gradients have rows, and what belongs there."""

    grads: Flat
    places: Flat
    direction: Flat


@schedulable
def scale_by_sparse_adam(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999), eps: Hyperparameter = 1e-8
) -> GradientTransformation:
    r"""Adam's direction in the rows that a sparse gradient holds; other rows of the moments rest.

    $$m_i \leftarrow \beta_1 m_i + (1-\beta_1) g_i, \quad v_i \leftarrow \beta_2 v_i + (1-\beta_2) g_i^2, \quad
      u_i = \frac{\sqrt{1-\beta_2^t}}{1-\beta_1^t} \cdot \frac{m_i}{\sqrt{v_i} + \epsilon}$$

    A row is there when it is in the sparse tensor, were it of zeros. `t` counts the updates of the whole leaf.

    Args:
        betas: As `scale_by_adam`.
        eps: Added to the root of the uncorrected $v$, above 0; in gradient units.

    Returns:
        Transformation with `AdamState`; updates are sparse as the gradients are, and coalesced.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or eps is not above 0.
        StructureError: at `init`: a parameter is sparse or complex; at the update: a gradient is dense.

    Source: torch.optim.SparseAdam, whose rule this is; Kingma & Ba 2015, arXiv:1412.6980, section 2, the more efficient
        order of Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_sparse_adam()
        >>> table = torch.zeros(3, 1)
        >>> grad = torch.sparse_coo_tensor([[2]], [[5.0]], (3, 1), check_invariants=True)
        >>> tx.update(grad, tx.init(table), table)[0].to_dense().flatten()
        tensor([0.0000, 0.0000, 1.0000])
    """
    pair = check_betas(betas)
    shift = check_positive("eps", eps, "1e-8 is usual.")

    def init(params: Tree) -> AdamState:
        _check_parameters(params)
        step = zero_step_per_leaf(params)
        return AdamState(step, tree.zeros_like(params), tree.zeros_like(params), ())

    def update(g: Flat, state: AdamState, p: Flat | None, **extra: Any) -> tuple[Flat, AdamState]:
        del p, extra
        check_state(state, AdamState)
        rows, state = _advance(g, state, pair, shift)
        return rows.grads.map(_with_rows, rows.direction), state

    def move(g: Flat, state: AdamState, p: Flat, **extra: Any) -> tuple[Flat, AdamState]:
        del extra
        check_state(state, AdamState)
        rows, state = _advance(g, state, pair, shift)
        return p.map(_added, rows.places, rows.direction), state

    return GradientTransformation(init, columnwise(update, move))


def _advance(g: Flat, state: AdamState, betas: tuple[Number, Number], eps: Number) -> tuple[_Rows, AdamState]:
    grads = g.map(_coalesced)
    index: Flat = grads.map(lambda leaf: tuple(leaf.indices()) or (leaf.indices().new_zeros(leaf._nnz()),))
    values: Flat = grads.map(lambda leaf: leaf.values())
    m, v = g.beside(state.exp_avg, state.exp_avg_sq)
    m_rows = tree.lerp(m.map(_rows_of, index), values, 1 - betas[0])
    v_rows = tree.lerp(v.map(_rows_of, index), tree.mul(values, values), 1 - betas[1])
    step = g.counted(state.step)
    correction1, correction2 = (1 - beta ** step.double() for beta in betas)
    # A leaf that never had a gradient counts 0 steps, and what is not used must not be 0 / 0 in a derivative.
    factor = (correction2 / torch.where(step > 0, correction1, 1) ** 2) ** 0.5
    direction = tree.scale(values.spread(factor), tree.div_sqrt(m_rows, v_rows, outside=eps))
    new = (
        step,
        m.map(_put, index, m_rows).tree(absent=state.exp_avg),
        v.map(_put, index, v_rows).tree(absent=state.exp_avg_sq),
    )
    return _Rows(grads, index, direction), AdamState(*new, ())


def _coalesced(leaf: Tensor) -> Tensor:
    if leaf.layout is not torch.sparse_coo:
        raise StructureError(
            f"sparse_adam was given a gradient of shape {tuple(leaf.shape)} that is not sparse ({leaf.layout}). It "
            "takes sparse COO gradients, as F.embedding(..., sparse=True) makes them; ft.adam takes dense ones."
        )
    return leaf.coalesce()


def _table(leaf: Tensor) -> Tensor:
    return leaf.reshape(1) if leaf.ndim == 0 else leaf


def _rows_of(leaf: Tensor, index: tuple[Tensor, ...]) -> Tensor:
    return _table(leaf)[index]


def _put(leaf: Tensor, index: tuple[Tensor, ...], rows: Tensor) -> Tensor:
    return _table(leaf).index_put(index, rows).reshape(leaf.shape)


def _added(leaf: Tensor, index: tuple[Tensor, ...], rows: Tensor) -> Tensor:
    return _table(leaf).index_put(index, rows, accumulate=True).reshape(leaf.shape)


def _with_rows(leaf: Tensor, rows: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(leaf.indices(), rows, leaf.shape, check_invariants=False, is_coalesced=True)


def _check_parameters(params: Tree) -> None:
    for path, leaf in tree.items(params):
        if leaf.layout is not torch.strided or leaf.is_complex():
            raise StructureError(
                f"sparse_adam takes real, dense parameters, but {path!r} is {leaf.dtype} and {leaf.layout}. Only "
                "gradients are sparse."
            )


def sparse_adam(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    maximize: bool = False,
) -> GradientTransformation:
    """Adam that moves only the rows for which a sparse gradient has values: for tables of embeddings.

    Args:
        lr: As `scale_by_lr`.
        betas: As `scale_by_adam`.
        eps: As `scale_by_sparse_adam`.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: as `scale_by_sparse_adam`.

    Source: torch.optim.SparseAdam, whose rule this is.

    Differs: from torch, which refuses it, lr may be 0, so that a schedule may begin there.

    Example:
        >>> import functional_train as ft, torch
        >>> import torch.nn.functional as F
        >>> table, optimizer = torch.zeros(4, 2), ft.sparse_adam(0.1)
        >>> grad = ft.grad(lambda table: F.embedding(torch.tensor([1]), table, sparse=True).sum())(table)
        >>> ft.make_update(optimizer)(grad, optimizer.init(table), table)[0][:, 0]
        tensor([ 0.0000, -0.1000,  0.0000,  0.0000])
    """
    climb = climbing(maximize)
    parts = chain(*climb, scale_by_sparse_adam(betas, eps), scale_by_lr(lr))
    kinds = [EmptyState] * len(climb) + [AdamState]

    def move(g: Flat, states: Tree, p: Flat, **extra: Any) -> tuple[Flat, Tree] | None:
        del extra
        if type(states) is not tuple or [type(state) for state in states[:-1]] != kinds:
            return None
        rate, rate_state = scheduled(lr, states[-1])
        g = tree.scale(-1, g) if maximize else g
        rows, state = _advance(g, states[-2], betas, eps)  # pyright: ignore[reportArgumentType]
        new: Flat = p.map(_added, rows.places, tree.scale(-rate, rows.direction))
        return new, (*states[:-2], state, rate_state)

    return with_move(parts, move)
