"""Attributes that refer to a module's own tensors and modules, made anew for every call."""

import copy
import copyreg
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Call", "Maker", "find_makers"]

_ATOMS = (
    *(str, bytes, int, float, complex, type(None), type, types.ModuleType, types.BuiltinFunctionType),
    *(Tensor, torch.dtype, torch.device),
)
_MUTABLE = (list, dict, set, deque)
_IMMUTABLE = (tuple, frozenset)


class Call(NamedTuple):
    """What one call of `apply` binds."""

    tensors: list[Any]  # the passed parameters, the cloned buffers, and None at the end
    modules: list[nn.Module]  # this call's instances
    made: dict[int, Any]  # attributes made so far, so that aliases stay aliases


Maker = Callable[[Call], Any]


def find_makers(
    roots: Iterable[Any], members: Mapping[int, Maker], memo: Mapping[int, Any]
) -> Callable[[Any], Maker | None]:
    """Find the values that must not be shared between calls.

    A value is made anew if it leads to a member, or if it is a container that a module holds: a forward may change it.

    Args:
        roots: The attribute values of all modules.
        members: For the id of each placeholder and module of the skeleton, what gives its counterpart in a call.
        memo: What deepcopy put for each original. It shares functions, whose closures therefore lead to originals.

    Returns:
        Function from a value to its maker, or to None if all calls may share it.
    """

    def canonical(value: Any) -> Any:
        return memo.get(id(value), value)

    values = [canonical(root) for root in roots]
    nodes, parents = _graph(values, members, canonical)
    fresh = _closed(parents, [*members, *_held_containers(values, canonical)])
    makers: dict[int, Maker] = {}

    def maker_of(value: Any) -> Maker | None:
        value = canonical(value)
        if id(value) in members:
            return members[id(value)]
        return partial(_made_once, makers, id(value)) if id(value) in fresh else None

    def given(value: Any) -> Maker:
        shared = canonical(value)
        return maker_of(value) or (lambda call: shared)

    for ident, value in nodes.items():
        if ident in fresh:
            makers[ident] = _maker(ident, value, maker_of, given)
    return maker_of


def _graph(
    values: list[Any], members: Mapping[int, Maker], canonical: Callable[[Any], Any]
) -> tuple[dict[int, Any], dict[int, list[int]]]:
    nodes: dict[int, Any] = {}
    parents: dict[int, list[int]] = defaultdict(list)
    stack = list(values)
    while stack:
        value = stack.pop()
        if id(value) in nodes or id(value) in members:
            continue
        nodes[id(value)] = value
        for part in map(canonical, _parts(value)):
            parents[id(part)].append(id(value))
            stack.append(part)
    return nodes, parents


def _held_containers(values: list[Any], canonical: Callable[[Any], Any]) -> set[int]:
    held: set[int] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if isinstance(value, (*_MUTABLE, *_IMMUTABLE)) and id(value) not in held:
            held.add(id(value))
            stack.extend(map(canonical, _parts(value)))
    return held


def _closed(parents: Mapping[int, list[int]], start: Iterable[int]) -> set[int]:
    reached: set[int] = set()
    stack = list(start)
    while stack:
        ident = stack.pop()
        if ident not in reached:
            reached.add(ident)
            stack.extend(parents.get(ident, ()))
    return reached


