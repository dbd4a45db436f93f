"""L-BFGS."""

from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_non_negative, check_whole
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._landscape import Landscape, is_trained, real_dtype, real_size
from functional_train.updates.optimizers._strong_wolfe import Point, strong_wolfe
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step
from functional_train.values import tree
from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree

_LEAST_CURVATURE = 1e-10


class LBFGSState(NamedTuple):
    """What the last iterations told of the curvature. N counts the real numbers in all floating parameters.

    Attributes:
        n_iter: () int64, iterations so far.
        func_evals: () int64, losses looked at so far, those that came with the gradients included.
        d: (N,), the last direction.
        t: (), the last step along it.
        old_dirs: (history_size, N), changes of the gradient; the newest is last, and rows that are not used are 0.
        old_stps: (history_size, N), the steps that they belong to.
        ro: (history_size,), one over the inner product of both; 0 where a row is not used.
        H_diag: (), size of the inverse Hessian that the history begins with.
        prev_flat_grad: (N,), the gradient before the last step.
        prev_loss: () float64, the loss before the last step.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.lbfgs(history_size=5).init(
        ...     {"w": torch.ones(2), "z": torch.ones(1, dtype=torch.complex64)}
        ... ).old_dirs.shape
        torch.Size([5, 4])
    """

    n_iter: Tensor
    func_evals: Tensor
    d: Tensor
    t: Tensor
    old_dirs: Tensor
    old_stps: Tensor
    ro: Tensor
    H_diag: Tensor
    prev_flat_grad: Tensor
    prev_loss: Tensor


class _Numbers(NamedTuple):
    lr: Number
    max_iter: int
    max_eval: int
    tolerance_grad: Number
    tolerance_change: Number
    searches: bool


@schedulable
def lbfgs(
    lr: Hyperparameter = 1.0,
    max_iter: int = 20,
    max_eval: int | None = None,
    tolerance_grad: Hyperparameter = 1e-7,
    tolerance_change: Hyperparameter = 1e-9,
    history_size: int = 100,
    line_search_fn: Literal["strong_wolfe"] | None = None,
) -> GradientTransformation:
    r"""L-BFGS: several iterations of a quasi-Newton method in one update.

    $$d = -H g \;\text{ with }\; H \leftarrow (1 - \rho s y^\top) H (1 - \rho y s^\top) + \rho s s^\top, \quad
      s = t d, \; y = g - g_{before}, \; \rho = 1 / y^\top s, \quad p \leftarrow p + t d$$

    H begins with $y^\top s / y^\top y$ and has the last `history_size` pairs with $y^\top s > 10^{-10}$. An update
    looks at the loss again between its iterations, by `grad_and_value_fn=`, which `make_step` passes with the batch
    bound; so no link of a `chain` before it should change the gradients. Its history tells of the steps that it
    returns: what changes those afterward (`cautious`, `graft`, `stochastic_rounding`) can make it diverge. Numbers are
    read by the host, and iterations end early, unless the update is traced, mapped over or differentiated: then all
    are computed, and those after the end chosen away.

    Args:
        lr: The step t, at least 0; in the first iteration of all $t = \min(1, 1 / \lVert g \rVert_1) \, \mathrm{lr}$.
            With a line search, its first step. Dimensionless.
        max_iter: Most iterations in an update, at least 1.
        max_eval: Most losses to look at in an update, at least 1; by default 5/4 of `max_iter`.
        tolerance_grad: Largest entry of the gradient at which to end, at least 0; in gradient units.
        tolerance_change: Change of the loss, and of a parameter, below which to end, at least 0; in units of both.
        history_size: Number of pairs to keep, at least 1.
        line_search_fn: `"strong_wolfe"` for a search by cubic interpolation, `None` for steps of lr.

    Returns:
        Transformation with `LBFGSState`. Its size is `2 * history_size` times that of the parameters.

    Raises:
        HyperparameterError: a number is outside its range, or a name is unknown; at the update: a line search is
            traced, mapped over or differentiated.
        StructureError: at the update: `value=` or `grad_and_value_fn=` was not passed, or no parameters.

    Source: torch.optim.LBFGS, whose rule this is; Nocedal & Wright 2006, "Numerical Optimization", Algorithms 7.4
        and 7.5.

    Differs: a parameter without a gradient rests; torch moves it by the directions of its past. Leaves of 16 bits are
        computed in float32. The first loss and gradient are those that the update is given.

    Example:
        >>> import functional_train as ft, torch
        >>> rosenbrock = lambda p, batch: (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        >>> optimizer = ft.lbfgs(line_search_fn="strong_wolfe", max_iter=100)
        >>> step = ft.make_step(ft.grad_and_value(rosenbrock), optimizer)
        >>> start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
        >>> state, _ = step(ft.init_state(start, optimizer), None)
        >>> state.params
        tensor([1.0000, 1.0000], dtype=torch.float64)
    """
    if line_search_fn not in (None, "strong_wolfe"):
        raise HyperparameterError(f"line_search_fn must be None or 'strong_wolfe', got {line_search_fn!r}.")
    numbers = _Numbers(
        check_non_negative("lr", lr, "1.0 is usual."),
        check_whole("max_iter", max_iter, 1, "20 is usual."),
        max_iter * 5 // 4 if max_eval is None else check_whole("max_eval", max_eval, 1, "None is usual."),
        check_non_negative("tolerance_grad", tolerance_grad, "1e-7 is usual."),
        check_non_negative("tolerance_change", tolerance_change, "1e-9 is usual."),
        line_search_fn is not None,
    )
    rows = check_whole("history_size", history_size, 1, "100 is usual.")
    watched = any(isinstance(one, Tensor) and one.requires_grad for one in numbers)

    def init(params: Tree) -> LBFGSState:
        trained = [leaf for leaf in tree.leaves(params) if is_trained(leaf)]
        size, count = sum(map(real_size, trained)), zero_step(params)
        zeros = partial(torch.zeros, dtype=real_dtype(trained), device=count.device)
        ring = zeros((rows, size))
        return LBFGSState(
            count,
            count.clone(),
            zeros(size),
            zeros(()),
            ring,
            ring.clone(),
            zeros(rows),
            zeros(()) + 1,
            zeros(size),
            count.double(),
        )

    def reached(g: Flat, state: LBFGSState, p: Flat | None, extra: Any) -> tuple[Tree, LBFGSState, Tree]:
        check_state(state, LBFGSState)
        if p is None or extra.get("value") is None or extra.get("grad_and_value_fn") is None:
            raise StructureError(
                "lbfgs looks at the loss between its iterations: pass params, value= (the loss) and grad_and_value_fn= "
                "(params -> (grads, value)) to the update, as make_step does."
            )
        params = p.tree()
        place = Landscape(params, g.tree(), extra["grad_and_value_fn"], state.d.dtype)
        if place.size == 0 or not g.leaves:
            return params, state, params
        is_plain = g.plain and p.plain and not watched
        if numbers.searches and not is_plain:
            raise HyperparameterError(
                "line_search_fn='strong_wolfe' decides by the values of losses, which are not known while an update is "
                "traced, mapped over or differentiated. Pass line_search_fn=None there."
            )
        iterate = _iterate if is_plain else _iterate_masked
        x, state = iterate(place, state, extra["value"], numbers)
        return place.params_at(x), state, params

    def update(g: Flat, state: LBFGSState, p: Flat | None, **extra: Any) -> tuple[Flat, LBFGSState]:
        new, state, old = reached(g, state, p, extra)
        now, before = g.beside(new, old)
        return tree.sub(now, before), state

    def move(g: Flat, state: LBFGSState, p: Flat, **extra: Any) -> tuple[Flat, LBFGSState]:
        new, state, _ = reached(g, state, p, extra)
        return g.beside(new)[0], state

    return GradientTransformation(init, columnwise(update, move))


