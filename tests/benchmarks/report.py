"""Figures for people and for programs, and whether they meet the bars."""

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.figures import Figures

HEADER = ("workload", "system", "ms/step", "ratio", "90 %", "cpu ratio", "peak MB", "beyond imports")


class Bar(NamedTuple):
    """A promise: the system's ratio to the other is at most so much, in time or in another figure."""

    workload: str
    system: str
    other: str
    most: float
    figure: str = "milliseconds"


_VERBS = {"milliseconds": "takes", "peak": "has a peak of", "beyond_imports": "needs, beyond its imports,"}


def judge(bars: Sequence[Bar], rows: Sequence[Figures]) -> tuple[list[str], bool]:
    """Say of each bar whether it is met; what was not measured is missed."""
    measured = {(row.workload, row.system): row for row in rows}
    lines: list[str] = []
    for bar in bars:
        own, other = (measured.get((bar.workload, name)) for name in (bar.system, bar.other))
        promise = f"{bar.workload}: {bar.system} {_VERBS[bar.figure]} at most {bar.most:.2f} of {bar.other}"
        if own is None or other is None:
            lines.append(f"MISSED  {promise}, which was not measured")
        else:
            ratio = getattr(own, bar.figure) / getattr(other, bar.figure)
            lines.append(f"{'met   ' if ratio <= bar.most else 'MISSED'}  {promise}: {ratio:.3f}")
    return lines, not any(line.startswith("MISSED") for line in lines)


def table(rows: Sequence[Figures]) -> str:
    """Lay figures out in columns."""
    cells = [
        HEADER,
        *(
            (
                row.workload,
                row.system,
                f"{row.milliseconds:.3f}",
                f"{row.ratio:.3f}",
                f"{row.low:.2f}..{row.high:.2f}",
                f"{row.cpu_ratio:.3f}",
                f"{row.peak:.0f}",
                f"{row.beyond_imports:.1f}",
            )
            for row in rows
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    )


def save_json(path: Path, rows: Sequence[Figures], settings: Mapping[str, object], bars: Sequence[str]) -> None:
    """Write everything to a file."""
    content = {"settings": settings, "figures": [row._asdict() for row in rows], "bars": bars}
    path.write_text(json.dumps(content, indent=2) + "\n")


def surroundings() -> dict[str, object]:
    """What timings depend on besides the code."""
    return {"torch": version("torch"), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
