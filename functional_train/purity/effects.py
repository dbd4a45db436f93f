"""`record_effects`: which objects does a piece of code read, and which does it change?"""

import sys
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

from functional_train.purity._recorder import Recorder
from functional_train.purity._sentences import describe
from functional_train.purity._statements import Body, body_of
from functional_train.purity._table import READ, EffectsTable, make_groups, make_table
from functional_train.purity._tracer import follow
from functional_train.purity._watch import Watch
from functional_train.values.errors import StructureError

MAX_ROWS = 30
MOST_IN_A_SENTENCE = 10


class Effects:
    """Which tensors of the watched objects were read and which were written to, phase by phase.

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
        ...     with effects.phase("zero_"):
        ...         total = weight.zero_()
        >>> effects
                add   zero_
        weight  read  changed
    """

    def __init__(self, watch: Watch) -> None:
        self._recorder = Recorder(watch)

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Record what the body of a `with` statement reads and writes to.

        Phases of one name are one phase. A phase inside another belongs to both. A phase that ends in an error is
        recorded too.

        Args:
            name: What to call it, best the code itself: "loss.backward()".

        Yields:
            Nothing.

        Raises:
            StructureError: the recording has ended, or the name is no text.
        """
        if not isinstance(name, str) or not name:
            raise StructureError(f'a phase has a name, such as "loss.backward()"; got {name!r}.')
        with self._recorder.listen(f"phase {name!r}"):
            end = self._recorder.begin(name)
            try:
                yield
            finally:
                end()

    def lines(self) -> AbstractContextManager[None]:
        """Make a phase of each statement in the body of a `with` statement, named by its source.

        A statement in a loop is one phase with all its turns, and statements that read alike are one. The head of a
        compound statement, such as `for x, y in batches:`, is a phase too. What a statement calls belongs to it.
        Meanwhile Python calls a tracer at each call of a function, which takes time, and other tracers rest: a
        debugger, or a tool that measures coverage, sees nothing of the body.

        Returns:
            A context manager, for the head of a `with` statement.

        Raises:
            StructureError: the recording has ended, or the source of the body cannot be found.

        Example:
            >>> import functional_train as ft, torch
            >>> weight, rates = torch.ones(2), [0.5, 0.25]
            >>> with ft.record_effects(weight=weight) as effects, effects.lines():
            ...     for rate in rates:
            ...         step = rate * weight
            ...         weight -= step
            >>> effects
                    for rate in rates:  step = rate * weight  weight -= step
            weight  .                   read                  read, changed
        """
        frame = sys._getframe(1)
        return self._follow(frame, body_of(frame))

    @contextmanager
    def _follow(self, frame: FrameType, body: Body) -> Generator[None]:
        with self._recorder.listen("lines()"), follow(frame, body, self._recorder.begin):
            yield

    @property
    def phases(self) -> tuple[str, ...]:
        """The names of the phases, in the order in which they were first opened."""
        return tuple(self._recorder.records)

    @property
    def watched(self) -> tuple[str, ...]:
        """The names of all that was watched, in the order of the objects."""
        return tuple(place.name for place in self._recorder.places)

    @property
    def reads(self) -> Mapping[str, frozenset[str]]:
        """By phase, the names of the tensors that were there when it began and that an operation read in it."""
        return {phase: frozenset(record.reads) for phase, record in self._recorder.records.items()}

    @property
    def writes(self) -> Mapping[str, frozenset[str]]:
        """By phase, the names of what it wrote to; a phase that wrote nothing has an empty set."""
        return {phase: frozenset(record.changes) for phase, record in self._recorder.records.items()}

    @property
    def changes(self) -> Mapping[str, Mapping[str, frozenset[str]]]:
        """By phase and name, what happened: any of "appeared", "disappeared", "changed" and "rebound".

        A gradient appears when it was None before. What is rebound is another tensor object than before.
        """
        return {phase: dict(record.changes) for phase, record in self._recorder.records.items()}

    @property
    def calls(self) -> Mapping[str, frozenset[str]]:
        """By phase, the names of the watched modules that were called, or of which a part was."""
        return {phase: frozenset(record.calls) for phase, record in self._recorder.records.items()}

    def describe(self, max_rows: int = MOST_IN_A_SENTENCE) -> str:
        """Say in a sentence for each phase what it called, read and wrote to.

        Args:
            max_rows: As in `table`: more than that many things are told by module.

        Returns:
            As many lines as there are phases. Where a module's own tensors were written to by other code than its own,
            the sentence says so: "(the model was not called)".

        Raises:
            StructureError: max_rows is less than 1.

        Example:
            >>> import functional_train as ft, torch
            >>> model = torch.nn.Linear(2, 1, bias=False)
            >>> with ft.record_effects(model=model) as effects, effects.lines():
            ...     output = model(torch.ones(2))
            ...     loss = output.sum()
            ...     model.weight.data *= 0.5
            >>> print(effects.describe())
            `output = model(torch.ones(2))` called model and read model.weight.
            `loss = output.sum()` read and wrote nothing.
            `model.weight.data *= 0.5` read model.weight and wrote model.weight (the model was not called).
        """
        groups = make_groups(self._recorder.places, self._kinds(), _checked(max_rows))
        return describe(groups, self._kinds(), self.calls, self._recorder.modules)

    def table(self, max_rows: int = MAX_ROWS) -> EffectsTable:
        """Lay the record out as a table with a column for each phase.

        Args:
            max_rows: When there would be more rows, those of one module become one, and so on outward.

        Returns:
            A table that prints as text and shows in a notebook.

        Raises:
            StructureError: max_rows is less than 1.
        """
        return make_table(self._recorder.places, self._kinds(), _checked(max_rows))

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def _kinds(self) -> dict[str, dict[str, frozenset[str]]]:
        """By phase and name, all that happened."""
        kinds = {phase: dict(record.changes) for phase, record in self._recorder.records.items()}
        for phase, record in self._recorder.records.items():
            for name in record.reads:
                kinds[phase][name] = kinds[phase].get(name, frozenset()) | {READ}
        return kinds


@contextmanager
def record_effects(**objects: Any) -> Generator[Effects]:
    """Watch objects, and record which of their tensors each phase of a piece of code reads and writes to.

    What is compared is content, bit for bit, before and after a phase, so nothing escapes that changes a number: not
    BatchNorm's running statistics, not a fused optimizer, not a write through `.data`. A write of the same bits is
    none. A tensor is read when an operation of torch is given memory that was its own when the phase began, through
    whatever view, and does not merely overwrite it or ask for its shape; transforms of torch.func do not hide that.
    Not seen are reads of Python numbers, such as a learning rate or the counters of a scheduler, reads behind torch's
    back, as by `.numpy()` or `.tolist()`, and what happens outside of phases.

    Each phase copies all that is watched once and compares it at its end, and while a phase is open each operation of
    torch passes through Python, so that recorded code on small tensors is many times slower: record a few turns of a
    loop, not a whole training. Recording changes no number and draws none, but compiled functions run uncompiled
    meanwhile, and may round in another way.

    Args:
        **objects: By name, what to watch: an `nn.Module` (parameters, their gradients, buffers), a
            `torch.optim.Optimizer` (state and hyperparameters), a tree of tensors such as `Params` or a `TrainState`,
            or anything with a `state_dict()`, such as a learning-rate scheduler.

    Yields:
        `Effects`, whose `phase(name)` marks the phases, or `lines()` makes one of each statement.

    Raises:
        StructureError: nothing was given, or something that holds no tensor, or one object twice.

    Example:
        >>> import functional_train as ft, torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> optimizer, x = torch.optim.SGD(model.parameters(), lr=0.1), torch.ones(4, 2)
        >>> with ft.record_effects(model=model) as effects, effects.lines():
        ...     loss = model(x).sum()
        ...     loss.backward()
        ...     optimizer.step()
        >>> effects
                           loss = model(x).sum()  loss.backward()  optimizer.step()
        model.weight       read                   .                read, changed
        model.weight.grad  .                      appeared         read
        >>> effects.writes["loss.backward()"]
        frozenset({'model.weight.grad'})
        >>> print(effects.describe().splitlines()[-1])
        `optimizer.step()` read model.weight and model.weight.grad and wrote model.weight (the model was not called).
    """
    watch = Watch(objects)
    watch.check()
    effects = Effects(watch)
    try:
        yield effects
    finally:
        effects._recorder.stop()


def _checked(max_rows: int) -> int:
    if max_rows < 1:
        raise StructureError(f"max_rows must be at least 1, got {max_rows}.")
    return max_rows
