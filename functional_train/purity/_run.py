"""One watched call of a function."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from functional_train.purity._calls import watched_calls
from functional_train.purity._files import watched_files
from functional_train.purity._held import Held
from functional_train.purity._operations import Memory, Operations, spans
from functional_train.purity._outside import (
    GRADIENT_OF,
    LEFT_MODE,
    chosen,
    differing_facts,
    facts,
    is_lent,
    places_of,
    pop_modes,
)
from functional_train.purity._watch import GRADIENTS, Place, Watch, differences, parts, remember, same_content
from functional_train.purity.findings import Finding
from functional_train.values._calls import arguments_by_name, leaves_by_name
from functional_train.values._captured import Captured, held_by, is_array
from functional_train.values.tree._structure import as_known_mappings, items, leaves, same_structure, tensors

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


def call_it(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function. Its frame marks where the function's own lines begin."""
    return fn(*args, **kwargs)


class Arguments:
    """The arguments of one call, remembered when this is made."""

    def __init__(self, named: list[tuple[str, Any]]) -> None:
        self.watch = Watch(dict(named))
        places = self.watch.places()
        known = {id(place.value) for place in places}
        inner = list(leaves_by_name([(name, as_known_mappings(tree)) for name, tree in named]))
        objects = held_by(
            [(path, leaf) for path, leaf in inner if not isinstance(leaf, (Tensor, FunctionType, *_PLAIN))]
        )
        self.inside = [(objects.names[id(leaf)], leaf) for leaf in objects.tensors if id(leaf) not in known]
        self.held = Held(objects, "input written", "")
        self.before = remember([*places, *places_of(self.inside)])
        self.tensors = [*_tensors_at(places), *self.inside]
        self.facts = [facts(tensor) for _, tensor in self.tensors]
        self.arrays = [(path, leaf, leaf.tobytes()) for path, leaf in inner if is_array(leaf)]

    def places(self) -> list[Place]:
        """All tensors, and what can be written to beside them."""
        return [*self.watch.places(), *places_of(self.inside)]

    def findings(self, only: AbstractSet[str] | None = None) -> Iterator[Finding]:
        """What is not as it was.

        Args:
            only: The subjects that are looked at; None is all of them.
        """
        before, places = chosen(self.before, self.places(), only)
        roles = {place.name: place.role for place in [*places, *[memory.place for memory in before.values()]]}
        for name, kinds in differences(before, places).items():
            if roles[name] == GRADIENTS:
                yield Finding("gradient written", name, f"{name} {' and '.join(sorted(kinds))}")
            else:
                yield Finding("input written", name, f"{name!r} {' and '.join(sorted(kinds))}")
        for (name, tensor), old in zip(self.tensors, self.facts, strict=True):
            if only is None or name in only:
                yield from differing_facts(name, old, facts(tensor))
        for name, array, old in self.arrays:
            if array.tobytes() != old:
                yield Finding("input written", name, f"{name!r}, an array, changed")
        yield from self.held.findings(only)


class Run:
    """One call of a function.

    Args:
        fn: The function.
        given: Its positional and its named arguments.
        captured: What it holds.
        filling: The byte that memory is filled with which it does not fill; None leaves it as it is.
    """

    def __init__(self, fn: Callable[..., Any], given: Any, captured: Captured, filling: int | None) -> None:
        self.fn = fn
        self.given = given
        named = arguments_by_name(fn, *given)
        self.arguments = Arguments(named)
        self.spans = [span for name, tensor in self.arguments.tensors for span in spans(name, tensor)]
        generators = {id(leaf): path for path, leaf in leaves_by_name(named) if isinstance(leaf, torch.Generator)}
        self.owned = captured.owned
        self.findings: list[Finding] = []
        self.clocks: list[tuple[str, str]] = []
        self.operations = Operations(
            self.spans, generators, self.findings.append, captured.names, call_it.__code__, filling=filling
        )
        self.output: Any = None

    def call(self) -> None:
        """Call the function, and note what it does meanwhile."""
        report, within = self.findings.append, call_it.__code__
        depth = torch._C._len_torch_dispatch_stack()
        try:
            with ExitStack() as stack:
                stack.enter_context(watched_files(report, within))
                self.clocks = stack.enter_context(watched_calls(report, within))
                stack.enter_context(self.operations)
                self.output = self.call_unwatched()
        finally:
            for generator, state in self.operations.drawn_from.values():
                generator.set_state(state)
            # A mode that the function left lies on top, so that it was ended in the place of ours.
            if torch._C._len_torch_dispatch_stack() > depth:
                report(Finding("setting", "dispatch modes", LEFT_MODE))
                pop_modes(depth)

    def call_unwatched(self) -> Any:
        """Only call the function."""
        return call_it(self.fn, *self.given)

    def aliases(self) -> Iterator[Finding]:
        """Outputs that share memory with an argument, without being a whole leaf of it."""
        own = {id(tensor) for _, tensor in self.arguments.tensors}
        for path, leaf in _with_arrays(self.output):
            if not isinstance(leaf, Tensor) or id(leaf) in own:
                continue
            for span in spans("", leaf):
                owner = self.operations.owner_of(span.memory)
                if owner is not None:
                    what = f"the output{f' {path!r}' if path else ''} shares memory with {owner!r}"
                    yield Finding("alias", owner, what, self.operations.viewed.get(span.memory, ""))

    def captured_inputs(self, second: "Run") -> Iterator[Finding]:
        """Tensors that are no arguments, and that both calls read or returned, or one left for the other."""
        mine, other = self.operations, second.operations
        kept = {memory: read for memory, read in other.read.items() if memory in mine.made and not is_lent(read[0])}
        by_line: dict[str, list[str]] = {}
        for memory, (tensor, line) in {**mine.read, **kept}.items():
            if memory in other.read and id(tensor) not in self.owned:
                by_line.setdefault(line, []).append(mine.name_of(tensor))
        for line, names in by_line.items():
            which = "which is no argument" if len(names) == 1 else "which are no arguments"
            yield Finding("captured input", ", ".join(names), f"the function reads {listed(names)}, {which}", line)
        read, again = set(mine.read), _memories(second.output)
        if _memories(self.output) & again - read - {span.memory for span in self.spans}:
            yield Finding("captured input", "", "the function returns the same memory at each call")

    def uncertain(self, second: "Run") -> Iterator[Finding]:
        """What concerns memory or a generator that is no argument, if both calls met it: else each made its own."""
        for place, finding in self.operations.uncertain.items():
            if place in second.operations.uncertain:
                yield finding


