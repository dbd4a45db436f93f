"""What an optimizer object remembers, as tensors with a description of their places, and back into an object."""

import functools
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from functional_train.values.errors import StructureError

Owner = tuple[str, int]
Keys = tuple[tuple[Any, Any], ...]
# By owner: ("leaf", 3) is the state of a parameter, ("state", 0) what else `state` holds, ("group", 0) a group, and
# ("self", 0) the object's own attributes.
Memory = dict[Owner, dict[Any, Any]]

_NUMBERS: dict[type, tuple[int, torch.dtype]] = {
    bool: (4, torch.bool),
    int: (5, torch.int64),
    float: (6, torch.float64),
    complex: (7, torch.complex128),
}
_TYPES: dict[int, type] = {code: kind for kind, (code, _) in _NUMBERS.items()}
_ABSENT, _NONE, _CONSTANT, _EMPTY, _TENSOR = 0, 1, 2, 3, 8
# A list of one kind of entry with `rest` times None after it is the code _LIST * (1 + rest) plus that of an entry.
_LIST = 16
_CONSTANTS = (str, bytes, torch.dtype, torch.device, torch.layout, torch.Size)
_MAPPINGS, _SEQUENCES = (dict, OrderedDict), (list, tuple, deque)


class Place(NamedTuple):
    """Where the object keeps one value.

    Attributes:
        owner: Whose it is.
        keys: The way to it: of each container on the way its kind, and the key or position in it.
        container: The kind of container, where the value is a whole list.
        constant: The value, where it is one that no tensor can hold.
    """

    owner: Owner
    keys: Keys
    container: Any = None
    constant: Any = None

    @property
    def name(self) -> str:
        """The way to it in one word, below a leaf: "exp_avg", "Q/0"; else below what holds it: "group0/step"."""
        kind, number = self.owner
        above = {"leaf": [], "group": [f"group{number}"]}.get(kind, [kind])
        return "/".join([*above, *[str(key) for _, key in self.keys]])


class Layout(NamedTuple):
    """Everything about a state that is not a tensor.

    Attributes:
        maker: The class and its arguments, as text.
        places: Where its values are.
        closure: Whether `step` needs a function that computes the loss anew.
    """

    maker: str
    places: tuple[Place, ...]
    closure: bool

    @property
    def kept(self) -> set[tuple[Owner, Any]]:
        """The entries of groups, and the attributes, that are part of the state."""
        return {(place.owner, place.keys[0][1]) for place in self.places if place.owner[0] in {"group", "self"}}


class RecordedGroup(dict[Any, Any]):
    """A group of parameters that knows which of its entries were written, also with the value that they had."""

    def __init__(self, group: Mapping[Any, Any]) -> None:
        super().__init__(group)
        self.written: set[Any] = set()

    def __setitem__(self, key: Any, value: Any) -> None:
        self.written.add(key)
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]


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
    if type(value) in _MAPPINGS:
        return {key: _copied(inner) for key, inner in value.items()}
    if type(value) is deque:
        return deque(map(_copied, value), value.maxlen)
    return type(value)(map(_copied, value)) if type(value) in _SEQUENCES else value


def _holds(value: Any, ids: set[int]) -> bool:
    return any(id(leaf) in ids for _, leaf in _walk(value))


def _walk(value: Any, keys: Keys = (), whole: Mapping[Keys, Any] | None = None) -> Iterator[tuple[Keys, Any]]:
    """The values in nested containers with the ways to them; lists at the ways in `whole` are not taken apart."""
    if type(value) in _MAPPINGS and value and not any(isinstance(key, Tensor) for key in value):
        for key, inner in value.items():
            yield from _walk(inner, (*keys, (dict, key)), whole)
    elif type(value) in _SEQUENCES and value and (whole is None or keys not in whole):
        for position, inner in enumerate(value):
            yield from _walk(inner, (*keys, (_container(value), position)), whole)
    else:
        yield keys, value


def _container(value: Any) -> Any:
    return (deque, value.maxlen) if type(value) is deque else type(value)


