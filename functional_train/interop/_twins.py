"""Objects like a live optimizer, each with parameters and a memory of its own."""

import copy
import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from functional_train.interop._scheduler import as_number, copied, nested, read, take_step, write
from functional_train.updates.torch_classes._memory import Memory, Owner
from functional_train.values import tree
from functional_train.values.errors import StructureError
from functional_train.values.types import Tree

# No attribute that code can write has such a name.
SCHEDULER = "lr-scheduler"
_STEP_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_HOOKS = (
    *_STEP_HOOKS,
    *("_optimizer_state_dict_pre_hooks", "_optimizer_state_dict_post_hooks"),
    *("_optimizer_load_state_dict_pre_hooks", "_optimizer_load_state_dict_post_hooks"),
)
NO_HOOKS: Mapping[str, Any] = {}
_MOST_LETTERS = 80


class Twins:
    """Makes objects like one optimizer, with its groups, and with its scheduler where there is one.

    Args:
        optimizer: The one they are like. Only `make` reads it.
        scheduler: Its scheduler, or None.
        held: Its parameters by name, in the order of the model.
        every: Steps of the optimizer to one of the scheduler.
        hooks: The hooks that twins run at each step.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        held: Mapping[str, Tensor],
        every: int,
        hooks: Mapping[str, Any] = NO_HOOKS,
    ) -> None:
        self.name = _name(optimizer, scheduler, held)
        self.given: Collection[str] = ()
        self._optimizer, self._scheduler, self._held, self._every = optimizer, scheduler, dict(held), every
        self._hooks = {name: OrderedDict(hooks.get(name, ())) for name in _HOOKS}

    def picks(self, params: Tree) -> list[bool]:
        """Those that the optimizer holds, by name."""
        found = [path in self._held for path, _ in tree.items(params)]
        if sum(found) != len(self._held):
            missing = next(name for name in self._held if name not in tree.paths(params))
            raise StructureError(
                f"{self.name} holds {missing!r}, and params have no leaf there. Pass the params that from_torch gave, "
                "or ones like them."
            )
        return found

    def make(self, leaves: Sequence[Tensor]) -> tuple[Optimizer, list[Tensor]]:
        """A twin and its parameters. It remembers what the first one remembers when this is called."""
        olds = list(self._held.values())
        own: list[Tensor] = [
            nn.Parameter(leaf.detach().clone(), requires_grad=old.requires_grad)
            for leaf, old in zip(leaves, olds, strict=True)
        ]
        # An instance's own step is the one that its scheduler put there, bound to the first optimizer.
        entries = {key: value for key, value in vars(self._optimizer).items() if key not in {"step", *_HOOKS}}
        twin: Optimizer = object.__new__(type(self._optimizer))
        memo: dict[int, Any] = {id(self._optimizer): twin}
        memo |= {id(old): new for old, new in zip(olds, own, strict=True)}
        try:
            vars(twin).update(copy.deepcopy(entries, memo))
        except Exception as error:
            raise StructureError(
                f"{self.name} cannot be copied with copy.deepcopy: {error}. Take the attribute that refuses out of the "
                "optimizer; detach a tensor that has a graph."
            ) from error
        vars(twin).update(self._hooks)
        _make_plain(twin)
        if self._scheduler is not None:
            vars(twin)[SCHEDULER] = {"waited": 0, "at": read(self._scheduler)}
        return twin, own

    def kept(self, memory: Memory) -> Iterable[tuple[Owner, Any]]:
        """The schedule, and all hyperparameters that are numbers or tensors: a state can be read, and changed."""
        for owner, entries in memory.items():
            for key, value in entries.items():
                if (owner[0] == "group" and _is_numbers(value)) or (owner[0] == "self" and key == SCHEDULER):
                    yield owner, key

    def advance(self, optimizer: Optimizer) -> None:
        """Take a step of the scheduler if it is due."""
        if self._scheduler is None:
            return
        schedule = vars(optimizer)[SCHEDULER]
        waited, at = schedule["waited"] + 1, schedule["at"]
        if waited == self._every:
            scheduler = copied(self._scheduler, self._optimizer, optimizer)
            write(scheduler, at)
            take_step(scheduler, optimizer)
            _make_plain(optimizer)
            waited, at = 0, read(scheduler)
        vars(optimizer)[SCHEDULER] = {"waited": waited, "at": at}

    def forgetful(self) -> "Twins":
        """The same, of a twin that remembers nothing and holds no memory, with the hooks of the first."""
        twin, own = self.make([leaf.new_empty(0) for leaf in self._held.values()])
        twin.state.clear()
        vars(twin).pop(SCHEDULER, None)
        scheduler = None if self._scheduler is None else copied(self._scheduler, self._optimizer, twin)
        hooks = {name: vars(self._optimizer).get(name, {}) for name in _STEP_HOOKS}
        return Twins(twin, scheduler, dict(zip(self._held, own, strict=True)), self._every, hooks)


def _make_plain(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for key, value in group.items():
            if key != "params":
                group[key] = tuple(map(as_number, value)) if type(value) is tuple else as_number(value)


def _is_numbers(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) > 0 and all(map(_is_numbers, value))
    return isinstance(value, Tensor) or type(value) in {int, float}


def _name(optimizer: Optimizer, scheduler: LRScheduler | None, held: Mapping[str, Tensor]) -> str:
    """The classes, and the names in each group, which tell the states of one run from those of another."""
    names = {id(parameter): name for name, parameter in held.items()}
    groups = [", ".join([names[id(parameter)] for parameter in group["params"]]) for group in optimizer.param_groups]
    text = " | ".join(groups)
    if len(text) > _MOST_LETTERS:
        text = f"{text[:_MOST_LETTERS]}... {zlib.crc32(text.encode()):08x}"
    schedulers = [] if scheduler is None else [type(each).__name__ for each in nested(scheduler)]
    return f"{type(optimizer).__module__}.{type(optimizer).__qualname__}({text}){' with '.join(['', *schedulers])}"
