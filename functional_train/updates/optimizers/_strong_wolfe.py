"""A line search for the strong Wolfe conditions, by cubic interpolation, that reads numbers as it goes."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

ARMIJO, CURVATURE = 1e-4, 0.9


Number = Any
"""A float, or a 0-d tensor in the dtype of the gradient: what is computed from slopes rounds as they do."""


class Point(NamedTuple):
    """A point on the line: how far, the loss there, its gradient, and the slope along the line."""

    t: Number
    loss: float
    grad: Tensor
    slope: Number


def strong_wolfe(
    at: Callable[[Number], Point], start: Point, t: Number, longest: float, tolerance_change: float, most: int
) -> tuple[Point, int]:
    """Find a point that is low enough, and flat enough, beginning with `t`; and count the points looked at.

    `longest` is the largest entry of the direction, and `most` the number of points to look at after the first.

    Source: Nocedal & Wright 2006, "Numerical Optimization", Algorithms 3.5 and 3.6, with torch.optim.LBFGS's choices.
    """
    ends, done, looks = _bracket(at, start, t, most)
    is_stuck = False
    low = _lower(ends)
    while not done and looks < most:
        if abs(ends[1].t - ends[0].t) * longest < tolerance_change:
            break
        t, is_stuck = _inside(ends, is_stuck)
        new = at(t)
        looks += 1
        if _is_high(new, start) or new.loss >= ends[low].loss:
            ends[1 - low] = new
            low = _lower(ends)
            continue
        done = _is_flat(new, start)
        if not done and new.slope * (ends[1 - low].t - ends[low].t) >= 0:
            ends[1 - low] = ends[low]
        ends[low] = new
    return ends[low], looks + 1


def _bracket(at: Callable[[Number], Point], start: Point, t: Number, most: int) -> tuple[list[Point], bool, int]:
    """Two points around one that meets the conditions, or that point, and whether it is that."""
    before, new = start, at(t)
    for looks in range(most):
        if _is_high(new, start) or (looks > 1 and new.loss >= before.loss):
            return [before, new], False, looks
        if _is_flat(new, start):
            return [new, new], True, looks
        if new.slope >= 0:
            return [before, new], False, looks
        t = _cubic_minimum(before, new, (new.t + 0.01 * (new.t - before.t), 10 * new.t))
        before, new = new, at(t)
    return [start, new], False, most


def _is_high(point: Point, start: Point) -> bool:
    return bool(point.loss > start.loss + ARMIJO * point.t * start.slope)


def _is_flat(point: Point, start: Point) -> bool:
    return bool(abs(point.slope) <= -CURVATURE * start.slope)


def _lower(ends: list[Point]) -> int:
    return 0 if ends[0].loss <= ends[1].loss else 1


def _inside(ends: list[Point], is_stuck: bool) -> tuple[Number, bool]:
    """Where to look next between two points: not twice near one of them."""
    least, most = sorted((ends[0].t, ends[1].t))
    t = _cubic_minimum(ends[0], ends[1], (least, most))
    margin = 0.1 * (most - least)
    if min(most - t, t - least) >= margin:
        return t, False
    if not (is_stuck or t >= most or t <= least):
        return t, True
    return (most - margin if abs(t - most) < abs(t - least) else least + margin), False


def _cubic_minimum(first: Point, second: Point, bounds: tuple[Number, Number]) -> Number:
    """The minimum of the cubic with the losses and slopes of two points, moved into bounds."""
    left, right = (first, second) if first.t <= second.t else (second, first)
    mean = first.slope + second.slope - 3 * _ratio(first.loss - second.loss, first.t - second.t)
    discriminant = mean * mean - first.slope * second.slope
    if not discriminant >= 0:
        return (bounds[0] + bounds[1]) / 2
    root = discriminant**0.5
    t = right.t - (right.t - left.t) * _ratio(right.slope + root - mean, right.slope - left.slope + 2 * root)
    return min(max(t, bounds[0]), bounds[1])


def _ratio(numerator: Number, denominator: Number) -> Number:
    if isinstance(denominator, Tensor) or denominator != 0:
        return numerator / denominator
    return math.nan if numerator == 0 or math.isnan(numerator) else math.copysign(math.inf, numerator)
