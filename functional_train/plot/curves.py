"""Curves over steps: what a run recorded, and schedules."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from functional_train.plot._figure import BLUE, COLORS, GRAY, VERMILION, label_steps, make_figure, soften
from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.types import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 1000


def history(
    history: Mapping[str, Tensor], *, yscale: Literal["linear", "log"] = "linear", smooth: int | None = None
) -> "Figure":
    """Draw what a run recorded: a panel for each metric, evaluations as points beside the training curve.

    The loss comes first. A thin line shows each step and a thick one the mean over a window. Where a value is infinite
    or nan the curve has a gap, marked at the foot of the panel. Metrics that are not single numbers are left out.

    Args:
        history: What `fit` returned, or any mapping with a "step" and one number a step for each metric. Names that
            start with "eval/" go with "eval/step".
        yscale: Scale of the loss panel.
        smooth: Length of the window in steps, at least 1, which leaves the curve as it is. If None, a twentieth of the
            run.

    Returns:
        A matplotlib figure, unknown to pyplot.

    Raises:
        StructureError: a metric and its steps differ in length.
        HyperparameterError: smooth is less than 1, or yscale is neither of the two.
        ImportError: matplotlib is not installed.

    Example:
        >>> import functional_train as ft, torch
        >>> history = ft.History({"step": torch.tensor([1, 2, 3]), "loss": torch.tensor([3.0, 2.0, 1.5])})
        >>> figure = ft.plot.history(history)
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss']
    """
    if smooth is not None and smooth < 1:
        raise HyperparameterError(f"smooth must be at least 1, got {smooth}. It counts steps.")
    if yscale not in {"linear", "log"}:
        raise HyperparameterError(f'yscale must be "linear" or "log", got {yscale!r}.')
    curves = {name: _curve(history, name) for name, column in history.items() if _is_drawn(name, column)}
    names = list(dict.fromkeys(name.removeprefix("eval/") for name in curves))
    panels = [name for name in names if name == "loss"] + [name for name in names if name != "loss"] or ["loss"]

    figure = make_figure(6.8, 3.2 if len(panels) == 1 else 0.8 + 2.1 * len(panels))
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for name, axes in zip(panels, rows, strict=True):
        if name in curves:
            _draw_training(axes, *curves[name], smooth)
        if f"eval/{name}" in curves:
            _draw_evaluations(axes, *curves[f"eval/{name}"])
        _label(axes, name)
        if name == "loss" and yscale == "log":
            axes.set_yscale("log")
    label_steps(rows[-1], "step (batches consumed)")
    # One legend for all panels: a curve means the same in each.
    lines = {str(line.get_label()): line for axes in rows for line in axes.lines}
    if lines:
        labels = sorted(lines, key=lambda label: label == "not finite")
        handles = [lines[label] for label in labels]
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize="small")
    return figure


def _is_drawn(name: str, column: Tensor) -> bool:
    return name not in {"step", "eval/step"} and column.ndim == 1 and not column.is_complex()


def _curve(history: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """The steps and the values of a metric; finite ones are float64, all others nan."""
    index = "eval/step" if name.startswith("eval/") else "step"
    if index not in history or len(history[index]) != len(history[name]):
        there = f"has {len(history[index])}" if index in history else "is not there"
        raise StructureError(f"history: {name!r} has {len(history[name])} entries, {index!r} {there}. One a step.")
    values = history[name].detach().to("cpu", torch.float64)
    return history[index].cpu(), torch.where(torch.isfinite(values), values, torch.nan)


def _draw_training(axes: "Axes", steps: Tensor, values: Tensor, smooth: int | None) -> None:
    window = max(1, len(values) // 20) if smooth is None else smooth
    if window == 1:
        marker = "o" if len(values) < 2 else ""
        axes.plot(steps.tolist(), values.tolist(), color=BLUE, linewidth=1.4, marker=marker, label="each step")
    else:
        axes.plot(steps.tolist(), values.tolist(), color=BLUE, alpha=0.3, linewidth=0.7, label="each step")
        means = running_mean(values, window).tolist()
        axes.plot(steps.tolist(), means, color=BLUE, linewidth=1.8, label=f"mean over {window} steps")
    _mark_gaps(axes, steps[values.isnan()])


def _draw_evaluations(axes: "Axes", steps: Tensor, values: Tensor) -> None:
    xs, ys = steps.tolist(), values.tolist()
    axes.plot(xs, ys, color=VERMILION, linewidth=0.9, marker="o", markersize=4.5, label="evaluation")
    _mark_gaps(axes, steps[values.isnan()])


def _mark_gaps(axes: "Axes", steps: Tensor) -> None:
    if len(steps):
        feet = axes.get_xaxis_transform()  # x in steps, y as a fraction of the panel
        xs, ys = steps.tolist(), [0.0] * len(steps)
        (marks,) = axes.plot(xs, ys, "x", color="black", markersize=5.0, transform=feet, label="not finite")
        marks.set_clip_on(False)


def _label(axes: "Axes", name: str) -> None:
    soften(axes)
    axes.set_ylabel(name)
    if not axes.lines:
        axes.text(0.5, 0.5, "nothing recorded", color=GRAY, ha="center", va="center", transform=axes.transAxes)


def running_mean(values: Tensor, window: int) -> Tensor:
    """The mean of the finite values in a window around each, shorter at both ends; nan where there is none.

    A window is the end of one block of its length and the beginning of the next. Differences of one long running sum
    would be wrong for good after a single huge value.
    """
    there = torch.isfinite(values)
    columns = torch.stack([torch.where(there, values, 0.0), there]).double()
    length, before = len(values), window // 2
    num_blocks = length // window + 2
    blocks = pad(columns, (before, num_blocks * window - length - before)).reshape(2, num_blocks, window)
    ends = blocks.flip(2).cumsum(2).flip(2).flatten(1)
    beginnings = pad(blocks.cumsum(2)[..., :-1], (1, 0)).flatten(1)
    sums, counts = ends[:, :length] + beginnings[:, window : window + length]
    return sums / counts


def schedule(schedule: Schedule | Mapping[str, Schedule], num_steps: int) -> "Figure":
    """Draw one schedule or several.

    Args:
        schedule: A function from a step to a value, or a mapping from name to such a function.
        num_steps: How far to draw, in updates, at least 1. At most a thousand of them are evaluated.

    Returns:
        A matplotlib figure, unknown to pyplot.

    Raises:
        HyperparameterError: num_steps is less than 1.
        StructureError: what was given is no function.
        ImportError: matplotlib is not installed.

    Example:
        >>> import functional_train as ft, torch
        >>> figure = ft.plot.schedule(ft.schedules.warmup_cosine(0.1, 10, 100), 100)
        >>> figure.axes[0].get_xlabel()
        'step (updates applied)'
    """
    if num_steps < 1:
        raise HyperparameterError(f"num_steps must be at least 1, got {num_steps}.")
    named = schedule if isinstance(schedule, Mapping) else {"": schedule}
    for name, schedule_fn in named.items():
        if not callable(schedule_fn):
            raise StructureError(
                f"{name or 'schedule'} is {schedule_fn!r}, no function of a step. A number that stays is "
                f"ft.schedules.constant({schedule_fn!r})."
            )
    # One at a time: a schedule need not take many steps at once.
    steps = torch.linspace(0, num_steps, min(num_steps, _MOST_POINTS) + 1, dtype=torch.float64).round().long()

    figure = make_figure(6.8, 2.8)
    axes = figure.subplots()
    for position, (name, schedule_fn) in enumerate(named.items()):
        values = [float(schedule_fn(step)) for step in steps]
        color, dashes = COLORS[position % len(COLORS)], ("-", "--", ":", "-.")[position // len(COLORS) % 4]
        axes.plot(steps.tolist(), values, color=color, linestyle=dashes, linewidth=1.8, label=name)
    soften(axes)
    label_steps(axes, "step (updates applied)")
    axes.set_ylabel("value")
    if any(named):
        axes.legend(frameon=False, fontsize="small")
    return figure