def listed(names: list[str]) -> str:
    """Some of many names; what they all belong to is said once."""
    gradients = all(name.startswith(GRADIENT_OF) for name in names)
    parts = [name.removeprefix(GRADIENT_OF).partition(" of ") for name in names]
    owners = {owner for _, _, owner in parts}
    short = [part for part, _, _ in parts] if len(owners) == 1 else [name.removeprefix(GRADIENT_OF) for name in names]
    if len(short) > 3:
        text = f"{', '.join(short[:2])} and {len(short) - 2} more"
    else:
        text = " and ".join([", ".join(short[:-1]), short[-1]]) if len(short) > 1 else short[0]
    (owner,) = owners if len(owners) == 1 else ("",)
    text += f" of {owner}" if owner else ""
    return f"the gradient{'s' if len(names) > 1 else ''} of {text}" if gradients else text


def _memories(output: Any) -> set[Memory]:
    return {span.memory for tensor in tensors(as_known_mappings(output)) for span in spans("", tensor)}


def _with_arrays(output: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a result, arrays as tensors of their memory."""
    for path, leaf in items(as_known_mappings(output)):
        lends = is_array(leaf) and not leaf.dtype.hasobject and leaf.flags.writeable
        yield path, torch.from_numpy(leaf) if lends else leaf


def named_tensors(named: Iterable[tuple[str, Any]]) -> list[tuple[str, Tensor]]:
    """The tensors that arguments hold, with their paths."""
    return _tensors_at(Watch(dict(named)).places())


def _tensors_at(places: Iterable[Place]) -> list[tuple[str, Tensor]]:
    return [(one.name, one.value) for one in places if isinstance(one.value, Tensor) and one.role != GRADIENTS]


def same_result(one: Any, other: Any) -> bool:
    """Whether two results are equal bit for bit, as far as values can be compared."""
    one, other = as_known_mappings(one), as_known_mappings(other)
    if not same_structure(one, other):
        return False
    return all(same_leaf(first, second) for first, second in zip(leaves(one), leaves(other), strict=True))


def differ_by_rounding(one: Any, other: Any) -> bool:
    """Whether two results are not equal, but the same up to the last digits."""
    one, other = as_known_mappings(one), as_known_mappings(other)
    if not same_structure(one, other):
        return False
    apart = [pair for pair in zip(leaves(one), leaves(other), strict=True) if not same_leaf(*pair)]
    return bool(apart) and all(_are_close(*pair) for pair in apart)


def _are_close(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)) or one.shape != other.shape:
        return False
    return one.is_floating_point() and one.dtype == other.dtype and bool(one.isclose(other, equal_nan=True).all())


def same_leaf(one: Any, other: Any) -> bool:
    """Whether two leaves are equal bit for bit; what has no value to compare is."""
    if type(one) is not type(other):
        return False
    if is_array(one):
        return one.tobytes() == other.tobytes()
    if isinstance(one, Tensor):
        return same_content(parts(one), parts(other))
    if isinstance(one, _PLAIN):
        return one == other or (one != one and other != other)
    if dataclasses.is_dataclass(one):
        return same_result(vars(one), vars(other))
    # What defines no equality has no value that could be compared.
    return type(one).__eq__ is object.__eq__ or bool(one == other)
