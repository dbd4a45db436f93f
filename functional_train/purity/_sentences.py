"""A record of effects in sentences."""

from collections.abc import Mapping, Sequence

from functional_train.purity._table import READ, Group


def describe(
    groups: Sequence[Group],
    records: Mapping[str, Mapping[str, frozenset[str]]],
    calls: Mapping[str, frozenset[str]],
    watched_modules: Sequence[str],
) -> str:
    """One sentence for each phase.

    Args:
        groups: What was watched, alike in one.
        records: By phase and name, what happened.
        calls: By phase, the modules that were called.
        watched_modules: All that could have been called.
    """
    return "\n".join(
        _sentence(phase, groups, record, [name for name in watched_modules if name in calls[phase]])
        for phase, record in records.items()
    )


def _sentence(phase: str, groups: Sequence[Group], record: Mapping[str, frozenset[str]], called: list[str]) -> str:
    read = _phrases(groups, frozenset(name for name, kinds in record.items() if READ in kinds))
    written = _phrases(groups, frozenset(name for name, kinds in record.items() if kinds - {READ}))
    # Behind the last of what a module holds.
    for group in {group.module: group for group in written if group.module and group.module not in called}.values():
        written[group] += f" (the {group.module} was not called)"
    clauses = [
        f"{verb} {_listed(names)}"
        for verb, names in (("called", called), ("read", [*read.values()]), ("wrote", [*written.values()]))
        if names
    ]
    return f"`{phase}` {_listed(clauses) or 'read and wrote nothing'}."


def _phrases(groups: Sequence[Group], names: frozenset[str]) -> dict[Group, str]:
    """How to say the names, by group."""
    phrases: dict[Group, str] = {}
    for group in groups:
        num_found = sum(name in names for name in group.names)
        if num_found and len(group.names) == 1:
            phrases[group] = group.names[0]
        elif num_found:
            some = "" if num_found == len(group.names) else f"{num_found} of "
            phrases[group] = f"{group.label} ({some}{len(group.names)} {group.role})"
    return phrases


def _listed(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
