"""One compiled variant of a function: made for certain layouts, run on flat lists."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.steps.compiling._cudagraphs import run_by_cudagraphs
from functional_train.steps.compiling._donate import is_struct
from functional_train.steps.compiling._lower import (
    Run,
    found_on_disk,
    lengths_of,
    pairs,
    run_by_inductor,
    run_eagerly,
    write_over,
)
from functional_train.steps.compiling._repeated import as_tensors, check_carried, many_times, one_step
from functional_train.steps.compiling._signature import layouts, paths_of
from functional_train.steps.compiling._trace import trace
from functional_train.values._captured import Watched, captured_by
from functional_train.values.tree._structure import flatten, unflatten

_BACKENDS: dict[str, Callable[[Any], Run]] = {
    "inductor": run_by_inductor,
    "eager": run_eagerly,
    "cudagraphs": run_by_cudagraphs,
}


class Entry(NamedTuple):
    """A variant.

    Attributes:
        run: The code.
        given: Positions, among all leaves of the arguments, of the tensors that the code takes.
        captured: Tensors that it takes besides, and their layouts.
        structure: Of what the function returns.
        constants: What it returns that is no tensor, by position among the leaves.
        over: From the position of a returned leaf to that of the argument's leaf whose buffer it is written into.
        same: Positions of argument's leaves in `over` that are returned as they are.
        watched: What the trace baked in and is compared at each call.
        fits: Whether tensors have lengths that the graph holds for, where it was made for any.
        operations: How many the graph has.
        whole: Whether the new state is all that is returned, where `over` has any; otherwise it is first in a tuple.
        beyond: Structures of what stands behind the new state in that tuple.
        seconds: That tracing, lowering and loading took; one of the last two is zero.
    """

    run: Run
    given: list[int]
    captured: list[Tensor]
    captured_layouts: tuple[Any, ...]
    structure: Any
    constants: dict[int, Any]
    over: dict[int, int]
    same: frozenset[int]
    watched: list[Watched]
    fits: Callable[[Sequence[Tensor]], bool] | None
    operations: int
    whole: bool
    beyond: list[Any]
    seconds: tuple[float, float, float]

    def rebuilt(self, leaves: Sequence[Any], results: Sequence[Any]) -> Any:
        """What the function returns, from the buffers that were written over and the rest of the results."""
        rest = iter(results)
        count = len(self.over) + len(self.constants) + len(results)
        return unflatten(self.structure, [self._leaf(place, leaves, rest) for place in range(count)])

    def _leaf(self, place: int, leaves: Sequence[Any], rest: Iterator[Any]) -> Any:
        if place in self.over:
            return leaves[self.over[place]]
        return self.constants[place] if place in self.constants else next(rest)

    def changes(self) -> list[str]:
        """What the trace baked in and is another by now."""
        changed = [one.explained() for one in self.watched if one.changed()]
        if self.captured:
            if layouts(self.captured) != self.captured_layouts:
                changed.append("a captured tensor had another layout when it was traced")
            if any(tensor.requires_grad for tensor in self.captured):
                changed.append("a captured tensor requires grad now")
        return changed

    def moves_all(self, leaves: Sequence[Any]) -> bool:
        """Whether every leaf of a state is written over one, or stays."""
        return len(self.over) == len(leaves) and self.given[: len(leaves)] == list(range(len(leaves)))

    def beside(self, state: Any, results: Sequence[Any]) -> Any:
        """What the function returns, around a new state that is there already."""
        if self.whole:
            return state
        rest = iter(results)
        start = len(self.over)
        others: list[Any] = []
        for structure in self.beyond:
            others.append(
                unflatten(structure, [self._leaf(start + place, (), rest) for place in range(structure.num_leaves)])
            )
            start += structure.num_leaves
        return (state, *others)


def make_entry(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    backend: str,
    dynamic: Collection[int] = (),
) -> Entry:
    """Trace and lower a function for arguments like these.

    Args:
        fn: Any pure function of trees.
        args: Its arguments.
        kwargs: Its keyword arguments.
        backend: "inductor", "cudagraphs" or "eager".
        dynamic: Positions of leaves whose first dimension may be another at other calls.

    Returns:
        The variant. Results that have the structure of the first argument, a struct, alone or first in a tuple, are
        written into its buffers.

    Raises:
        CompileError: see `trace`.
    """
    started = time.perf_counter()
    repeated, fn, args = one_step(fn, args, kwargs)
    leaves, structure = flatten((args, dict(kwargs)))
    given = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    paths = paths_of(fn, args, kwargs)
    watched, names = captured_by(fn, [leaf for leaf in leaves if isinstance(leaf, FunctionType)])[:2]
    made: list[Any] = []
    # What is traced must not keep the tensors: tracers leave cycles behind, which live until they are collected.
    frame = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    moving = flatten(args[0])[1] if repeated is not None or (args and is_struct(args[0])) else None

    def flat(*tensors: Tensor) -> list[Tensor]:
        filled = list(frame)
        for place, tensor in zip(given, tensors, strict=True):
            filled[place] = tensor
        positional, named = unflatten(structure, filled)
        out = fn(*positional, **named)
        found, out_structure = flatten(out)
        moved, whole = _returned_first(out, moving)
        if repeated is not None:
            found = as_tensors(found, moved)
        constants = {place: _known(leaf) for place, leaf in enumerate(found) if not isinstance(leaf, Tensor)}
        made[:] = [out_structure, constants, moved, whole]
        return [leaf for leaf in found if isinstance(leaf, Tensor)]

    any_length = {position for position, place in enumerate(given) if place in dynamic}
    tensors = [leaves[place] for place in given]
    traced = trace(
        flat, tensors, [paths[place] for place in given], names, any_length, channels_last=backend != "eager"
    )
    traced_at = time.perf_counter()
    out_structure, constants, moved, whole = made
    over: dict[int, int] = {}
    # Leaves of the first argument come first on both sides.
    if moved and given[:moved] == list(range(moved)) and not any(place < moved for place in constants):
        over = pairs(traced, range(moved), range(moved))
    if repeated is not None:
        check_carried(repeated, paths, 0 if whole else moved, over)
    same = write_over(traced, over)
    operations = len(traced.graph.graph.nodes)
    found = found_on_disk()
    run = _BACKENDS[backend](traced)
    lowered, loaded = time.perf_counter() - traced_at, found_on_disk() > found
    if repeated is not None:
        run = many_times(run, repeated, moved, len(given))
    return Entry(
        run=run,
        given=given,
        captured=traced.captured,
        captured_layouts=layouts(traced.captured),
        structure=out_structure,
        constants=constants,
        over=over,
        same=frozenset(same),
        watched=watched,
        fits=lengths_of(traced, any_length) if any_length else None,
        operations=operations,
        whole=whole,
        beyond=[] if whole or not moved else out_structure.children()[1:],
        seconds=(traced_at - started, 0.0 if loaded else lowered, lowered if loaded else 0.0),
    )


def _known(leaf: Any) -> Any:
    """A constant. A size that was left open becomes known, and the graph holds for this one only."""
    for kind, known in ((torch.SymInt, int), (torch.SymFloat, float), (torch.SymBool, bool)):
        if isinstance(leaf, kind):
            return known(leaf)  # pyright: ignore[reportArgumentType]
    return leaf


def _returned_first(out: Any, moving: Any) -> tuple[int, bool]:
    """How many leaves of the result, from the first, are those of a new first argument, and whether that is all.

    `moving` is the structure of a first argument that can be moved.
    """
    if moving is not None:
        if flatten(out)[1] == moving:
            return moving.num_leaves, True
        if type(out) is tuple and out and flatten(out[0])[1] == moving:
            return moving.num_leaves, False
    return 0, False
