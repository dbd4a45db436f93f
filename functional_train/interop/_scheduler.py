"""What a learning-rate scheduler of torch remembers, as nested dicts of numbers and tensors, and back."""

import copy
import functools
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from functional_train.values.errors import StructureError

Memory = dict[str, Any]
_NOTHING = object()
_OF_FUNCTIONS = ("builtins", "functools")


def read(scheduler: LRScheduler) -> Memory:
    """All that a scheduler, the schedulers in it and its callable objects hold and that a tensor can hold.

    The rest, such as functions and names of modes, says how it was made.
    """
    return _read_entries(vars(scheduler), set())


def _read_entries(entries: Mapping[Any, Any], above: set[int]) -> Memory:
    read = {str(key): _read(value, above) for key, value in entries.items() if type(key) in {str, int}}
    return {key: value for key, value in read.items() if value is not _NOTHING}


def _read(value: Any, above: set[int]) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(as_number(value)) in {types.NoneType, bool, int, float}:
        return as_number(value)
    if id(value) in above or isinstance(value, Optimizer):
        return _NOTHING
    inside = _entries_of(value)
    found = None if inside is None else _read_entries(inside, above | {id(value)})
    return found or _NOTHING


def _entries_of(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if isinstance(value, dict):
        return value
    # torch keeps what callable objects remember, and functions for what they are.
    is_callable = any("__call__" in vars(cls) for cls in type(value).__mro__ if cls.__module__ not in _OF_FUNCTIONS)
    return vars(value) if isinstance(value, LRScheduler) or (is_callable and hasattr(value, "__dict__")) else None


def as_number(value: Any) -> Any:
    """A number of exactly Python's type; those of NumPy that are Python's floats too have the same bits."""
    return float(value) if isinstance(value, float) and type(value) is not float else value


def write(scheduler: LRScheduler, memory: Memory) -> None:
    """Make a scheduler remember what was read, in lists and tensors of its own."""
    _write(scheduler, memory)


def _write(old: Any, new: Any) -> Any:
    if not isinstance(new, dict):
        return new.detach().clone() if isinstance(new, Tensor) else new
    if isinstance(old, list | tuple):
        # A new list, since somebody may have kept the old one, as get_last_lr() gives it.
        return type(old)([_write(value, new.get(str(place), value)) for place, value in enumerate(old)])
    holder = old if isinstance(old, dict) else vars(old)
    keys = {str(key): key for key in holder}
    for name, value in new.items():
        # One by one, since the update of a Counter adds.
        key = keys.get(name, name)
        holder[key] = _write(holder.get(key), value)
    return old


def lacking(scheduler: LRScheduler, paths: Iterable[Sequence[str]]) -> str | None:
    """The way to the first container that a scheduler does not have, and something is to be written into."""
    memory = read(scheduler)
    for path in paths:
        inside: Any = memory
        for key in path[:-1]:
            inside = inside.get(key)
            if not isinstance(inside, dict):
                return "/".join(path[:-1])
    return None


def copied(scheduler: LRScheduler, old: Optimizer, new: Optimizer) -> LRScheduler:
    """A copy of a scheduler that belongs to another optimizer."""
    memo: dict[int, Any] = {id(old): new, id(old.param_groups): new.param_groups}
    # Behind the method of a trainer hangs the trainer, with its model; a function would be left as it is, too.
    memo |= {id(method): method for method in _foreign_methods(scheduler, set())}
    try:
        return copy.deepcopy(scheduler, memo)
    except Exception as error:
        raise StructureError(
            f"{type(scheduler).__name__} cannot be copied with copy.deepcopy: {error}. Take the attribute that refuses "
            "out of the scheduler."
        ) from error


def _foreign_methods(value: Any, above: set[int]) -> Iterator[types.MethodType]:
    if isinstance(value, types.MethodType) and not isinstance(value.__self__, LRScheduler | Optimizer):
        yield value
    inside = {0: value.func} if isinstance(value, functools.partial) else _entries_of(value)
    if inside is not None and id(value) not in above:
        for each in inside.values():
            yield from _foreign_methods(each, above | {id(value)})


def nested(scheduler: LRScheduler) -> list[LRScheduler]:
    """A scheduler and all that it hands on to."""
    return [scheduler, *[each for inner in getattr(scheduler, "_schedulers", ()) for each in nested(inner)]]


def take_step(scheduler: LRScheduler, optimizer: Optimizer) -> None:
    """One step of a scheduler after one of its optimizer, which is made anew and so does not know that it took it."""

    def stepped() -> None: ...

    stepped._wrapped_by_lr_sched = True  # pyright: ignore[reportFunctionMemberAccess]
    entries = vars(optimizer)
    before = dict(entries)
    entries.update(step=stepped, _opt_called=True)
    scheduler.step()
    for key in ("step", "_opt_called"):
        entries.pop(key)
        entries.update({key: before[key]} if key in before else {})
