"""The places of what an optimizer class remembers."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from functional_train.updates.torch_classes._memory import (
    MAPPINGS,
    NUMBERS,
    SEQUENCES,
    Keys,
    Memory,
    Owner,
    container_of,
    fingerprints,
    walk,
)
from functional_train.values.errors import StructureError

CONSTANTS = (str, bytes, torch.dtype, torch.device, torch.layout, torch.Size)
HINT = "Tensors, numbers, None, strings and containers of them can be wrapped; this class cannot."


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
            if not is_alike(value):
                whole.pop(keys, None)
        for entries in seen:
            for keys, value in walk(entries, (), whole):
                if keys:
                    container = container_of(value) if type(value) in SEQUENCES else None
                    constant = value if isinstance(value, CONSTANTS) else None
                    places.setdefault((owner, keys), Place(owner, keys, container, constant))
    layout = Layout(maker, tuple(places.values()), closure)
    _check_names(layout)
    return layout


def _check_names(layout: Layout) -> None:
    seen: set[tuple[Owner, str]] = set()
    for place in layout.places:
        owner = place.owner if place.owner[0] == "leaf" else ("shared", 0)
        if (owner, place.name) in seen:
            raise StructureError(f"{layout.maker} keeps two values under the name {place.name!r}. {HINT}")
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
                found = [leaf for _, leaf in walk(value)]
                if any(isinstance(leaf, Tensor | Optimizer) or (type(leaf) in MAPPINGS and leaf) for leaf in found):
                    yield owner, key


def _lists(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    if type(value) in MAPPINGS:
        for key, inner in value.items():
            yield from _lists(inner, (*keys, (dict, key)))
    elif type(value) in SEQUENCES:
        yield keys, value
        for position, inner in enumerate(value):
            yield from _lists(inner, (*keys, (container_of(value), position)))


def is_alike(value: Any) -> bool:
    """Whether a list is tensors of one shape, or numbers of one type, and then None as often as need be."""
    entries, _ = trimmed(value)
    if all(isinstance(entry, Tensor) for entry in entries):
        return len({(entry.shape, entry.dtype, entry.device, entry.layout) for entry in entries}) <= 1
    return len({type(entry) for entry in entries}) == 1 and type(entries[0]) in NUMBERS


def trimmed(value: Any) -> tuple[list[Any], int]:
    entries = list(value)
    while entries and entries[-1] is None:
        entries.pop()
    return entries, len(value) - len(entries)


def check_apart(maker: str, memory: Memory, leaves: Sequence[Tensor]) -> None:
    """Refuse a class that keeps a parameter itself: a copy would not move with it."""
    storages = {leaf.untyped_storage().data_ptr() for leaf in leaves if leaf.numel()}
    for owner, entries in memory.items():
        for keys, value in walk(entries):
            plain = isinstance(value, Tensor) and value.layout == torch.strided and value.numel()
            if plain and value.untyped_storage().data_ptr() in storages:
                raise StructureError(
                    f"{maker} keeps a parameter itself, and no copy, at {Place(owner, keys).name!r}. {HINT}"
                )
