"""`Params`: an immutable mapping from dotted names to tensors."""

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from torch import Tensor

from functional_train.values.errors import ImmutableError, StructureError
from functional_train.values.tree._structure import register_node, register_shallow

_MOST_ROWS = 40


class Params(Mapping[str, Any]):
    """An immutable mapping from dotted parameter name to tensor, in the order it was given.

    It is a pytree node, for optree and for torch. A changed copy is `params | {"layer.bias": new}`.

    Args:
        mapping: Names and tensors. The mapping is copied, the tensors are not.

    Raises:
        StructureError: a name is not a string.
        ImmutableError: when written to.

    Example:
        >>> import functional_train as ft, torch
        >>> params = ft.Params({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
        >>> params
        Params of 2 tensors, 8 elements, 32 B
          weight  (2, 3)  float32
          bias    (2,)    float32
        >>> (params | {"bias": torch.ones(2)})["bias"]
        tensor([1., 1.])
    """

    __slots__ = ("__weakref__", "_tensors")

    _tensors: dict[str, Any]

    def __init__(self, mapping: Mapping[str, Any] | None = None) -> None:
        tensors = dict(mapping or {})
        for name in tensors:
            if not isinstance(name, str):
                raise StructureError(f"names of Params are strings, got {name!r} ({type(name).__name__}).")
        object.__setattr__(self, "_tensors", tensors)

    def __getitem__(self, name: str) -> Any:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __or__(self, other: Mapping[str, Any]) -> "Params":
        return Params({**self._tensors, **other})

    def __reduce__(self) -> tuple[type["Params"], tuple[dict[str, Any]]]:
        return Params, (dict(self._tensors),)

    # Tensors have no single truth value, so two Params are equal only when they are one object.
    __eq__ = object.__eq__
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def _refuse(self, name: object) -> NoReturn:
        raise ImmutableError(
            f"Params are immutable: {name!r} cannot be written or removed. "
            f"Make new ones: params | {{{name!r}: value}}, or ft.tree.partition to leave some out."
        )

    def __setitem__(self, name: str, value: object) -> NoReturn:
        self._refuse(name)

    def __delitem__(self, name: str) -> NoReturn:
        self._refuse(name)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        self._refuse(name)

    def __delattr__(self, name: str) -> NoReturn:
        self._refuse(name)

    def __repr__(self) -> str:
        tensors = [leaf for leaf in self._tensors.values() if isinstance(leaf, Tensor)]
        elements = sum(leaf.numel() for leaf in tensors)
        size = _readable_bytes(sum(leaf.numel() * leaf.element_size() for leaf in tensors))
        rows = [_row(name, leaf) for name, leaf in self._tensors.items()]
        if len(rows) > _MOST_ROWS:
            half = _MOST_ROWS // 2
            rows = [*rows[:half], (f"... {len(rows) - 2 * half} more ...", "", ""), *rows[-half:]]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(2)]
        lines = [f"  {name:<{widths[0]}}  {shape:<{widths[1]}}  {kind}".rstrip() for name, shape, kind in rows]
        return "\n".join([f"Params of {len(self)} tensors, {elements:,} elements, {size}", *lines])


def _row(name: str, leaf: Any) -> tuple[str, str, str]:
    if not isinstance(leaf, Tensor):
        return name, repr(leaf), ""
    place = "" if leaf.device.type == "cpu" else f" on {leaf.device}"
    return name, str(tuple(leaf.shape)), f"{str(leaf.dtype).removeprefix('torch.')}{place}"


def _readable_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _flatten(params: Params) -> tuple[tuple[Any, ...], tuple[str, ...], tuple[str, ...]]:
    tensors = params._tensors
    names = tuple(tensors)
    return tuple(tensors.values()), names, names


def _unflatten(names: tuple[str, ...], tensors: Any) -> Params:
    params = object.__new__(Params)
    object.__setattr__(params, "_tensors", dict(zip(names, tensors, strict=True)))
    return params


def _contents(params: Params) -> tuple[list[Any], tuple[str, ...]]:
    return list(params._tensors.values()), tuple(params._tensors)


register_node(Params, _flatten, _unflatten)
register_shallow(Params, _contents, lambda names: _unflatten(names, names))
