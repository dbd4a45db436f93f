"""What Python objects hold besides tensors: attributes, contents, hooks and states of generators, as they were."""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules import module as global_hooks

from functional_train.purity.findings import Finding
from functional_train.values._captured import Captured
from functional_train.values._generators import set_state, state_of

_HOOKS_OF_MODULES = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
_HOOKS_OF_ALL_MODULES = (
    *("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks"),
)


class Held:
    """Objects that were found in a function or in its arguments, remembered when this is made.

    Args:
        found: The objects.
        kind: Of findings, where an attribute or a container changes.
        stranger: What to say of them.
    """

    def __init__(self, found: Captured, kind: str, stranger: str) -> None:
        self.kind = kind
        self.stranger = stranger
        self.watched = found.watched
        self.contents = [(held, _contents(held)) for _, held in found.containers]
        self.states = [(name, held, state_of(held)) for name, held in found.generators]
        self.modules = found.modules
        self.classes = [type(module) for module in found.modules]
        self.hooks = list(_hooks(found.modules))

    def findings(self, only: AbstractSet[str] | None = None) -> Iterator[Finding]:
        """What is not as it was.

        Args:
            only: The subjects that are looked at; None is all of them.
        """
        for one in self.watched:
            if (only is None or one.name in only) and one.changed():
                yield Finding(self.kind, one.name, f"{one.name}{self.stranger} changed")
        for name, held, state in self.states:
            if (only is None or name in only) and repr(state_of(held)) != repr(state):
                yield Finding("randomness", name, f"{name}, a generator, moved")
        for one in self.hooks:
            if len(one.hooks) != len(one.before) and one.is_of_one_class():
                yield Finding("hook", one.name, f"{len(one.hooks) - len(one.before):+d} hook on {one.name}")

    def restore(self) -> None:
        """Put everything back."""
        for one in self.hooks:
            if one.is_of_one_class() and len(one.hooks) != len(one.before):
                one.hooks.clear()
                one.hooks.update(one.before)
        for _, held, state in self.states:
            set_state(held, state)
        for held, contents in self.contents:
            now = _contents(held)
            if len(now) != len(contents) or any(one is not other for one, other in zip(now, contents, strict=True)):
                _fill(held, contents)
        # A lazy module has become another, with other attributes.
        if [type(module) for module in self.modules] == self.classes:
            for one in self.watched:
                if one.changed():
                    one.put_back()


def _contents(held: Any) -> list[Any]:
    """What is in a container; of a dict, all keys and then all values."""
    return [*held, *held.values()] if isinstance(held, dict) else list(held)


def _fill(held: Any, contents: list[Any]) -> None:
    held.clear()
    if isinstance(held, dict):
        half = len(contents) // 2
        held.update(zip(contents[:half], contents[half:], strict=True))
    else:
        (held.update if isinstance(held, set) else held.extend)(contents)


class _Hooks(NamedTuple):
    name: str
    hooks: Any  # a dict that torch keeps
    before: dict[Any, Any]
    owner: Any
    kind: type

    def is_of_one_class(self) -> bool:
        """Whether the owner is what it was: a lazy module becomes another, and loses the hook that did it."""
        return type(self.owner) is self.kind


def _hooks(modules: Iterable[nn.Module]) -> Iterator[_Hooks]:
    owners: list[tuple[str, Any, tuple[str, ...]]] = [("all modules", global_hooks, _HOOKS_OF_ALL_MODULES)]
    for place, module in enumerate(modules):
        owners.append((f"module {place}, a {type(module).__name__}", module, _HOOKS_OF_MODULES))
    for name, owner, fields in owners:
        for field in fields:
            hooks = getattr(owner, field)
            yield _Hooks(f"{name} ({field})", hooks, dict(hooks), owner, type(owner))
