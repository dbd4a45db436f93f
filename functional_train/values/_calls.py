"""The arguments of a call by the names that a function gives them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


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
