"""A record of effects as a table of text or HTML, its rows grouped by module."""

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from functional_train.purity._watch import BUFFERS, PARAMETERS, VALUES, Place

READ = "read"
KINDS = (READ, "appeared", "changed", "rebound", "disappeared")
Records = Mapping[str, Mapping[str, frozenset[str]]]  # phase -> name -> kinds
_WIDEST = 30  # characters of a column's title


class Group(NamedTuple):
    """Places alike: one, or those of one role in one part of an object."""

    label: str
    role: str
    module: str  # that holds them as its parameters or buffers; "" where none does
    names: tuple[str, ...]


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
        titles = [["", *line] for line in zip_longest(*map(wrapped, self.phases), fillvalue="")]
        lines = titles or [[""]]
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


def wrapped(phase: str) -> list[str]:
    """The title of a column, in lines that break at spaces and within long names."""
    lines = [""]
    for piece in re.findall(r".+?(?:[ (.](?!\))|$)", phase, re.DOTALL):
        if lines[-1] and len(f"{lines[-1]}{piece}".rstrip()) > _WIDEST:
            lines.append("")
        lines[-1] += piece
    return [line.strip() for line in lines]


def make_groups(places: Sequence[Place], records: Records, max_rows: int) -> list[Group]:
    """The finest grouping that keeps to `max_rows`, or the coarsest there is."""
    touched = frozenset(name for record in records.values() for name in record)
    depths = range(max((place.path.count(".") + place.path.count("/") + 1 for place in places), default=0), -1, -1)
    groups: list[Group] = []
    for depth in depths:
        groups = _groups(places, touched, depth)
        if len(groups) <= max_rows:
            break
    return groups


def make_table(places: Sequence[Place], records: Records, max_rows: int) -> EffectsTable:
    """Lay out a record."""
    return EffectsTable(
        tuple(records),
        tuple(
            Row(
                group.names[0] if len(group.names) == 1 else f"{group.label}: {len(group.names)} {group.role}",
                len(group.names),
                tuple(Counter(kind for name in group.names for kind in one.get(name, ())) for one in records.values()),
            )
            for group in make_groups(places, records, max_rows)
        ),
    )


def _groups(places: Sequence[Place], touched: frozenset[str], depth: int) -> list[Group]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for place in places:
        # Numbers that nobody wrote to, such as an optimizer's flags, would fill the table with nothing.
        is_idle = place.role == VALUES and place.name not in touched
        module = place.opening.rstrip(".") if place.role in {PARAMETERS, BUFFERS} else ""
        groups.setdefault((_label(place, 0 if is_idle else depth), place.role, module), []).append(place.name)
    return [Group(*key, tuple(names)) for key, names in groups.items()]


def _label(place: Place, depth: int) -> str:
    """The name with all but the first `depth` parts of its path as a star."""
    parts = re.split(r"(?<=[./])", place.path)
    if len(parts) <= depth:
        return place.name
    # The moments that an optimizer keeps of one parameter share its fate.
    closing = "]" if place.closing.startswith("]") else place.closing
    return f"{place.opening}{''.join(parts[:depth])}*{closing}"