def _iterate(place: Landscape, state: LBFGSState, value: Tensor, numbers: _Numbers) -> tuple[Tensor, LBFGSState]:
    """Iterations as long as they lead on."""
    lr, tolerance_grad, tolerance_change = (float(numbers[index]) for index in (0, 3, 4))
    x, g, loss = place.start, place.gradient, float(value)
    looks = 1
    if float(g.abs().max()) <= tolerance_grad:
        return x, state._replace(func_evals=state.func_evals + 1)
    num_done, d, t, before, loss_before = int(state.n_iter), state.d, float(state.t), state.prev_flat_grad, loss
    scale, used = state.H_diag, int((state.ro > 0).sum())
    rows, first = len(state.ro), len(state.ro) - used
    pairs = list(
        zip(state.old_dirs[first:].unbind(), state.old_stps[first:].unbind(), state.ro[first:].unbind(), strict=True)
    )
    for iteration in range(1, numbers.max_iter + 1):
        num_done += 1
        if num_done > 1:
            y, s = place.change(g, before), d * t
            curvature = y.dot(s)
            if curvature > _LEAST_CURVATURE:
                pairs = [*pairs, (y, s, 1 / curvature)][-rows:]
                scale = curvature / y.dot(y)
        d = place.moving(_direction(g, pairs, scale))
        before, loss_before = place.remembered(g, before), loss
        t = min(1.0, 1.0 / g.abs().sum()) * lr if num_done == 1 else lr
        slope = g.dot(d)
        if slope > -tolerance_change:
            break
        if numbers.searches:
            start = Point(0.0, loss, g, slope)
            longest = float(d.abs().max())
            point, looked = strong_wolfe(
                partial(_point, place, x, d), start, t, longest, tolerance_change, numbers.max_eval - looks
            )
            t, loss, g = point.t, point.loss, point.grad
            x = place.moved(x, d, float(t))
            looks += looked
        else:
            x = place.moved(x, d, float(t))
            if iteration < numbers.max_iter:
                value, g = place.look(x)
                loss, looks = float(value), looks + 1
        if looks >= numbers.max_eval or float(g.abs().max()) <= tolerance_grad:
            break
        if float((d * t).abs().max()) <= tolerance_change or abs(loss - loss_before) < tolerance_change:
            break
    columns = zip(*pairs, strict=True) if pairs else ((), (), ())
    ys, ss, ros = (_ring(list(rows), old) for rows, old in zip(columns, state[4:7], strict=True))
    return x, LBFGSState(
        torch.full_like(state.n_iter, num_done),
        state.func_evals + looks,
        d,
        torch.full_like(state.t, float(t)),
        ys,
        ss,
        ros,
        scale,
        before,
        torch.full_like(state.prev_loss, loss_before),
    )


