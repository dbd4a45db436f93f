"""`record_effects`: which objects does a piece of code change?"""

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from functional_train.purity._table import EffectsTable, make_table
from functional_train.purity._watch import Place, Watch, differences, remember
from functional_train.values.errors import StructureError

MAX_ROWS = 30


class Effects:
    """Which tensors of the watched objects were written to, phase by phase.

    `record_effects` makes it. It shows itself as a table, also in a notebook, and holds names only: no tensor is kept
    alive after the recording. Names read `model.0.weight`, `model.0.weight.grad`,
    `optimizer.state[model.0.weight].exp_avg`, `optimizer.param_groups[0].lr`, `state/params/0.weight`.

    Args:
        watch: What finds the tensors of the watched objects.

    Example:
        >>> import functional_train as ft, torch
        >>> weight = torch.ones(2)
        >>> with ft.record_effects(weight=weight) as effects:
        ...     with effects.phase("add"):
        ...         total = weight + 1.0
        ...     with effects.phase("add_"):
        ...         total = weight.add_(1.0)
        >>> effects
                add  add_
        weight  .    changed
    """

    def __init__(self, watch: Watch) -> None:
        self._watch: Watch | None = watch
        self._places: list[Place] = []  # without what was there
        self._changes: dict[str, dict[str, frozenset[str]]] = {}
        self._meet(watch.places())

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Record what the body of a `with` statement writes to.

        Phases of one name are one phase. A phase inside another belongs to both. A phase that ends in an error is
        recorded too.

        Args:
            name: What to call it, best the code itself: "loss.backward()".

        Yields:
            Nothing.

        Raises:
            StructureError: the recording has ended, or the name is no text.
        """
        watch = self._watch
        if watch is None:
            raise StructureError(
                f"phase {name!r} comes after the end of the recording. Open it inside `with ft.record_effects(...)`."
            )
        if not isinstance(name, str) or not name:
            raise StructureError(f'a phase has a name, such as "loss.backward()"; got {name!r}.')
        merged = self._changes.setdefault(name, {})
        places = watch.places()
        self._meet(places)
        before = remember(places)
        try:
            yield
        finally:
            places = watch.places()
            self._meet(places)
            for written, kinds in differences(before, places).items():
                merged[written] = merged.get(written, frozenset()) | kinds

    @property
    def phases(self) -> tuple[str, ...]:
        """The names of the phases, in the order in which they were first opened."""
        return tuple(self._changes)

    @property
    def watched(self) -> tuple[str, ...]:
        """The names of all that was watched, in the order of the objects."""
        return tuple(place.name for place in self._places)

    @property
    def writes(self) -> Mapping[str, frozenset[str]]:
        """By phase, the names of what it wrote to; a phase that wrote nothing has an empty set."""
        return {phase: frozenset(changes) for phase, changes in self._changes.items()}

    @property
    def changes(self) -> Mapping[str, Mapping[str, frozenset[str]]]:
        """By phase and name, what happened: any of "appeared", "disappeared", "changed" and "rebound".

        A gradient appears when it was None before. What is rebound is another tensor object than before.
        """
        return {phase: dict(changes) for phase, changes in self._changes.items()}

    def table(self, max_rows: int = MAX_ROWS) -> EffectsTable:
        """Lay the record out as a table with a column for each phase.

        Args:
            max_rows: When there would be more rows, those of one module become one, and so on outward.

        Returns:
            A table that prints as text and shows in a notebook.

        Raises:
            StructureError: max_rows is less than 1.
        """
        if max_rows < 1:
            raise StructureError(f"max_rows must be at least 1, got {max_rows}.")
        return make_table(self._places, self._changes, max_rows)

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def _meet(self, places: Iterable[Place]) -> None:
        """List places that were not there before behind those that they follow."""
        known = {place.name: position for position, place in enumerate(self._places)}
        if all(place.name in known for place in places):
            return
        after = -1
        merged: dict[int, list[Place]] = {}
        for place in places:
            if place.name in known:
                after = known[place.name]
            else:
                merged.setdefault(after, []).append(place._replace(value=None))
        old = self._places
        self._places = list(merged.get(-1, []))
        for position, place in enumerate(old):
            self._places += [place, *merged.get(position, [])]

    def _end(self) -> None:
        self._watch = None


@contextmanager
def record_effects(**objects: Any) -> Generator[Effects]:
    """Watch objects, and record which of their tensors are written to in each phase of a piece of code.

    What is compared is content, bit for bit, before and after a phase, so nothing escapes that changes a number: not
    BatchNorm's running statistics, not a fused optimizer, not a write through `.data`. A write of the same bits is
    none. Only writes are recorded in this version: a phase that reads a tensor leaves no mark, and what happens outside
    of phases is not seen. Each phase copies all that is watched once.

    Args:
        **objects: By name, what to watch: an `nn.Module` (parameters, their gradients, buffers), a
            `torch.optim.Optimizer` (state and hyperparameters), a tree of tensors such as `Params` or a `TrainState`,
            or anything with a `state_dict()`, such as a learning-rate scheduler.

    Yields:
        `Effects`, whose `phase(name)` marks the phases.

    Raises:
        StructureError: nothing was given, or something that holds no tensor, or one object twice.

    Example:
        >>> import functional_train as ft, torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with ft.record_effects(model=model) as effects:
        ...     with effects.phase("forward"):
        ...         loss = model(torch.ones(4, 2)).square().mean()
        ...     with effects.phase("loss.backward()"):
        ...         loss.backward()
        ...     with effects.phase("optimizer.step()"):
        ...         optimizer.step()
        >>> effects
                           forward  loss.backward()  optimizer.step()
        model.weight       .        .                changed
        model.weight.grad  .        appeared         .
        model.bias         .        .                changed
        model.bias.grad    .        appeared         .
        >>> effects.writes["forward"]
        frozenset()
    """
    watch = Watch(objects)
    watch.check()
    effects = Effects(watch)
    try:
        yield effects
    finally:
        effects._end()
