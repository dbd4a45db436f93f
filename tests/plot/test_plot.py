"""Pictures show what the values hold, and leave nothing behind."""

import builtins
import importlib
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import functional_train as ft
from functional_train.plot.curves import running_mean
from tests.global_rng import seeded

STEPS = torch.arange(1, 41)
FULL = ft.History(
    {
        "step": STEPS,
        "lr": 1.0 / STEPS,
        "loss": torch.where(STEPS == 7, torch.nan, 2.0 / STEPS),
        "accuracy": 1.0 - 1.0 / STEPS,
        "per_class": torch.zeros(40, 3),
        "eval/step": torch.tensor([20, 40]),
        "eval/loss": torch.tensor([0.3, torch.inf]),
        "eval/accuracy": torch.tensor([0.5, 0.75]),
        "eval/bleu": torch.tensor([1, 2]),
    }
)


def some_effects(*, write: bool = True) -> ft.Effects:
    with seeded():
        model = nn.Linear(2, 1)
    with ft.record_effects(model=model) as effects:
        with effects.phase("backward"):
            model(torch.ones(1, 2)).sum().backward() if write else None
        with effects.phase("step"), torch.no_grad():
            model.weight.add_(1.0) if write else None
    return effects


STEP = {("step", "model.weight")}
WAY = [torch.zeros(2), torch.tensor([torch.nan, 0.0])]


def bowl(point: torch.Tensor) -> torch.Tensor:
    return point.square().sum()


FIGURES: dict[str, Callable[[], Any]] = {
    "history": lambda: ft.plot.history(FULL),
    "log history": lambda: ft.plot.history(FULL, yscale="log", smooth=1),
    "empty history": lambda: ft.plot.history(ft.History({})),
    "empty log history": lambda: ft.plot.history({}, yscale="log"),
    "no steps": lambda: ft.plot.history({"step": torch.zeros(0), "loss": torch.zeros(0)}),
    "one point": lambda: ft.plot.history({"step": torch.tensor([1]), "loss": torch.tensor([0.5])}),
    "only nan": lambda: ft.plot.history({"step": STEPS, "loss": torch.full((40,), torch.nan)}, yscale="log"),
    "schedule": lambda: ft.plot.schedule(ft.schedules.cosine(0.1, 10), 10),
    "effects": lambda: ft.plot.effects(some_effects()),
    "grouped effects": lambda: ft.plot.effects(some_effects(), max_rows=1),
    "compare": lambda: ft.plot.compare({"a": torch.tensor([1.0, torch.nan, 0.5]), "b": torch.ones(2)}, yscale="log"),
    "trajectories": lambda: ft.plot.trajectories(bowl, {"a": torch.tensor([[1.0, 1.0], [0.0, 0.5]]), "still": WAY}),
    "no writes": lambda: ft.plot.effects(some_effects(write=False)),
}


def pairs(names_by_phase: Any) -> set[tuple[str, str]]:
    """Phases and names of a record."""
    return {(phase, name) for phase, names in names_by_phase.items() for name in names}


