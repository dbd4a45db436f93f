"""Runs beside each other: their curves, and their ways over a landscape of two dimensions."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from functional_train.plot._figure import COLORS, GRAY, label_steps, make_figure, soften
from functional_train.values.errors import StructureError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GRID = 161
_LEVELS = 24
_DASHES = ("-", "--", ":", "-.")


def compare(
    curves: Mapping[str, Tensor], *, label: str = "loss", yscale: Literal["linear", "log"] = "linear"
) -> "Figure":
    """Draw one metric of several runs.

    Args:
        curves: Name of a run to its values, one a step; `metrics["loss"]` of `ft.scan` is such a column. What is
            infinite or nan is a gap.
        label: What the values are.
        yscale: Scale of the values.

    Returns:
        A matplotlib figure, unknown to pyplot.

    Raises:
        StructureError: there is no run, or a run is no column of numbers.
        ImportError: matplotlib is not installed.

    Example:
        >>> import functional_train as ft, torch
        >>> figure = ft.plot.compare({"sgd": torch.tensor([3.0, 2.0]), "adam": torch.tensor([3.0, 1.0])})
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['sgd', 'adam']
    """
    if not curves:
        raise StructureError("compare was given no runs. Pass a mapping from the name of a run to its values.")
    figure = make_figure(6.8, 3.6)
    axes = figure.subplots()
    for position, (name, values) in enumerate(curves.items()):
        if not isinstance(values, Tensor) or values.ndim != 1:
            found = (
                f"has shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"is a {type(values).__name__}"
            )
            raise StructureError(f"the values of run {name!r} are one number a step, in a 1-d tensor; this {found}.")
        column = values.detach().to("cpu", torch.float64)
        column = torch.where(torch.isfinite(column), column, torch.nan)
        color, dashes = COLORS[position % len(COLORS)], _DASHES[position // len(COLORS) % len(_DASHES)]
        axes.plot(range(1, len(column) + 1), column.tolist(), color=color, linestyle=dashes, linewidth=1.5, label=name)
    soften(axes)
    label_steps(axes, "step")
    axes.set_ylabel(label)
    axes.set_yscale(yscale)
    axes.legend(frameon=False, fontsize="small", ncols=1 + len(curves) // 7)
    return figure


def trajectories(
    loss_fn: Callable[[Tensor], Tensor], paths: Mapping[str, Tensor | Sequence[Any]], *, margin: float = 0.15
) -> "Figure":
    """Draw the ways of several runs over a loss of two numbers.

    Levels of the loss are spaced by its logarithm above the least one that is seen, so that narrow valleys show.

    Args:
        loss_fn: From a tensor of shape (2,) to a real 0-d tensor.
        paths: Name of a run to the points it came through: shape (num_points, 2), or a sequence of points of shape
            (2,).
        margin: Free space around all points, as a share of their extent.

    Returns:
        A matplotlib figure, unknown to pyplot. A ring marks where a run began, a disk where it ended.

    Raises:
        StructureError: there is no run, or points do not have two coordinates.
        ImportError: matplotlib is not installed.

    Example:
        >>> import functional_train as ft, torch
        >>> figure = ft.plot.trajectories(lambda p: p.square().sum(), {"a way": torch.tensor([[1.0, 1.0], [0.5, 0.0]])})
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['a way']
    """
    ways = {name: _points(name, path) for name, path in paths.items()}
    if not ways:
        raise StructureError("trajectories was given no runs. Pass a mapping from the name of a run to its points.")
    everything = torch.cat(list(ways.values()))
    everything = everything[torch.isfinite(everything).all(dim=1)]
    if not len(everything):
        raise StructureError("no point of any run is finite, so there is nothing to draw.")
    low, high = everything.min(dim=0).values, everything.max(dim=0).values
    # A run that stands still still has a landscape around it.
    reach = torch.clamp((high - low) * margin, min=0.5 * margin)
    ends = torch.stack([low - reach, high + reach], dim=1).tolist()
    xs, ys = (torch.linspace(start, end, _GRID, dtype=torch.float64) for start, end in ends)
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)
    losses = torch.func.vmap(torch.func.vmap(loss_fn))(grid)
    heights = torch.log10(losses - losses.min() + 1e-3 * (losses.max() - losses.min()) + 1e-12)

    figure = make_figure(6.8, 5.0)
    axes = figure.subplots()
    axes.contourf(xs.tolist(), ys.tolist(), heights.tolist(), levels=_LEVELS, cmap="Greys", alpha=0.55)
    for position, (name, way) in enumerate(ways.items()):
        color, dashes = COLORS[position % len(COLORS)], _DASHES[position // len(COLORS) % len(_DASHES)]
        across, up = way[:, 0].tolist(), way[:, 1].tolist()
        axes.plot(across, up, color=color, linestyle=dashes, linewidth=1.5, label=name)
        axes.scatter(across[:1], up[:1], facecolors="white", edgecolors=GRAY, s=36, zorder=3)
        axes.scatter(across[-1:], up[-1:], color=color, s=36, zorder=3)
    axes.set_xlim(float(xs[0]), float(xs[-1]))
    axes.set_ylim(float(ys[0]), float(ys[-1]))
    axes.legend(frameon=True, fontsize="small")
    return figure


def _points(name: str, path: Tensor | Sequence[Any]) -> Tensor:
    found = path if isinstance(path, Tensor) else torch.stack([torch.as_tensor(point) for point in path])
    if found.ndim != 2 or found.shape[1] != 2 or not len(found):
        raise StructureError(
            f"the points of run {name!r} need shape (num_points, 2) and at least one point, got {tuple(found.shape)}."
        )
    return found.detach().to("cpu", torch.float64)