def _point(place: Landscape, x: Tensor, d: Tensor, t: Any) -> Point:
    value, g = place.look(place.moved(x, d, float(t)))
    return Point(t, float(value), g, g.dot(d))


def _direction(g: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    """-H g by two loops over the history."""
    q = -g
    shares: list[Tensor] = []
    for y, s, ro in reversed(pairs):
        shares.append(s.dot(q) * ro)
        q = torch.addcmul(q, y, shares[-1], value=-1)
    q = q * scale
    for (y, s, ro), share in zip(pairs, reversed(shares), strict=True):
        q = torch.addcmul(q, s, share - y.dot(q) * ro)
    return q


def _ring(rows: list[Tensor], old: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(old[: len(old) - len(rows)]), torch.stack(rows)]) if rows else old


def _iterate_masked(place: Landscape, state: LBFGSState, value: Tensor, numbers: _Numbers) -> tuple[Tensor, LBFGSState]:
    """All iterations, in which nothing moves any more after the one that would have ended them."""
    x, g, loss = place.start, place.gradient, value.double()
    lr, tolerance_grad, tolerance_change = numbers.lr, numbers.tolerance_grad, numbers.tolerance_change
    lives = g.abs().max() > tolerance_grad
    n_iter, func_evals, d, t, ys, ss, ro, scale, before, loss_before = state
    func_evals = func_evals + 1
    for iteration in range(1, numbers.max_iter + 1):
        n_iter = n_iter + lives
        is_first = n_iter == 1
        y, s = place.change(g, before), d * t
        curvature = y.dot(s)
        keeps = lives & ~is_first & (curvature > _LEAST_CURVATURE)
        safe = torch.where(keeps, curvature, 1)
        ys, ss = (torch.where(keeps, torch.cat([old[1:], new[None]]), old) for old, new in ((ys, y), (ss, s)))
        ro = torch.where(keeps, torch.cat([ro[1:], 1 / safe[None]]), ro)
        scale = torch.where(keeps, safe / torch.where(keeps, y.dot(y), 1), scale)
        d = torch.where(lives, place.moving(_direction_at_once(g, ys, ss, ro, scale)), d)
        before, loss_before = (
            torch.where(lives, place.remembered(g, before), before),
            torch.where(lives, loss, loss_before),
        )
        size = g.abs().sum()
        shrunk = torch.where(size > 1, 1 / torch.where(size > 1, size, 1), 1)
        t = torch.where(lives, (torch.where(is_first, shrunk, 1) * lr).to(t.dtype), t)
        lives = lives & ~(g.dot(d) > -tolerance_change)
        x = torch.where(lives, place.moved(x, d, t), x)
        if iteration == numbers.max_iter:
            break
        value, new = place.look(x)
        g, loss = torch.where(lives, new, g), torch.where(lives, value.double(), loss)
        func_evals = func_evals + lives
        if iteration + 1 >= numbers.max_eval:
            break
        ends = (g.abs().max() <= tolerance_grad) | ((d * t).abs().max() <= tolerance_change)
        lives = lives & ~(ends | ((loss - loss_before).abs() < tolerance_change))
    return x, LBFGSState(n_iter, func_evals, d, t, ys, ss, ro, scale, before, loss_before)


def _direction_at_once(g: Tensor, ys: Tensor, ss: Tensor, ro: Tensor, scale: Tensor) -> Tensor:
    """-H g by two triangular systems, which are what the two loops solve; rows that are not used are zero.

    Source: Byrd, Nocedal & Schnabel 1994, "Representations of quasi-Newton matrices and their use in limited memory
        methods", theorem 2.2.
    """
    used = ro > 0
    diagonal = torch.where(used, 1 / torch.where(used, ro, 1), 1)
    upper = torch.triu(ss @ ys.mT, 1) + torch.diag(diagonal)
    q = -g
    shares = torch.linalg.solve_triangular(upper, (ss @ q)[:, None], upper=True)
    r = (q - (ys.mT @ shares)[:, 0]) * scale
    rest = diagonal[:, None] * shares - (ys @ r)[:, None]
    return r + (ss.mT @ torch.linalg.solve_triangular(upper.mT, rest, upper=False))[:, 0]
