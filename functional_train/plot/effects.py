"""A picture of who read and who changed what."""

from typing import TYPE_CHECKING

from functional_train.plot._figure import BLUE, GRAY, GREEN, ORANGE, PURPLE, VERMILION, make_figure
from functional_train.purity._table import wrapped
from functional_train.purity.effects import MAX_ROWS, Effects

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_READ, _NO_WRITES, _HOLLOW = "read", "no writes", "hollow: some of them"
# Shape and color say the same, so that neither is needed.
_WRITES = {"appeared": ("^", GREEN), "changed": ("o", BLUE), "rebound": ("D", PURPLE), "disappeared": ("v", VERMILION)}
_MARKS = {_READ: ("s", ORANGE), **_WRITES, _NO_WRITES: ("none", GRAY)}


def effects(effects: Effects, *, max_rows: int = MAX_ROWS) -> "Figure":
    """Draw what each phase read and wrote to: a row for each object watched, a column for each phase, marks for both.

    Args:
        effects: What `record_effects` recorded.
        max_rows: When there would be more rows, those of one module become one. A mark is then hollow where it holds
            for some of them only.

    Returns:
        A matplotlib figure, unknown to pyplot.

    Raises:
        StructureError: max_rows is less than 1.
        ImportError: matplotlib is not installed.

    Example:
        >>> import functional_train as ft, torch
        >>> weight = torch.ones(2)
        >>> with ft.record_effects(weight=weight) as effects:
        ...     with effects.phase("weight.zero_()"):
        ...         total = weight.zero_()
        >>> figure = ft.plot.effects(effects)
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['weight.zero_()']
    """
    table = effects.table(max_rows)
    longest = max((len(row.label) for row in table.rows), default=0)
    titles = [wrapped(phase) for phase in table.phases]
    widest = max((len(line) for title in titles for line in title), default=0)
    tallest = max(map(len, titles), default=1)
    num_rows, num_phases = len(table.rows), len(table.phases)
    width = 0.8 + 0.072 * longest + max(1.0, 0.075 * widest) * max(1, num_phases)
    figure = make_figure(width, 0.95 + 0.24 * num_rows + 0.16 * tallest)
    axes = figure.subplots()

    used: dict[str, Line2D] = {}
    for y, row in enumerate(table.rows):
        for x, cell in enumerate(row.cells):
            writes = [kind for kind in _WRITES if cell.get(kind, 0)]
            # Reads on the left, writes on the right.
            places = {kind: 0.18 + 0.14 * (place - (len(writes) - 1) / 2) for place, kind in enumerate(writes)}
            places |= {_READ: -0.18} if cell.get(_READ, 0) else {}
            for kind, beside in places.items():
                is_whole = cell[kind] == row.size
                axes.add_line(_mark(kind, x + beside, y, is_whole=is_whole))
                used |= {kind: _mark(kind)} | ({} if is_whole else {_HOLLOW: _mark(kind, is_whole=False)})

    for x in range(0, num_phases, 2):
        axes.axvspan(x - 0.5, x + 0.5, color=GRAY, alpha=0.08, linewidth=0.0)
    axes.hlines(range(num_rows), -0.5, num_phases - 0.5, color=GRAY, alpha=0.2, linewidth=0.8, zorder=0)
    axes.set_xlim(-0.5, max(num_phases, 1) - 0.5)
    axes.set_ylim(max(num_rows, 1) - 0.5, -0.5)
    axes.set_xticks(range(num_phases), ["\n".join(title) for title in titles], family="monospace", fontsize="small")
    axes.set_yticks(range(num_rows), [row.label for row in table.rows], family="monospace", fontsize="small")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if used.keys().isdisjoint(_WRITES):
        used[_NO_WRITES] = _mark(_NO_WRITES)
    labels = [label for label in [*_MARKS, _HOLLOW] if label in used]
    handles = [used[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize="small")
    return figure


def _mark(kind: str, x: float = 0.0, y: float = 0.0, *, is_whole: bool = True) -> "Line2D":
    from matplotlib.lines import Line2D

    marker, color = _MARKS[kind]
    face = color if is_whole else "none"
    return Line2D([x], [y], linestyle="", marker=marker, markersize=7.0, color=color, markerfacecolor=face)
