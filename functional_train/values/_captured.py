"""What a function holds besides its arguments: tensors, and the numbers and modes that a trace bakes in."""

import argparse
import functools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_LIBRARIES = frozenset({__name__.partition(".")[0], "torch", "optree", "functools"})
# A container of more is data; to compare it at each call is not cheap.
_MOST_ITEMS = 64
_BAKED_IN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, type(None))
# What another object may be put in the place of; libraries, classes and built-in functions stay what they are.
_REPLACEABLE = (Tensor, nn.Module, FunctionType, functools.partial, dict, list, tuple, set)


# What torch keeps in every module.
_OF_MODULES = frozenset(vars(nn.Module()))


class Watched(NamedTuple):
    """One number, mode or tensor that a function reads from outside, and how to read it again."""

    name: str
    read: Callable[[], Any]
    value: Any

    def changed(self) -> bool:
        """Whether it is another one by now; numbers are compared, tensors by identity."""
        now = self.read()
        if now is self.value:
            return False
        return type(now) is not type(self.value) or not isinstance(now, _BAKED_IN) or now != self.value

    def put_back(self) -> None:
        """Make it again what it was, where it is read from a place that can be written to."""
        read = self.read
        if not isinstance(read, functools.partial):
            return
        owner = getattr(read.func, "__self__", None)
        if read.func is _contents:
            read.args[0].cell_contents = self.value
        elif read.func is getattr:
            setattr(read.args[0], read.args[1], self.value)
        elif isinstance(owner, dict):
            owner[read.args[0]] = self.value

    def explained(self) -> str:
        """What changed, old and new."""
        now = self.read()
        if isinstance(self.value, Tensor) and isinstance(now, Tensor):
            return f"{self.name} is another tensor than the one that was traced"
        if isinstance(self.value, bytes):
            return f"{self.name}, an array, had other numbers when it was traced"
        return f"{self.name} was {_short(self.value)} when it was traced and is {_short(now)} now"


