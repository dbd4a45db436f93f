"""What a trace is valid for: layouts of the arguments, and what became of them since."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.values._calls import arguments_by_name, leaves_by_name
from functional_train.values._settings import SETTINGS
from functional_train.values.errors import CompileError, StructureError

_ANY_LENGTH = "any length"
_KINDS = frozenset({Tensor, torch.nn.Parameter})


def layouts(leaves: Sequence[Any]) -> tuple[Any, ...]:
    """What a graph knows about each leaf: the layout of a tensor, and all of anything else."""
    return tuple([
        (leaf.shape, leaf.stride(), leaf.dtype, leaf.device)
        if type(leaf) in _KINDS and leaf.layout is torch.strided
        else _constant(leaf)
        for leaf in leaves
    ])  # fmt: skip


def resolved(leaves: list[Any]) -> list[Any]:
    """Leaves whose numbers are what their memory holds, where a view says "conjugate" or "negative" instead."""
    if not any(isinstance(leaf, Tensor) and (leaf.is_conj() or leaf.is_neg()) for leaf in leaves):
        return leaves
    return [leaf.resolve_conj().resolve_neg() if isinstance(leaf, Tensor) else leaf for leaf in leaves]


def lengths_aside(layouts: Sequence[Any]) -> tuple[Any, ...]:
    """The same layouts, where the first dimension of a tensor may be any number but 0 and 1, which are special."""
    return tuple([
        ((_ANY_LENGTH, *layout[0][1:]), *layout[1:]) if has_length(layout) else layout for layout in layouts
    ])  # fmt: skip


def has_length(layout: Any) -> bool:
    """Whether a layout is that of a tensor whose first dimension is larger than 1."""
    return len(layout) == 4 and len(layout[0]) > 0 and layout[0][0] > 1


def is_open(layout: Any) -> bool:
    """Whether the first dimension of a layout was put aside."""
    return len(layout) == 4 and layout[0][:1] == (_ANY_LENGTH,)


class _Unsuited(NamedTuple):
    """The layout of what no variant is made for, and why."""

    error: type[CompileError | StructureError]
    reason: str


def check_suited(found: Sequence[Any], paths: Sequence[str]) -> None:
    """Raise for the first leaf that no variant is made for."""
    for layout, path in zip(found, paths, strict=True):
        if isinstance(layout, _Unsuited):
            raise layout.error(f"{path!r} is {layout.reason}")


def _constant(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        kind = (
            f"a {type(leaf).__name__}, a subclass of Tensor" if type(leaf) not in _KINDS else f"a {leaf.layout} tensor"
        )
        return _Unsuited(CompileError, f"{kind}, which cannot be compiled. Pass a plain, dense tensor.")
    try:
        hash(leaf)
    except TypeError:
        name = type(leaf).__name__
        way = "Pass torch.from_numpy(array)." if name == "ndarray" else "Pass tensors."
        return _Unsuited(StructureError, f"a {name}: neither a tensor nor a constant that can be hashed. {way}")
    # Two zeros are equal, and what is no number is not equal to itself.
    if isinstance(leaf, float) and (leaf == 0 or leaf != leaf):
        return type(leaf), repr(leaf)
    return type(leaf), leaf


def paths_of(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[str]:
    """The path of each leaf of a call's arguments, which begins with the parameter's name."""
    return [path for path, _ in leaves_by_name(arguments_by_name(fn, args, kwargs))]


def differences(old: Sequence[Any], new: Sequence[Any], names: Sequence[str] = SETTINGS) -> Iterator[str]:
    """Say which entries differ, old and new."""
    for name, before, after in zip(names, old, new, strict=False):
        if before != after:
            yield f"{name} was {_readable(before)} and is {_readable(after)}"


def _readable(entry: Any) -> str:
    if isinstance(entry, tuple) and len(entry) == 4 and isinstance(entry[2], torch.dtype):
        shape, stride, dtype, device = entry
        sizes = repr(tuple(shape)).replace(repr(_ANY_LENGTH), _ANY_LENGTH)
        return f"{str(dtype).removeprefix('torch.')} {sizes} with strides {tuple(stride)} on {device}"
    return repr(entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry)


def shortened(structure: Any) -> str:
    """What a message says of a structure."""
    text = str(structure).removeprefix("PyTreeSpec")
    return text if len(text) <= 120 else f"{text[:117]}..."
