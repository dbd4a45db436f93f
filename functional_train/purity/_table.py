"""A record of effects as a table of text or HTML, its rows grouped by module."""

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from functional_train.purity._watch import VALUES, Place

KINDS = ("appeared", "changed", "rebound", "disappeared")
Changes = Mapping[str, Mapping[str, frozenset[str]]]  # phase -> name -> kinds


class Row(NamedTuple):
    """One line of the table, for one place or several alike."""

    label: str
    size: int  # how many places
    cells: tuple[Mapping[str, int], ...]  # one a phase: kind -> in how many of the places


class EffectsTable(NamedTuple):
    """Rows are what was watched, columns are phases."""

    phases: tuple[str, ...]
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        lines = [["", *self.phases]]
        lines += [[row.label, *[_text(cell, row.size) or "." for cell in row.cells]] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        line, left = "border-bottom: 1px solid rgba(128, 128, 128, 0.3)", "text-align: left"
        head = "".join(f'<th style="{left}"><code>{html.escape(phase)}</code></th>' for phase in self.phases)
        rows = "".join(
            f'<tr style="{line}"><td style="{left}"><code>{html.escape(row.label)}</code></td>'
            + "".join(f'<td style="{left}">{_text(cell, row.size)}</td>' for cell in row.cells)
            + "</tr>"
            for row in self.rows
        )
        return f'<table><thead><tr style="{line}"><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _text(cell: Mapping[str, int], size: int) -> str:
    """What happened in a cell: "changed", or "changed 3/12" when that is true of 3 places of 12."""
    return ", ".join(
        kind if cell[kind] == size else f"{kind} {cell[kind]}/{size}" for kind in KINDS if cell.get(kind, 0)
    )


def make_table(places: Sequence[Place], changes: Changes, max_rows: int) -> EffectsTable:
    """Lay out a record; the finest grouping that keeps to `max_rows`, or the coarsest there is."""
    written = {name for changed in changes.values() for name in changed}
    depths = range(max((place.path.count(".") + place.path.count("/") + 1 for place in places), default=0), -1, -1)
    rows: tuple[Row, ...] = ()
    for depth in depths:
        rows = _rows(places, changes, written, depth)
        if len(rows) <= max_rows:
            break
    return EffectsTable(tuple(changes), rows)


def _group(place: Place, depth: int) -> str:
    """The name with all but the first `depth` parts of its path as a star."""
    parts = re.split(r"(?<=[./])", place.path)
    if len(parts) <= depth:
        return place.name
    # The moments that an optimizer keeps of one parameter share its fate.
    closing = "]" if place.closing.startswith("]") else place.closing
    return f"{place.opening}{''.join(parts[:depth])}*{closing}"


def _rows(places: Sequence[Place], changes: Changes, written: set[str], depth: int) -> tuple[Row, ...]:
    groups: dict[tuple[str, str], list[str]] = {}
    for place in places:
        # Numbers that nobody wrote to, such as an optimizer's flags, would fill the table with nothing.
        is_idle = place.role == VALUES and place.name not in written
        groups.setdefault((_group(place, 0 if is_idle else depth), place.role), []).append(place.name)
    return tuple(
        Row(
            names[0] if len(names) == 1 else f"{label}: {len(names)} {role}",
            len(names),
            tuple(Counter(kind for name in names for kind in changed.get(name, ())) for changed in changes.values()),
        )
        for (label, role), names in groups.items()
    )
