"""What an operation is given, as its schema says it."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

# What Python or NumPy made becomes a tensor without an operation; these come right after.
LIFTED = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default)


def name_of(func: Any) -> str:
    """The name of an operation, without its overload."""
    return func._schema.name.partition("::")[2]


def given_by_name(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What an operation is given, by the names of its schema; without defaults."""
    return {**dict(zip([argument.name for argument in func._schema.arguments], args, strict=False)), **kwargs}


def operands(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[Tensor, bool]]:
    """The tensors in a call of an operation, those in lists too, each with whether the schema says that it is written.

    Args:
        func: An overload of an operation, as a dispatch mode sees it.
        args: Its positional arguments.
        kwargs: Its arguments by name.
    """
    for place, argument in enumerate(func._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        for tensor in value if isinstance(value, list | tuple) else (value,):
            if isinstance(tensor, Tensor):
                yield tensor, is_written