def _parts(value: Any) -> list[Any]:
    if isinstance(value, _ATOMS):
        return []
    if type(value) is weakref.ref:
        return [value()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    parts = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, partial):
        return [*parts, value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        return [*parts, *cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, dict):
        return [*parts, *value, *value.values()]
    return [*parts, *value] if isinstance(value, (*_MUTABLE, *_IMMUTABLE)) else parts


def _is_empty(cell: types.CellType) -> bool:
    return cell == types.CellType()


def _made_once(makers: Mapping[int, Maker], ident: int, call: Call) -> Any:
    if ident not in call.made:
        call.made[ident] = makers[ident](call)
    return call.made[ident]


def _maker(ident: int, value: Any, maker_of: Callable[[Any], Maker | None], given: Callable[[Any], Maker]) -> Maker:
    if type(value) is weakref.ref:
        target = given(value())
        return lambda call: weakref.ref(target(call))
    if isinstance(value, types.MethodType):
        function, owner = given(value.__func__), given(value.__self__)
        return lambda call: types.MethodType(function(call), owner(call))
    if isinstance(value, partial):
        parts = [given(part) for part in (value.func, *value.args)]
        keywords = {name: given(part) for name, part in value.keywords.items()}
        return lambda call: partial(
            *(part(call) for part in parts), **{name: part(call) for name, part in keywords.items()}
        )
    if isinstance(value, _IMMUTABLE):
        items = [given(item) for item in value]
        construct = getattr(type(value), "_make", type(value))
        return lambda call: construct([item(call) for item in items])
    if isinstance(value, types.FunctionType):
        return _function_maker(ident, value, given)
    if isinstance(value, _MUTABLE):
        return _container_maker(ident, value, maker_of, given)
    return _object_maker(ident, value, given)


def _function_maker(ident: int, value: types.FunctionType, given: Callable[[Any], Maker]) -> Maker:
    # The function itself is not kept: its closure would keep the weights of the original module alive.
    code, scope, name = value.__code__, value.__globals__, value.__name__
    cells = [None if _is_empty(cell) else given(cell.cell_contents) for cell in value.__closure__ or ()]
    defaults = [given(default) for default in value.__defaults__ or ()]
    keywords = {key: given(default) for key, default in (value.__kwdefaults__ or {}).items()}
    attributes = {key: given(attribute) for key, attribute in vars(value).items()}

    def make(call: Call) -> Any:
        closure = tuple(types.CellType() for _ in cells)
        function = types.FunctionType(code, scope, name, None, closure)
        call.made[ident] = function
        function.__defaults__ = tuple(default(call) for default in defaults) or None
        function.__kwdefaults__ = {key: default(call) for key, default in keywords.items()} or None
        vars(function).update({key: attribute(call) for key, attribute in attributes.items()})
        for cell, content in zip(closure, cells, strict=True):
            if content is not None:
                cell.cell_contents = content(call)
        return function

    return make


def _object_maker(ident: int, value: Any, given: Callable[[Any], Maker]) -> Maker:
    # copy.copy only where it must be: a __getstate__ of the class may need what the skeleton no longer has.
    cls = type(value)
    is_plain = cls.__new__ is object.__new__ and not copyreg._slotnames(cls)  # pyright: ignore[reportAttributeAccessIssue]
    duplicate = partial(object.__new__, cls) if is_plain else partial(copy.copy, value)
    attributes = {name: given(part) for name, part in vars(value).items()}

    def make(call: Call) -> Any:
        fresh = duplicate()
        call.made[ident] = fresh
        vars(fresh).update({name: part(call) for name, part in attributes.items()})
        return fresh

    return make


def _container_maker(
    ident: int, value: Any, maker_of: Callable[[Any], Maker | None], given: Callable[[Any], Maker]
) -> Maker:
    # The constructor is faster than copy.copy, and torch.compile can trace it.
    duplicate = type(value) if type(value) in (list, dict, set, OrderedDict) else copy.copy
    prototype = duplicate(value)
    attributes = {name: maker for name, part in getattr(value, "__dict__", {}).items() if (maker := maker_of(part))}
    items: list[Maker] = []
    pairs: list[tuple[Maker, Maker]] = []
    if any(maker_of(part) for part in _parts(value)):
        if isinstance(value, dict):
            pairs = [(given(key), given(part)) for key, part in value.items()]
        else:
            items = [given(part) for part in value]
        prototype.clear()

    def make(call: Call) -> Any:
        fresh = duplicate(prototype)
        call.made[ident] = fresh
        for name, part in attributes.items():
            vars(fresh)[name] = part(call)
        for key, part in pairs:
            fresh[key(call)] = part(call)
        if items:
            (fresh.update if isinstance(fresh, set) else fresh.extend)([item(call) for item in items])
        return fresh

    return make
