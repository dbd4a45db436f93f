"""What an optimizer object holds, and what each part of it can be recognized by."""

import functools
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Owner = tuple[str, int]
Keys = tuple[tuple[Any, Any], ...]
# By owner: ("leaf", 3) is the state of a parameter, ("state", 0) what else `state` holds, ("group", 0) a group, and
# ("self", 0) the object's own attributes.
Memory = dict[Owner, dict[Any, Any]]

NUMBERS: dict[type, torch.dtype] = {
    bool: torch.bool,
    int: torch.int64,
    float: torch.float64,
    complex: torch.complex128,
}
MAPPINGS, SEQUENCES = (dict, OrderedDict), (list, tuple, deque)


def memory_of(optimizer: Optimizer, leaves: Sequence[Tensor]) -> Memory:
    """All that an object holds, containers copied and tensors not; what only points to the parameters is left out."""
    state = optimizer.state
    found: Memory = {("leaf", place): dict(state.get(leaf, {})) for place, leaf in enumerate(leaves)}
    found["state", 0] = {key: value for key, value in state.items() if not isinstance(key, Tensor)}
    for number, group in enumerate(optimizer.param_groups):
        found["group", number] = {key: value for key, value in group.items() if key not in {"params", "param_names"}}
    found["self", 0] = {key: value for key, value in vars(optimizer).items() if key not in _vars_of_all()}
    ids = {id(leaf) for leaf in leaves}
    for owner in found:
        if owner[0] in {"group", "self"}:
            found[owner] = {key: value for key, value in found[owner].items() if not _holds(value, ids)}
    return {owner: {key: _copied(value) for key, value in entries.items()} for owner, entries in found.items()}


@functools.cache
def _vars_of_all() -> frozenset[str]:
    return frozenset(vars(Optimizer([torch.zeros(())], {})))


def _copied(value: Any) -> Any:
    if type(value) in MAPPINGS:
        return {key: _copied(inner) for key, inner in value.items()}
    if type(value) is deque:
        return deque(map(_copied, value), value.maxlen)
    return type(value)(map(_copied, value)) if type(value) in SEQUENCES else value


def _holds(value: Any, ids: set[int]) -> bool:
    return any(id(leaf) in ids for _, leaf in walk(value))


def walk(value: Any, keys: Keys = (), whole: Mapping[Keys, Any] | None = None) -> Iterator[tuple[Keys, Any]]:
    """The values in nested containers with the ways to them; lists at the ways in `whole` are not taken apart."""
    if type(value) in MAPPINGS and value and not any(isinstance(key, Tensor) for key in value):
        for key, inner in value.items():
            yield from walk(inner, (*keys, (dict, key)), whole)
    elif type(value) in SEQUENCES and value and (whole is None or keys not in whole):
        for position, inner in enumerate(value):
            yield from walk(inner, (*keys, (container_of(value), position)), whole)
    else:
        yield keys, value


def container_of(value: Any) -> Any:
    return (deque, value.maxlen) if type(value) is deque else type(value)


def fingerprints(memory: Memory, without: Collection[tuple[Owner, Any]]) -> dict[tuple[Owner, Any], Any]:
    """What each entry of a group, and each attribute, can be recognized by."""
    return {
        (owner, key): _fingerprint(value, 0)
        for owner, entries in memory.items()
        if owner[0] in {"group", "self"}
        for key, value in entries.items()
        if (owner, key) not in without
    }


def _fingerprint(value: Any, depth: int) -> Any:
    if isinstance(value, Tensor):
        return id(value), value._version
    if type(value) in (*NUMBERS, str, type(None)):
        return type(value), repr(value)
    if type(value) in MAPPINGS:
        return tuple([(repr(key), _fingerprint(inner, depth)) for key, inner in value.items()])
    if type(value) in SEQUENCES:
        return tuple([_fingerprint(inner, depth) for inner in value])
    inside = getattr(value, "__dict__", None)
    # An object is recognized by what it holds, too; what lies deeper is the world and not its memory.
    if depth < 2 and isinstance(inside, dict) and not callable(value):
        return id(value), _fingerprint(inside, depth + 1)
    return id(value)