def _short(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


class Captured(NamedTuple):
    """What a function holds besides its arguments.

    Attributes:
        watched: Numbers, modes and objects that may be other ones at the next call.
        names: Those of the tensors, by `id`.
        tensors: The tensors.
        modules: The modules, with those inside of them.
        containers: Lists, dicts, sets and queues of the user's, by name; empty unless asked for.
        generators: Random generators, by name; empty unless asked for.
        owned: Tensors that this library's own functions were made with, such as a learning rate, by `id`.
    """

    watched: list[Watched]
    names: dict[int, str]
    tensors: list[Tensor]
    modules: list[nn.Module]
    containers: list[tuple[str, Any]]
    generators: list[tuple[str, Any]]
    owned: set[int]


def captured_by(fn: Callable[..., Any], arguments: Iterable[FunctionType] = (), *, written: bool = False) -> Captured:
    """Search a function's closures, defaults, globals, partial arguments and modules.

    Args:
        fn: The function.
        arguments: Functions that it is given.
        written: Whether to find as well what a call could only change: attributes that are new, those of functions and
            classes, sets, queues and generators.
    """
    search = _Search(written)
    for function in (fn, *arguments):
        search.look_into(function, getattr(function, "__name__", type(function).__name__))
    return search.found


def held_by(objects: Iterable[tuple[str, Any]]) -> Captured:
    """Search modules, objects of the user's, sets, queues and generators, by name, for all that a call could change."""
    search = _Search(written=True)
    for name, value in objects:
        search.look_into(value, name)
    return search.found


class _Search:
    def __init__(self, written: bool) -> None:
        self.written = written
        self.found = Captured([], {}, [], [], [], [], set())
        self.seen: set[int] = set()
        self.kept: list[Any] = []  # so that an id stays that of one object

    def look_into(self, value: Any, name: str, ours: bool = False) -> None:
        if id(value) in self.seen:
            return
        self.seen.add(id(value))
        self.kept.append(value)
        if isinstance(value, Tensor):
            self.found.names[id(value)] = name
            self.found.tensors.append(value)
            if ours:
                self.found.owned.add(id(value))
        elif isinstance(value, FunctionType):
            for part, read in _parts_of(value):
                self.consider(read, f"{part!r} of {value.__qualname__}", _is_ours(value))
                if _is_namespace(held := read()):
                    self.look_into_namespace(held, repr(part), _names_in(value.__code__))
            if self.written and not _is_ours(value):
                self.look_into_attributes(value, value.__qualname__)
        elif isinstance(value, functools.partial):
            for place, argument in [*enumerate(value.args), *value.keywords.items()]:
                self.look_into(argument, f"argument {place!r} of {name}")
            self.look_into(value.func, name)
        elif _is_ours(type(value)) and callable(getattr(value, "step", None)):  # repeated
            self.look_into(value.step, name)
        elif _is_ours(type(value)) and hasattr(value, "__wrapped__"):  # compiled
            self.look_into(value.__wrapped__, name)
        elif isinstance(value, staticmethod | classmethod):
            self.look_into(value.__func__, name)
        elif isinstance(value, MethodType):
            self.look_into(value.__func__, name)
            self.look_into(value.__self__, name)
        elif isinstance(value, nn.Module):
            self.look_into_module(value, name)
        elif isinstance(value, dict | list | tuple):
            if not ours and isinstance(value, dict | list):
                self.found.watched.append(Watched(f"the length of {name}", value.__len__, len(value)))
                if self.written:
                    self.found.containers.append((name, value))
            for place in value if isinstance(value, dict) else range(len(value)):
                if self.written and isinstance(held := value[place], Tensor):
                    self.look_into(held, f"{place!r} of {name}")
                elif len(value) <= _MOST_ITEMS:
                    self.consider(functools.partial(_item, value, place), f"{place!r} of {name}", ours)
        elif is_array(value):
            if value.size <= _MOST_ITEMS and not value.dtype.hasobject:
                self.consider(value.tobytes, name, ours=False)
        elif self.written and isinstance(value, set | deque):
            self.found.containers.append((name, value))
            self.found.watched.append(Watched(f"the length of {name}", value.__len__, len(value)))
        elif self.written and is_generator(value):
            self.found.generators.append((name, value))
        elif _is_of_the_users(value):
            self.look_into_object(value, name)

    def look_into_namespace(self, value: Any, name: str, fields: Iterable[str]) -> None:
        """What code may read by name of a module of the user's or of a class."""
        for field in fields:
            if field in vars(value):
                self.consider(functools.partial(vars(value).get, field), f"{field!r} of {name}", ours=False)

    def look_into_object(self, value: Any, name: str) -> None:
        slots = getattr(type(value), "__slots__", ())
        for field in [*getattr(value, "__dict__", ()), *([slots] if isinstance(slots, str) else slots)]:
            self.consider(functools.partial(getattr, value, field, None), f"{field!r} of {name}", ours=False)
        if self.written:
            self.look_into_attributes(type(value), type(value).__name__)
            if hasattr(value, "__dict__"):
                self.look_into_attributes(value, name)
        for field, method in vars(type(value)).items():
            if isinstance(method, FunctionType | staticmethod | classmethod):
                self.look_into(method, f"{field!r} of {name}")

    def look_into_attributes(self, value: Any, name: str) -> None:
        """Attributes of a function, a class or an object that a call could rebind, or add."""
        held = vars(value)
        self.found.watched.append(Watched(f"the number of attributes of {name}", held.__len__, len(held)))
        if isinstance(held, dict):  # not of a class
            self.found.containers.append((name, held))
        for field, constant in list(held.items()):
            if isinstance(constant, _BAKED_IN) and not field.startswith("__"):
                read = functools.partial(getattr, value, field, None)
                self.found.watched.append(Watched(f"{field!r} of {name}", read, constant))

    def look_into_module(self, module: nn.Module, name: str) -> None:
        for path, part in module.named_modules():
            self.found.modules.append(part)
            where = f"{repr(path) + ' in ' if path else ''}{name}"
            for field, constant in vars(part).items():
                if isinstance(constant, _BAKED_IN) and not field.startswith("_"):
                    what = "the mode 'training'" if field == "training" else repr(field)
                    read = functools.partial(getattr, part, field, None)
                    self.found.watched.append(Watched(f"{what} of {where}", read, constant))
            for held in (part._parameters, part._buffers, part._modules):
                for field, value in held.items():
                    self.found.watched.append(
                        Watched(f"{field!r} of {where}", functools.partial(held.get, field), value)
                    )
                    if isinstance(value, Tensor):
                        inside = f"{path}.{field}" if path else field
                        self.found.names.setdefault(id(value), f"{inside!r} of the module in {name}")
                        self.found.tensors.append(value)
            if self.written:
                self.look_into_attributes(part, where)
                for field in vars(part).keys() - _OF_MODULES:
                    self.consider(functools.partial(getattr, part, field, None), f"{field!r} of {where}", ours=False)

    def consider(self, read: Callable[[], Any], name: str, ours: bool) -> None:
        value = read()
        # What libraries hold in closures was checked when it was made, and nobody can reach it to change it.
        if not ours and (isinstance(value, (*_BAKED_IN, *_REPLACEABLE)) or _is_of_the_users(value)):
            self.found.watched.append(Watched(name, read, value))
        # Nor the skeletons of modules, whose modes are arguments.
        if not (ours and isinstance(value, nn.Module)):
            self.look_into(value, name, ours)


def _parts_of(function: FunctionType) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The free variables, globals and defaults of a function, each with a way to read it again."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield name, functools.partial(_contents, cell)
    if not _is_ours(function):
        for name in sorted(_names_in(function.__code__)):
            if name in function.__globals__:
                yield name, functools.partial(function.__globals__.get, name)
    for place, _ in enumerate(function.__defaults__ or ()):
        yield f"default {place}", functools.partial(_default, function, place)
    for name in function.__kwdefaults__ or {}:
        yield name, functools.partial((function.__kwdefaults__ or {}).get, name)


def _names_in(code: CodeType) -> set[str]:
    """The names that code reads, with those of the functions defined in it."""
    inside = [_names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*inside)


def _is_of_the_users(value: Any) -> bool:
    """Whether a value is an object of a class outside the standard library and the libraries below, or a namespace."""
    if isinstance(value, type | ModuleType) or not (hasattr(value, "__dict__") or hasattr(value, "__slots__")):
        return False
    named = isinstance(value, SimpleNamespace | argparse.Namespace)
    return named or _is_home_of_users(type(value).__module__)


def is_array(value: Any) -> bool:
    """Whether a value is an array of NumPy, which may not be there."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def is_generator(value: Any) -> bool:
    """Whether a value draws random numbers, of torch, Python or NumPy."""
    python, numpy = sys.modules.get("random"), sys.modules.get("numpy.random")
    return (
        isinstance(value, torch.Generator)
        or (python is not None and isinstance(value, python.Random))
        or (numpy is not None and isinstance(value, numpy.Generator | numpy.RandomState))
    )


def _is_namespace(value: Any) -> bool:
    """Whether a value is a module or a class that the user wrote."""
    if isinstance(value, ModuleType):
        return _is_home_of_users(value.__name__)
    return isinstance(value, type) and _is_home_of_users(value.__module__)


def _is_home_of_users(module: str) -> bool:
    home = module.partition(".")[0]
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    installed = "site-packages" in file or "dist-packages" in file
    return not (home in _LIBRARIES or home in sys.stdlib_module_names or installed)


def _item(container: Any, place: Any) -> Any:
    try:
        return container[place]
    except LookupError:
        return None


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _default(function: FunctionType, place: int) -> Any:
    return (function.__defaults__ or ())[place]


def _is_ours(value: Any) -> bool:
    return (getattr(value, "__module__", None) or "").partition(".")[0] in _LIBRARIES
