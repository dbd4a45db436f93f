"""What an operation is given, as its schema says it."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


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
