"""Compensated summation of updates into parameters of 16 bits."""

from typing import Any, NamedTuple

from torch import Tensor

from functional_train.updates.transformation import (
    GradientTransformation,
    check_params,
    check_state,
    check_transformation,
    columnwise,
    update_columns,
)
from functional_train.updates.transforms._low_precision import for_low, has_low, move_wide, stored
from functional_train.values.tree import Flat
from functional_train.values.tree._precision import is_low
from functional_train.values.types import Tree


class KahanState(NamedTuple):
    """What rounding kept from the parameters so far.

    Attributes:
        compensation: Like params; without elements for leaves wider than 16 bits.
        inner: The state of what is wrapped.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.kahan(ft.sgd()).init({"w": torch.ones(1, dtype=torch.bfloat16)}).compensation
        {'w': tensor([0.], dtype=torch.bfloat16)}
    """

    compensation: Tree
    inner: Tree


def kahan(inner: GradientTransformation) -> GradientTransformation:
    r"""Remember what parameters of 16 bits lose in rounding, and add it to the next update.

    $$t = u + c, \quad d = \mathrm{round}(t), \quad p' = \mathrm{round}(p + d), \quad c' = t - (p' - p)$$

    Updates too small to move a parameter add up until they do. What is wrapped keeps its state in 16 bits, as without
    it; with `master_weights` that would be float32. Of a chain this is the outermost part, since it relies
    on its update being added as it is. Wider leaves pass as they are.

    Args:
        inner: Makes the updates $u$, in the dtypes of the parameters.

    Returns:
        Transformation with `KahanState`.

    Raises:
        StructureError: inner is not a transformation.

    Source: Kahan 1965, "Further remarks on reducing truncation errors"; Zamirai et al. 2020, arXiv:2010.06192.

    Differs: from the papers, the compensation is what the sum in 16 bits really reached, however large the update is.

    Example:
        >>> import functional_train as ft, torch
        >>> params, grads = torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16)
        >>> for optimizer in (ft.sgd(1e-3), ft.kahan(ft.sgd(1e-3))):
        ...     step = ft.make_step(lambda params, batch: (grads, torch.zeros(())), optimizer)
        ...     print(ft.fold(step, ft.init_state(params, optimizer), 500 * [None]).params)
        tensor([1.], dtype=torch.bfloat16)
        tensor([0.5000], dtype=torch.bfloat16)
    """
    check_transformation(inner, "kahan")

    def init(params: Tree) -> KahanState:
        return KahanState(for_low(params), inner.init(params))

    def update(g: Flat, state: KahanState, p: Flat | None, **extra: Any) -> tuple[Flat, KahanState]:
        check_state(state, KahanState)
        u, own, p = update_columns(inner, g, state.inner, check_params(p, "kahan"), extra)
        assert p is not None
        if not has_low(p):
            return u, KahanState(state.compensation, own)
        (c,) = u.beside(state.compensation)
        d, c = u.map(_compensated, p, c, outputs=2)
        return d, KahanState(c.tree(absent=state.compensation), own)

    def move(g: Flat, state: KahanState, p: Flat, **extra: Any) -> tuple[Flat, KahanState] | None:
        check_state(state, KahanState)
        moved = move_wide(inner, g, state.inner, p, extra)
        return moved and (moved[0], KahanState(state.compensation, moved[1]))

    return GradientTransformation(init, columnwise(update, move))


def _compensated(u: Tensor, p: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    if not is_low(p):
        return u, c
    total = stored(u).float() + c.float()
    d = stored(total.to(p.dtype))
    reached = stored(p + d)
    # To a derivative the sum is exact, and so nothing is left over.
    missed = (total - (reached.float() - p.float())).detach()
    return d, missed.to(p.dtype)
