"""Plain Python values as JSON and back: keys, static fields, and leaves that are no tensors."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from functional_train.values.errors import CheckpointError, StructureError


def name_of_dtype(dtype: torch.dtype) -> str:
    """A dtype as torch prints it, without `torch.`."""
    return str(dtype).removeprefix("torch.")


def dtype_named(name: str) -> torch.dtype:
    """The dtype that torch prints as `torch.<name>`."""
    found = getattr(torch, name, None) if isinstance(name, str) else None  # pyright: ignore[reportUnnecessaryIsInstance]
    if not isinstance(found, torch.dtype):
        raise CheckpointError(f"{name!r} is no dtype of this torch.")
    return found


_UNNAMED = "unnamed"
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
# Tag -> the type, to JSON, and back. What JSON has itself needs no tag.
_TAGGED: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "float": (float, repr, _FLOATS.__getitem__),
    "complex": (complex, lambda v: [encode(v.real), encode(v.imag)], lambda j: complex(*[float(decode(x)) for x in j])),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
    "tuple": (tuple, lambda v: [encode(x) for x in v], lambda j: tuple([decode(x) for x in j])),
    "size": (torch.Size, list, torch.Size),
    "frozenset": (frozenset, lambda v: sorted([encode(x) for x in v], key=repr), lambda j: frozenset(map(decode, j))),
    "dtype": (torch.dtype, name_of_dtype, dtype_named),
    "device": (torch.device, str, torch.device),
}


def is_plain_value(value: object) -> bool:
    """Whether a value can be written as it is, its type included."""
    if type(value) in (tuple, frozenset):
        return all(is_plain_value(item) for item in value)  # pyright: ignore[reportGeneralTypeIssues]
    return value is None or type(value) in (bool, int, str, *[cls for cls, *_ in _TAGGED.values()])


def encode(value: Any, where: str = "a value") -> Any:
    """Write a value as JSON that tells 1 from 1.0 and from True.

    Args:
        value: None, a bool, number, string, bytes, dtype, device, or a tuple or frozenset of those.
        where: What the value is, for the error.
    """
    if not is_plain_value(value):
        raise StructureError(
            f"{where} is a {type(value).__qualname__}, which cannot be written as plain data: {value!r:.80}. Saved are "
            "tensors, None, bool, int, float, complex, str, bytes, torch.dtype and torch.device, and tuples of those; "
            "save what the value is made from, or leave it out."
        )
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    return next({tag: write(value)} for tag, (cls, write, _) in _TAGGED.items() if type(value) is cls)


class Unnamed(NamedTuple):
    """What a file says of a static value that load compares and never makes."""

    described: Any


def encode_static(value: Any, where: str) -> Any:
    """Write the value of a static field; classes, and NamedTuples, are described so that they can be compared."""
    return encode(value, where) if is_plain_value(value) else {_UNNAMED: _described(value, where)}


def _described(value: Any, where: str) -> Any:
    if isinstance(value, type):
        return [f"{value.__module__}:{value.__qualname__}"]
    if isinstance(value, tuple):
        return [type(value).__qualname__, *[_described(item, where) for item in value]]
    return encode(value, where)


def decode(json: Any) -> Any:
    """The value that `encode` wrote."""
    if json is None or isinstance(json, bool | int | float | str):
        return json
    if isinstance(json, dict) and len(json) == 1:
        tag, content = next(iter(json.items()))
        if tag == _UNNAMED:
            return Unnamed(repr(content))
        if tag in _TAGGED:
            try:
                return _TAGGED[tag][2](content)
            except (TypeError, ValueError, KeyError, RuntimeError, OverflowError) as error:
                raise CheckpointError(f"{json!r:.80} is no {tag}: {error}") from error
    raise CheckpointError(f"{json!r:.80} is no plain value.")