def _lists(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    if type(value) in _MAPPINGS:
        for key, inner in value.items():
            yield from _lists(inner, (*keys, (dict, key)))
    elif type(value) in _SEQUENCES:
        yield keys, value
        for position, inner in enumerate(value):
            yield from _lists(inner, (*keys, (_container(value), position)))


def describe(
    maker: str, observed: Sequence[Memory], written: Iterable[tuple[Owner, Any]], given: Collection[str], closure: bool
) -> Layout:
    """The layout that has a place for all that was ever observed of one object.

    Of groups and attributes only what was written, or changed, or holds a tensor that was not given as an argument
    counts; the rest says how the object was made.
    """
    kept = {*written, *_changed(observed), *_tensors(observed[-1], given)}
    places: dict[tuple[Owner, Keys], Place] = {}
    for owner in observed[0]:
        inside = owner[0] in {"leaf", "state"}
        seen = [
            {key: value for key, value in memory[owner].items() if inside or (owner, key) in kept}
            for memory in observed
        ]
        lists = [found for entries in seen for found in _lists(entries)]
        whole = dict(lists)
        for keys, value in lists:
            if not _is_alike(value):
                whole.pop(keys, None)
        for entries in seen:
            for keys, value in _walk(entries, (), whole):
                if keys:
                    container = _container(value) if type(value) in _SEQUENCES else None
                    constant = value if isinstance(value, _CONSTANTS) else None
                    places.setdefault((owner, keys), Place(owner, keys, container, constant))
    layout = Layout(maker, tuple(places.values()), closure)
    _check_names(layout)
    return layout


def _check_names(layout: Layout) -> None:
    seen: set[tuple[Owner, str]] = set()
    for place in layout.places:
        owner = place.owner if place.owner[0] == "leaf" else ("shared", 0)
        if (owner, place.name) in seen:
            raise StructureError(f"{layout.maker} keeps two values under the name {place.name!r}. {_HINT}")
        seen.add((owner, place.name))


def _changed(observed: Sequence[Memory]) -> Iterator[tuple[Owner, Any]]:
    prints = [fingerprints(memory, ()) for memory in observed]
    for entry in {entry for each in prints for entry in each}:
        if len({each.get(entry) for each in prints}) > 1:
            yield entry


def _tensors(memory: Memory, given: Collection[str]) -> Iterator[tuple[Owner, Any]]:
    for owner, entries in memory.items():
        for key, value in entries.items():
            if owner[0] == "self" or (owner[0] == "group" and key not in given):
                found = [leaf for _, leaf in _walk(value)]
                if any(isinstance(leaf, Tensor | Optimizer) or (type(leaf) in _MAPPINGS and leaf) for leaf in found):
                    yield owner, key


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
    if type(value) in (*_NUMBERS, str, type(None)):
        return type(value), repr(value)
    if type(value) in _MAPPINGS:
        return tuple([(repr(key), _fingerprint(inner, depth)) for key, inner in value.items()])
    if type(value) in _SEQUENCES:
        return tuple([_fingerprint(inner, depth) for inner in value])
    inside = getattr(value, "__dict__", None)
    # An object is recognized by what it holds, too; what lies deeper is the world and not its memory.
    if depth < 2 and isinstance(inside, dict) and not callable(value):
        return id(value), _fingerprint(inside, depth + 1)
    return id(value)


def check_apart(maker: str, memory: Memory, leaves: Sequence[Tensor]) -> None:
    """Refuse a class that keeps a parameter itself: a copy would not move with it."""
    storages = {leaf.untyped_storage().data_ptr() for leaf in leaves if leaf.numel()}
    for owner, entries in memory.items():
        for keys, value in _walk(entries):
            if isinstance(value, Tensor) and value.layout == torch.strided and value.numel():
                if value.untyped_storage().data_ptr() in storages:
                    raise StructureError(
                        f"{maker} keeps a parameter itself, and no copy, at {Place(owner, keys).name!r}. {_HINT}"
                    )


def _is_alike(value: Any) -> bool:
    """Whether a list is tensors of one shape, or numbers of one type, and then None as often as need be."""
    entries, _ = _trimmed(value)
    if all(isinstance(entry, Tensor) for entry in entries):
        return len({(entry.shape, entry.dtype, entry.device, entry.layout) for entry in entries}) <= 1
    return len({type(entry) for entry in entries}) == 1 and type(entries[0]) in _NUMBERS


def _trimmed(value: Any) -> tuple[list[Any], int]:
    entries = list(value)
    while entries and entries[-1] is None:
        entries.pop()
    return entries, len(value) - len(entries)


_HINT = "Tensors, numbers, None, strings and containers of them can be wrapped; this class cannot."


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
        found |= {(owner, keys): value for keys, value in _walk(mine, (), whole[owner]) if keys}
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
    if type(value) in _NUMBERS:
        code, dtype = _NUMBERS[type(value)]
        return code, torch.tensor(value, dtype=dtype)
    if isinstance(value, _CONSTANTS) and value == place.constant:
        return _CONSTANT, None
    if type(value) in _MAPPINGS and not value:
        return _EMPTY, None
    if type(value) in _SEQUENCES and _container(value) == place.container and _is_alike(value):
        entries, rest = _trimmed(value)
        if not entries or isinstance(entries[0], Tensor):
            stacked = torch.stack([entry.detach() for entry in entries]) if entries else torch.zeros(0)
            return _LIST * (1 + rest) + _TENSOR, stacked
        code, dtype = _NUMBERS[type(entries[0])]
        return _LIST * (1 + rest) + code, torch.tensor(entries, dtype=dtype)
    was = "" if place.constant is None else f" where it had {place.constant!r}"
    raise StructureError(
        f"{layout.maker} keeps {_said(value)} at {place.name!r}{was}, which tensors cannot hold. {_HINT}"
    )


def _said(value: Any) -> str:
    return repr(value) if isinstance(value, _CONSTANTS) else f"a {type(value).__name__}"


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
