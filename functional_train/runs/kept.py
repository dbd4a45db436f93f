"""States that a run keeps, to go back to."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from functional_train.values.tree._structure import leaves, map, tensors
from functional_train.values.types import Tree


class States(Mapping[int, Tree]):
    """The states of a run by step, as values: going back to one is using it.

    Args:
        states: Step to state, in order.

    Example:
        >>> import functional_train as ft, torch
        >>> step = ft.make_step(ft.grad_and_value(lambda p, batch: (p - batch).square()), ft.sgd(0.25))
        >>> start = ft.init_state(torch.tensor(0.0), ft.sgd(0.25))
        >>> _, history = ft.fit(step, start, [torch.tensor(1.0)] * 8, keep_every=2)
        >>> history.states
        States of steps 0, 2, 4, 6, 8: 60 B
        >>> history.states.at(5).params
        tensor(0.9375)
    """

    def __init__(self, states: Mapping[int, Tree]) -> None:
        self._states = dict(states)

    def __getitem__(self, step: int) -> Tree:
        if step not in self._states:
            raise KeyError(f"no state of step {step!r} was kept; there are {self._listed()}. Try states.at({step!r}).")
        return self._states[step]

    def __iter__(self) -> Iterator[int]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def __repr__(self) -> str:
        return f"States of steps {self._listed()}: {self.nbytes:,} B"

    def at(self, step: int) -> Tree:
        """The last state that was kept at or before a step.

        Args:
            step: Batches consumed.

        Raises:
            KeyError: none was kept so early.
        """
        found = [kept for kept in self._states if kept <= step]
        if not found:
            raise KeyError(f"no state was kept at or before step {step!r}; there are {self._listed()}.")
        return self._states[found[-1]]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the states take, what they share counted once."""
        return sum(_storages(self._states).values())

    def _listed(self) -> str:
        steps = list(self._states)
        shown = [*steps[:5], "...", *steps[-3:]] if len(steps) > 9 else steps
        return ", ".join([str(step) for step in shown]) or "none"


def _storages(tree: Tree) -> dict[int, int]:
    """The memory behind the tensors of a tree: where it begins, and its bytes."""
    return {leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes() for leaf in tensors(tree)}


class Keeper:
    """Keeps states as a run goes, on a budget.

    Args:
        every: Steps between states.
        max_bytes: When the states take more, every second one is given up and the steps between them double.
        moved: Whether a step moves its state, so that what is kept has to be a copy.
    """

    def __init__(self, every: int, max_bytes: int, *, moved: bool) -> None:
        self._every = every
        self._max_bytes = max_bytes
        self._moved = moved
        self._states: dict[int, Tree] = {}
        self._memory: dict[int, int] = {}

    def offer(self, step: int, state: Tree) -> None:
        """Keep a state if its step is due, or if it is the first."""
        if self._states and (step % self._every or step in self._states):
            return
        self._states[step] = self._copied(state) if self._moved else state
        self._memory |= _storages(self._states[step])
        while sum(self._memory.values()) > self._max_bytes and len(self._states) > 1:
            self._every *= 2
            first = next(iter(self._states))
            self._states = {at: kept for at, kept in self._states.items() if at % self._every == 0 or at == first}
            self._memory = _storages(self._states)

    def states(self) -> States:
        """What was kept."""
        return States(self._states)

    def _copied(self, state: Tree) -> Tree:
        """A copy that shares with the last one what has not changed."""
        last = iter(leaves(next(reversed(self._states.values())))) if self._states else None

        def copied(leaf: Any) -> Any:
            old = None if last is None else next(last)
            if not isinstance(leaf, Tensor):
                return leaf
            return old if isinstance(old, Tensor) and _same_bits(old, leaf) else leaf.clone()

        return map(copied, state)


def _same_bits(first: Tensor, second: Tensor) -> bool:
    # Numbers that are equal may differ: 0.0 and -0.0.
    if first.shape != second.shape or first.dtype != second.dtype or first.device != second.device:
        return False
    flat = [leaf.contiguous().reshape(-1).view(torch.uint8) for leaf in (first, second)]
    return torch.equal(*flat)