def texts(figure: Any) -> list[str]:
    """What the legends of a figure say."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_can_be_drawn_and_pyplot_never_hears_of_them(name: str) -> None:
    """Every figure renders without a warning, and pyplot has no figure open."""
    assert FIGURES[name]()._repr_png_().startswith(b"\x89PNG")
    assert importlib.import_module("matplotlib.pyplot").get_fignums() == []


def test_pictures_are_reproducible_and_can_be_pickled() -> None:
    """The same value gives the same bytes, and a figure survives a trip to another process."""
    figure = FIGURES["schedule"]()
    assert figure._repr_png_() == FIGURES["schedule"]()._repr_png_()
    assert pickle.loads(pickle.dumps(figure))._repr_png_().startswith(b"\x89PNG")


def test_a_notebook_shows_the_picture() -> None:
    """What IPython asks of the last value of a cell gives the picture, though pyplot does not know the figure."""
    formatters = importlib.import_module("IPython.core.formatters")
    assert formatters.PNGFormatter()(FIGURES["schedule"]()).startswith(b"\x89PNG")


def test_history_has_a_panel_for_each_metric() -> None:
    """The loss comes first, evaluations lie in the panel of their metric, and vectors are left out."""
    figure = ft.plot.history(FULL, smooth=5)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "lr", "accuracy", "bleu"]
    assert figure.axes[-1].get_xlabel() == "step (batches consumed)"
    assert texts(figure) == ["each step", "mean over 5 steps", "evaluation", "not finite"]
    loss, _, accuracy, bleu = (
        {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
        for axes in figure.axes
    )
    assert accuracy["each step"] == (STEPS.tolist(), FULL["accuracy"].double().tolist())
    assert accuracy["evaluation"] == ([20, 40], [0.5, 0.75])
    assert list(bleu) == ["evaluation"]
    gaps = [list(line.get_xdata()) for line in figure.axes[0].lines if line.get_label() == "not finite"]
    assert gaps == [[7], [40]]
    assert loss["mean over 5 steps"][1][6] == pytest.approx(float(FULL["loss"][[4, 5, 7, 8]].mean()))


def test_history_is_smoothed_over_a_twentieth_or_as_asked() -> None:
    """Short runs are drawn as they are; the scale is that of the loss alone."""
    figure = ft.plot.history(FULL, yscale="log")
    assert "mean over 2 steps" in texts(figure)
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear", "linear"]
    assert texts(ft.plot.history({"step": STEPS[:10], "loss": torch.ones(10)})) == ["each step"]
    (words,) = ft.plot.history(ft.History({})).axes[0].texts
    assert words.get_text() == "nothing recorded"


@given(st.lists(st.floats(-1e3, 1e3) | st.sampled_from([float("nan"), 1e30]), max_size=12), st.integers(1, 15))
def test_running_mean(numbers: list[float], window: int) -> None:
    """The running mean is the mean of the finite values at most half a window away, also beside a huge one."""
    values = torch.tensor(numbers, dtype=torch.float64)
    near = [values[max(0, at - window // 2) : at + (window + 1) // 2].nanmean() for at in range(len(values))]
    expected = torch.stack(near) if near else values
    torch.testing.assert_close(running_mean(values, window), expected, rtol=1e-12, atol=1e-9, equal_nan=True)


def test_schedule_draws_what_the_schedule_says() -> None:
    """Values are those of the schedule at whole steps, both ends included; many steps are thinned out."""
    schedule = ft.schedules.linear(1.0, 0.0, 10)
    (line,) = ft.plot.schedule(schedule, 4).axes[0].lines
    assert list(line.get_xdata()) == [0, 1, 2, 3, 4]
    assert list(line.get_ydata()) == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])
    (line,) = ft.plot.schedule(schedule, 123_456).axes[0].lines
    assert len(line.get_xdata()) == 1001
    assert line.get_xdata()[-1] == 123_456


def test_schedules_by_name() -> None:
    """A mapping gives a legend, and a schedule may branch in Python."""
    figure = ft.plot.schedule({f"drop at {at}": lambda step, at=at: 1.0 if step < at else 0.1 for at in range(8)}, 8)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"drop at {at}" for at in range(8)]
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 8


def marks_of(figure: Any, *, left: bool) -> set[tuple[str, str]]:
    """Phase and row of each mark on the left side of its column, or on the right."""
    (axes,) = figure.axes
    rows = [label.get_text() for label in axes.get_yticklabels()]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    found: set[tuple[str, str]] = set()
    for line in axes.lines:
        x, y = line.get_xdata()[0], line.get_ydata()[0]
        if (x < round(x)) == left:
            found.add((columns[round(x)], rows[y]))
    return found


def test_effects_mark_each_read_and_each_write() -> None:
    """Rows are what was watched, columns phases, with marks on the left for reads and on the right for writes."""
    effects = some_effects()
    figure = ft.plot.effects(effects)
    (axes,) = figure.axes
    rows = [label.get_text() for label in axes.get_yticklabels()]
    columns = [label.get_text() for label in axes.get_xticklabels()]
    assert (tuple(rows), tuple(columns)) == (effects.watched, effects.phases)
    assert marks_of(figure, left=True) == {("backward", "model.weight"), ("backward", "model.bias"), *STEP}
    assert marks_of(figure, left=True) == pairs(effects.reads)
    assert (
        marks_of(figure, left=False) == {("backward", f"{name}.grad") for name in ("model.weight", "model.bias")} | STEP
    )
    assert marks_of(figure, left=False) == pairs(effects.writes)
    looks = {(line.get_marker(), line.get_color()) for line in axes.lines}
    assert len(looks) == len(dict(looks)) == len(texts(figure)) == 3
    assert texts(figure) == ["read", "appeared", "changed"]


def test_long_titles_are_broken_into_lines() -> None:
    """The title of a column is no wider than thirty characters, unless a name is, and no text lies on another."""
    weight, titles = (
        torch.ones(2),
        ["total = torch.nn.functional.mse_loss(weight, weight)", "a" * 40, "short", "b " * 30],
    )
    with ft.record_effects(weight=weight) as effects:
        for title in titles:
            with effects.phase(title):
                weight.sum()
    figure = ft.plot.effects(effects)
    labels = figure.axes[0].get_xticklabels()
    assert labels[0].get_text() == "total = torch.nn.functional.\nmse_loss(weight, weight)"
    assert [label.get_text().replace("\n", " ").split() for label in labels[1:]] == [t.split() for t in titles[1:]]
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in (*labels, *figure.axes[0].get_yticklabels())]
    assert not any(one.overlaps(other) for place, one in enumerate(boxes) for other in boxes[:place])
    assert str(effects).splitlines()[0].split() == ["total", "=", "torch.nn.functional.", "a" * 40, "short", *"b" * 15]


def test_effects_of_a_part_are_hollow() -> None:
    """A group of which only some were read or written to has a hollow mark, and the legend says so."""
    figure = ft.plot.effects(some_effects(), max_rows=1)
    faces = {line.get_markerfacecolor() == "none" for line in figure.axes[0].lines}
    assert faces == {False, True}
    assert texts(figure)[-1] == "hollow: some of them"


def test_pure_effects_say_so() -> None:
    """A picture without writes says so, with reads and without them."""
    figure = ft.plot.effects(some_effects(write=False))
    assert not figure.axes[0].lines
    assert texts(figure) == ["no writes"]
    weight = torch.ones(2)
    with ft.record_effects(weight=weight) as effects, effects.phase("sum"):
        weight.sum()
    figure = ft.plot.effects(effects)
    assert marks_of(figure, left=True) == {("sum", "weight")}
    assert marks_of(figure, left=False) == set()
    assert texts(figure) == ["read", "no writes"]


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "smooth": (lambda: ft.plot.history(FULL, smooth=0), ft.HyperparameterError, "smooth must be at least 1, got 0"),
    "yscale": (lambda: ft.plot.history(FULL, yscale="lin"), ft.HyperparameterError, '"linear" or "log", got \'lin\''),
    "lengths": (
        lambda: ft.plot.history({"step": STEPS, "loss": torch.ones(2)}),
        ft.StructureError,
        "'loss' has 2 entries, 'step' has 40",
    ),
    "no step": (
        lambda: ft.plot.history({"step": STEPS, "eval/loss": torch.ones(2)}),
        ft.StructureError,
        "'eval/loss' has 2 entries, 'eval/step' is not there",
    ),
    "num_steps": (
        lambda: ft.plot.schedule(ft.schedules.constant(1.0), 0),
        ft.HyperparameterError,
        "num_steps must be at least 1, got 0",
    ),
    "a number": (lambda: ft.plot.schedule({"lr": 0.1}, 5), ft.StructureError, r"lr is 0.1, .*ft.schedules.constant"),
    "max_rows": (
        lambda: ft.plot.effects(some_effects(), max_rows=0),
        ft.StructureError,
        "max_rows must be at least 1",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_arguments_are_refused(name: str) -> None:
    """Each bad argument has a message with the value and the rule."""
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        call()


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where matplotlib is missing, the error says what to install."""
    import_module = builtins.__import__

    def without_matplotlib(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return import_module(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    for name in ("history", "schedule", "effects"):
        with pytest.raises(ImportError, match=r"ft\.plot needs matplotlib: pip install matplotlib"):
            FIGURES[name]()
