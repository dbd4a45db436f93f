"""What an object holds at the places of a layout as codes and tensors, and back."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from functional_train.updates.torch_classes._layout import CONSTANTS, HINT, Layout, Place, is_alike, trimmed
from functional_train.updates.torch_classes._memory import (
    MAPPINGS,
    NUMBERS,
    SEQUENCES,
    Keys,
    Memory,
    Owner,
    container_of,
    walk,
)
from functional_train.values.errors import StructureError

_ABSENT, _NONE, _CONSTANT, _EMPTY, _TENSOR = range(5)
_TYPES = dict(enumerate(NUMBERS, start=5))
_CODES = {kind: code for code, kind in _TYPES.items()}
# A list of one kind of entry with `rest` times None after it is the code _LIST * (1 + rest) plus that of an entry.
_LIST = 16


def encode(layout: Layout, memory: Memory) -> tuple[list[int], list[Tensor | None]]:
    """A code for what is at each place, and the tensor that holds it where there is one."""
    whole: dict[Owner, dict[Keys, Any]] = {owner: {} for owner in memory}
    for place in layout.places:
        if place.container is not None:
            whole[place.owner][place.keys] = True
    kept = layout.kept
    found: dict[tuple[Owner, Keys], Any] = {}
    for owner, entries in memory.items():
        inside = owner[0] in {"leaf", "state"}
        mine = {key: value for key, value in entries.items() if inside or (owner, key) in kept}
        found |= {(owner, keys): value for keys, value in walk(mine, (), whole[owner]) if keys}
    coded: list[tuple[int, Tensor | None]] = []
    for place in layout.places:
        at = place.owner, place.keys
        coded.append(_encoded(layout, place, found.pop(at)) if at in found else (_ABSENT, None))
    for owner, keys in found:
        raise StructureError(
            f"{layout.maker} made {Place(owner, keys).name!r}, which it had not in the steps that init tries, so that "
            "the state has no place for it. The structure of a state is fixed when it is made; this class changes its "
            "own on the way and cannot be wrapped."
        )
    return [code for code, _ in coded], [tensor for _, tensor in coded]


def _encoded(layout: Layout, place: Place, value: Any) -> tuple[int, Tensor | None]:
    if value is None:
        return _NONE, None
    if isinstance(value, Tensor):
        return _TENSOR, value.detach()
    if type(value) in NUMBERS:
        return _CODES[type(value)], torch.tensor(value, dtype=NUMBERS[type(value)])
    if isinstance(value, CONSTANTS) and value == place.constant:
        return _CONSTANT, None
    if type(value) in MAPPINGS and not value:
        return _EMPTY, None
    if type(value) in SEQUENCES and container_of(value) == place.container and is_alike(value):
        entries, rest = trimmed(value)
        if not entries or isinstance(entries[0], Tensor):
            stacked = torch.stack([entry.detach() for entry in entries]) if entries else torch.zeros(0)
            return _LIST * (1 + rest) + _TENSOR, stacked
        kind = type(entries[0])
        return _LIST * (1 + rest) + _CODES[kind], torch.tensor(entries, dtype=NUMBERS[kind])
    was = "" if place.constant is None else f" where it had {place.constant!r}"
    raise StructureError(
        f"{layout.maker} keeps {_said(value)} at {place.name!r}{was}, which tensors cannot hold. {HINT}"
    )


def _said(value: Any) -> str:
    return repr(value) if isinstance(value, CONSTANTS) else f"a {type(value).__name__}"


def restore(
    optimizer: Optimizer,
    leaves: Sequence[Tensor],
    layout: Layout,
    codes: Sequence[int],
    tensors: Sequence[Tensor | None],
) -> None:
    """Make a fresh object remember what was encoded, in tensors of its own."""
    rows: dict[Owner, list[tuple[Keys, Any]]] = {}
    for place, code, tensor in zip(layout.places, codes, tensors, strict=True):
        mine = rows.setdefault(place.owner, [])
        if code != _ABSENT:
            mine.append((place.keys, _decoded(place, code, tensor)))
    optimizer.state.clear()
    holders: dict[Owner, Any] = {("state", 0): optimizer.state, ("self", 0): vars(optimizer)}
    holders |= {("group", number): group for number, group in enumerate(optimizer.param_groups)}
    for place in layout.places:
        if place.owner[0] in {"group", "self"}:
            holders[place.owner].pop(place.keys[0][1], None)
    for owner, mine in rows.items():
        if mine:
            holder = optimizer.state[leaves[owner[1]]] if owner[0] == "leaf" else holders[owner]
            holder.update(_built(mine))


def _built(rows: Sequence[tuple[Keys, Any]]) -> Any:
    keys, value = rows[0]
    if not keys:
        return value
    below: dict[Any, list[tuple[Keys, Any]]] = {}
    for keys, value in rows:
        below.setdefault(keys[0][1], []).append((keys[1:], value))
    parts = {key: _built(inner) for key, inner in below.items()}
    kind = rows[0][0][0][0]
    return parts if kind is dict else _filled(kind, parts.values())


def _filled(container: Any, entries: Iterable[Any]) -> Any:
    return deque(entries, container[1]) if isinstance(container, tuple) else container(entries)


def _decoded(place: Place, code: int, tensor: Tensor | None) -> Any:
    if code in {_NONE, _CONSTANT, _EMPTY}:
        return {_NONE: None, _CONSTANT: place.constant, _EMPTY: {}}[code]
    assert tensor is not None
    if code >= _LIST:
        rest, inner = divmod(code, _LIST)
        # Each in memory of its own: kernels round by how a tensor lies.
        entries = [entry.clone() for entry in tensor] if inner == _TENSOR else tensor.tolist()
        return _filled(place.container, [*entries, *[None] * (rest - 1)])
    return tensor.detach().clone() if code == _TENSOR else _TYPES[code](tensor.item())
