"""The arguments of a call by the names that a function gives them."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from functional_train.values.tree._structure import items


def arguments_by_name(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[tuple[str, Any]]:
    """Pairs of name and argument, those given by position first, then those given by name in sorted order."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    named = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    named += [f"argument {place}" for place in range(len(named), len(args))]
    return [*zip(named, args, strict=False), *sorted(kwargs.items())]


def leaves_by_name(named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The leaves of named trees with their paths, which begin with the name."""
    for name, tree in named:
        for path, leaf in items(tree):
            yield f"{name}/{path}" if path else name, leaf
