"""A figure that nobody but the caller knows of, and the colors of all pictures."""

import io
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, which people with any kind of color vision tell apart.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
GRAY = "#808080"


def make_figure(width: float, height: float) -> "Figure":
    """Make an empty figure of a size in inches.

    It is made without pyplot, which would keep it, and show it a second time at the end of a notebook cell.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("ft.plot needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    # Notebooks ask the object itself, whatever backend there is and whether pyplot was ever imported.
    vars(figure)["_repr_png_"] = partial(_as_png, figure)
    return figure


def _as_png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    # Without the name and version of matplotlib, equal pictures are equal files.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def soften(axes: "Axes") -> None:
    """Put a light grid behind the data, and no frame on the sides without numbers."""
    axes.grid(visible=True, color=GRAY, alpha=0.2, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def label_steps(axes: "Axes", label: str) -> None:
    """Count along the x axis in whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1))
