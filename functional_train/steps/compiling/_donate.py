"""Moving a state: who else can see its buffers, and what is left of a value whose buffers were taken."""

import sys
from types import CodeType
from typing import Any, NoReturn
from weakref import getweakrefcount

import torch

from functional_train.values._lines import describe
from functional_train.values.errors import OwnershipError
from functional_train.values.params import Params
from functional_train.values.tree._structure import children, is_leaf, leaves, register_node

_storage_uses = torch._C._storage_Use_Count
# Containers whose every reference to a child is known: attributes of a struct, items of the others.
_KNOWN = (tuple, list, dict, Params)


class Consumed:
    """What is left of a state that a compiled step took the buffers of."""

    _by: str
    _raised: bool
    _caller: tuple[CodeType, int] | None

    def __getattr__(self, name: str) -> NoReturn:
        del name
        raise OwnershipError(_explained(self))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        del protocol
        raise OwnershipError(_explained(self))

    def __repr__(self) -> str:
        return f"<a state consumed by {_taker(self)}>"


def _taker(consumed: Consumed) -> str:
    fields = vars(consumed)
    caller = fields.get("_caller")
    where = "" if caller is None else f", called in {describe(caller[0].co_filename, caller[1])}"
    return f"{fields['_by']}{where}"


def _explained(consumed: Consumed) -> str:
    if vars(consumed).get("_raised"):
        return (
            f"this state was consumed by {_taker(consumed)}, which raised when some of it was written: there is no new "
            "state. Go on from an earlier copy: make one now and then with ft.tree.copy(state), or compile without "
            "donate."
        )
    return (
        f"this state was consumed by {_taker(consumed)}. With donate=True the state that a step is given is moved into "
        "the one it returns: go on with that one, as in state, metrics = step(state, batch). To keep an old state too, "
        "give the step ft.tree.copy(state), or compile without donate."
    )


def _refuse(consumed: Consumed) -> NoReturn:
    raise OwnershipError(_explained(consumed))


def is_lost(state: Any) -> bool:
    """Whether a value, or one inside it, was taken away."""
    try:
        leaves(state)
    except OwnershipError:
        return True
    return False


register_node(Consumed, _refuse, lambda metadata, children: None)


def is_struct(value: Any) -> bool:
    """Whether a value is a struct, whose fields can be taken away; of a consumed one the question is an error."""
    return hasattr(value, "__dataclass_fields__")


def consume(state: Any, by: str, caller: tuple[CodeType, int] | None, *, raised: bool = False) -> None:
    """Take a value's fields away, so that touching it says who has them, or that a call failed halfway."""
    vars(state).clear()
    object.__setattr__(state, "__class__", Consumed)
    vars(state).update(_by=by, _caller=caller, _raised=raised)


class Holdings:
    """The leaves of a state, and who refers to them.

    Args:
        state: A struct. Its own references are known; whoever else has one may look at the leaf behind it later.
        leaves: Its leaves in order. Where the state keeps a list of them, this very list.
    """

    __slots__ = ("above", "counts", "expected", "is_mutable", "leaves", "parts", "places", "storages", "uses", "weak")

    def __init__(self, state: Any, leaves: list[Any]) -> None:
        self.leaves = leaves
        self.parts: list[Any] = []  # the containers inside, the storages, the leaves
        self.above: list[list[int]] = []  # for each leaf the containers it is in
        known = _descend(state, [], self.parts, self.above)
        self.is_mutable = any(type(part) in (dict, list) for part in self.parts)
        self.storages = [leaf.untyped_storage() for leaf in leaves]
        self.places = [storage._cdata for storage in self.storages]
        self.parts += [*self.storages, *leaves]
        # Leaves stand in one list more.
        containers = len(self.parts) - 2 * len(leaves)
        self.expected = [_CONTAINER] * containers + [_STORAGE] * len(leaves) + [_LEAF] * len(leaves)
        self.uses = [_USES if storage.resizable() and known else 0 for storage in self.storages]
        self.weak = [0] * len(leaves)

    def unseen(self) -> bool:
        """Whether nobody but the state refers to any of it."""
        return (
            list(map(sys.getrefcount, self.parts)) == self.expected
            and list(map(_storage_uses, self.places)) == self.uses
            and list(map(getweakrefcount, self.leaves)) == self.weak
        )

    def unseen_leaves(self) -> list[bool]:
        """For each leaf whether nobody but the state refers to it, or to what it is in."""
        alone = [count == wanted for count, wanted in zip(map(sys.getrefcount, self.parts), self.expected, strict=True)]
        leaf, storage = len(self.parts) - len(self.leaves), len(self.parts) - 2 * len(self.leaves)
        return [
            alone[leaf + place]
            and alone[storage + place]
            and all(alone[container] for container in self.above[place])
            and _storage_uses(self.places[place]) == self.uses[place]
            and getweakrefcount(self.leaves[place]) == 0
            for place in range(len(self.leaves))
        ]


def _descend(node: Any, inside: list[int], parts: list[Any], above: list[list[int]]) -> bool:
    """Note the containers below a node; whether all of them refer to their children in one place only."""
    below = children(node)
    if below is None:
        above.append(inside)
        return True
    known = isinstance(node, _KNOWN) or (is_struct(node) and hasattr(node, "__dict__"))
    for _, child in below:
        if child is None:
            continue
        within = inside
        if not is_leaf(child) and leaves(child):
            within = [*inside, len(parts)]
            parts.append(child)
        known = _descend(child, within, parts, above) and known
    return known


def _alone() -> tuple[int, int, int, int]:
    """What is counted when nobody else refers to an object; how, differs between versions of Python and torch."""
    owner, leaves = [[torch.empty(1)]], [torch.empty(1)]
    storages = [leaf.untyped_storage() for leaf in leaves]
    slot = [leaves[0]]
    container, storage, leaf = map(sys.getrefcount, [owner[0], *storages, slot[0]])
    return container, storage, leaf, _storage_uses(storages[0]._cdata)


_CONTAINER, _STORAGE, _LEAF, _USES = _alone()
