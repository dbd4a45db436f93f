"""Parameters of 16 bits that follow a copy in float32."""

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
from functional_train.updates.transforms._low_precision import has_low, move_wide, stored
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._precision import is_low, wide
from functional_train.values.types import Tree


class MasterWeightsState(NamedTuple):
    """The parameters that updates are added to.

    Attributes:
        master: Like params, in float32; without elements for leaves wider than 16 bits.
        inner: The state of what is wrapped, in float32 for leaves of 16 bits.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.master_weights(ft.sgd()).init({"w": torch.ones(1, dtype=torch.bfloat16)}).master
        {'w': tensor([1.])}
    """

    master: Tree
    inner: Tree


def master_weights(inner: GradientTransformation) -> GradientTransformation:
    r"""Update a float32 copy of parameters of 16 bits, and round the parameters from it.

    $$w \leftarrow w + u(g, w), \quad p \leftarrow \mathrm{round}(w)$$

    What is wrapped sees and remembers nothing but float32. The copy alone decides: what else moved the parameters is
    undone by the next update, so of a chain this is the outermost part. Wider leaves pass as they are.

    Args:
        inner: Makes the updates $u$.

    Returns:
        Transformation with `MasterWeightsState`.

    Raises:
        StructureError: inner is not a transformation.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.1.

    Differs: parameters are moved by adding a difference of 16 bits. Where it is larger than the parameter that it moves
        it may itself be rounded, and the parameter is off by its last digit until the next update.

    Example:
        >>> import functional_train as ft, torch
        >>> params, grads = torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16)
        >>> optimizer = ft.master_weights(ft.sgd(1e-3))
        >>> step = ft.make_step(lambda params, batch: (grads, torch.zeros(())), optimizer)
        >>> ft.fold(step, ft.init_state(params, optimizer), 500 * [None]).params
        tensor([0.5000], dtype=torch.bfloat16)
    """
    check_transformation(inner, "master_weights")

    def init(params: Tree) -> MasterWeightsState:
        master = tree.map(lambda p: p.float() if is_low(p) else p.new_zeros(0), params)
        return MasterWeightsState(master, inner.init(tree.map(wide, params)))

    def update(g: Flat, state: MasterWeightsState, p: Flat | None, **extra: Any) -> tuple[Flat, MasterWeightsState]:
        check_state(state, MasterWeightsState)
        p = check_params(p, "master_weights")
        if not has_low(p):
            u, own, _ = update_columns(inner, g, state.inner, p, extra)
            return u, MasterWeightsState(state.master, own)
        (master,) = p.beside(state.master)
        # All parameters, those without a gradient too: what is wrapped may look at the whole.
        (w,) = p.beside(tree.map(lambda leaf, copy: copy if is_low(leaf) else leaf, p.tree(), state.master))
        if "grad_and_value_fn" in extra:
            extra["grad_and_value_fn"] = _in_float32(extra["grad_and_value_fn"], p.tree())
        u, own, _ = update_columns(inner, g.map(wide), state.inner, w, extra)
        # A transformation over trees lays its updates down anew.
        p, master = (p, master) if u.frame is p.frame else u.beside(p.tree(), state.master)
        d, master = u.map(_followed, p, master, outputs=2)
        return d, MasterWeightsState(master.tree(absent=state.master), own)

    def move(g: Flat, state: MasterWeightsState, p: Flat, **extra: Any) -> tuple[Flat, MasterWeightsState] | None:
        check_state(state, MasterWeightsState)
        moved = move_wide(inner, g, state.inner, p, extra)
        return moved and (moved[0], MasterWeightsState(state.master, moved[1]))

    return GradientTransformation(init, columnwise(update, move))


def _in_float32(grad_and_value_fn: Any, params: Tree) -> Any:
    """The function of the parameters as a function of their copies."""

    def wide_fn(copies: Tree) -> tuple[Tree, Tensor]:
        grads, value = grad_and_value_fn(tree.cast(copies, params))
        return tree.map(wide, grads), value

    return wide_fn


def _followed(u: Tensor, p: Tensor, master: Tensor) -> tuple[Tensor, Tensor]:
    if not is_low(p):
        return u, master
    master = master + u
    target = stored(master.to(p.dtype))
    return stored((target.float() - p.float()).to(p.dtype)), master
