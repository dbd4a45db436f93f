"""Updates that parameters of 16 bits follow on average."""

from typing import Any

import torch
from torch import Tensor

from functional_train.updates.transformation import (
    GradientTransformation,
    check_params,
    check_transformation,
    columnwise,
    update_columns,
)
from functional_train.updates.transforms._low_precision import has_low, move_wide, stored
from functional_train.values import random
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.tree._precision import is_low
from functional_train.values.types import Tree


def stochastic_rounding(inner: GradientTransformation) -> GradientTransformation:
    r"""Round parameters of 16 bits up or down by chance, so that their mean is the exact sum.

    $$p' = \begin{cases} a & \text{with probability } (b - p - u) / (b - a) \\ b & \text{otherwise} \end{cases}$$
    where $a \le p + u \le b$ are numbers of 16 bits that the parameter can reach.

    Nothing is remembered for it, and what is wrapped keeps its state in 16 bits, as without it. Of a chain this is the
    outermost part, since it relies on its update being added as it is. Wider leaves pass as they are.

    Args:
        inner: Makes the updates $u$, in the dtypes of the parameters.

    Returns:
        Transformation with the state of `inner`. Where there are leaves of 16 bits its update takes `key=`, which
        `make_step` passes when the state owns a key.

    Raises:
        StructureError: inner is not a transformation, or at the update: there is no key to draw from.

    Source: Gupta et al. 2015, arXiv:1502.02551, section 3.1; for updates: Zamirai et al. 2020, arXiv:2010.06192.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.stochastic_rounding(ft.sgd(1e-3))
        >>> params = torch.ones(1000, dtype=torch.bfloat16)
        >>> step = ft.make_step(lambda params, batch, key: (torch.ones_like(params), torch.zeros(())), optimizer)
        >>> state = ft.init_state(params, optimizer, key=ft.random.key(0))
        >>> bool((ft.fold(step, state, 500 * [None]).params.float().mean() - 0.5).abs() < 0.01)
        True
    """
    check_transformation(inner, "stochastic_rounding")

    def update(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, Tree]:
        p = check_params(p, "stochastic_rounding")
        if not has_low(p):
            u, state, _ = update_columns(inner, g, state, p, extra)
            return u, state
        if "key" not in extra:
            raise StructureError(
                "stochastic_rounding draws random numbers for parameters of 16 bits, and was given no key. Pass key= "
                "to ft.init_state, or to the update."
            )
        key, extra["key"] = random.split(extra["key"])
        u, state, p = update_columns(inner, g, state, p, extra)
        assert p is not None
        keys = random.split(key, max(1, u.frame.num_leaves)).unbind()
        ranks = range(len(u.leaves)) if u.frame.ranks is None else u.frame.ranks
        return u.map(_rounded, p, Flat([keys[rank] for rank in ranks], u.frame, u.plain)), state

    def move(g: Flat, state: Tree, p: Flat, **extra: Any) -> tuple[Flat, Tree] | None:
        return move_wide(inner, g, state, p, extra)

    return GradientTransformation(inner.init, columnwise(update, move))


def _rounded(u: Tensor, p: Tensor, key: Tensor) -> Tensor:
    if not is_low(p):
        return u
    u = stored(u)
    near = stored(p + u)
    rest = (p.float() - near.float()) + u.float()
    up = rest > 0
    other = stored((_neighbor(near, up).float() - p.float()).to(p.dtype))
    # Where the difference from a small parameter was itself rounded it may lead back, and the next one leads on.
    reached = stored(p + other)
    other = torch.where(torch.where(up, reached > near, reached < near), other, _neighbor(other, up))
    apart = stored(p + other).float() - near.float()
    chance = torch.where(apart * rest > 0, rest / torch.where(apart == 0, 1, apart), 0)
    if u.requires_grad:
        # To a derivative nothing was rounded.
        other = other.detach() + (u - u.detach())
    return torch.where(random.uniform(key, p.shape, dtype=torch.float32) < chance, other, u)


def _neighbor(leaf: Tensor, above: Tensor) -> Tensor:
    """The next number of 16 bits, above or below: the bits of either sign, read as an integer, count away from 0."""
    bits = leaf.detach().view(torch.int16)
    smallest = torch.where(above, 1, -0x7FFF)
    outward = torch.where(above == (leaf > 0), 1, -1)
    return torch.where(leaf == 0, smallest, bits + outward).to(torch.int16).view(leaf.dtype)
