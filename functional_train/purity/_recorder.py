"""What happens to watched objects while phases are open."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import _disable_current_modes

from functional_train.purity._reads import Operations, Reads
from functional_train.purity._watch import Memory, Place, Watch, differences, remember
from functional_train.values.errors import StructureError


class Record(NamedTuple):
    """What happened in all phases of one name."""

    changes: dict[str, frozenset[str]]  # by place: appeared, changed, rebound, disappeared
    reads: set[str]
    calls: set[str]


class _Phase(NamedTuple):
    name: str
    before: dict[str, Memory]
    reads: Reads
    owners: dict[nn.Module, set[str]]  # of each module, the names of the watched ones that it is part of


class Recorder:
    """Opens and closes phases.

    Args:
        watch: What finds the tensors of the watched objects.
    """

    def __init__(self, watch: Watch) -> None:
        self.records: dict[str, Record] = {}
        self.places: list[Place] = []  # without what was there
        self.modules = [name for name, _ in watch.modules()]
        self._watch: Watch | None = watch
        self._open: list[_Phase] = []
        self._is_listening = False
        self._meet(watch.places())

    @contextmanager
    def listen(self, what: str) -> Generator[None]:
        """Be told of operations and calls; once is enough for phases inside others.

        Args:
            what: Asks for it.
        """
        if self._watch is None:
            raise StructureError(
                f"{what} comes after the end of the recording. Open it inside `with ft.record_effects(...)`."
            )
        if self._is_listening:
            yield
            return
        self._is_listening = True
        # Hooks of the modules themselves would turn torch's fused paths off.
        hook = register_module_forward_pre_hook(self._note_call)
        try:
            with Operations(self._listening):
                yield
        finally:
            hook.remove()
            self._is_listening = False

    def begin(self, name: str) -> Callable[[], None]:
        """Open a phase, and return what closes it. Phases may close in any order."""
        watch = self._watch
        assert watch is not None
        # What is done here is no effect of the code.
        with _disable_current_modes():
            places = watch.places()
            self._meet(places)
            phase = _Phase(name, remember(places), Reads(places), _owners(watch))
        record = self.records.setdefault(name, Record({}, set(), set()))
        self._open.append(phase)

        def end() -> None:
            self._open[:] = [other for other in self._open if other is not phase]
            with _disable_current_modes():
                places = watch.places()
                self._meet(places)
                found = differences(phase.before, places)
            for written, kinds in found.items():
                record.changes[written] = record.changes.get(written, frozenset()) | kinds
            record.reads.update(phase.reads.names)

        return end

    def stop(self) -> None:
        """End the recording, and let go of what was watched."""
        self._watch = None

    def _listening(self) -> list[Reads]:
        return [phase.reads for phase in self._open]

    def _note_call(self, module: nn.Module, args: Any) -> None:
        del args
        for phase in self._open:
            self.records[phase.name].calls.update(phase.owners.get(module, ()))

    def _meet(self, places: Iterable[Place]) -> None:
        """List places that were not there before behind those that they follow."""
        known = {place.name: position for position, place in enumerate(self.places)}
        if all(place.name in known for place in places):
            return
        after = -1
        merged: dict[int, list[Place]] = {}
        for place in places:
            if place.name in known:
                after = known[place.name]
            else:
                merged.setdefault(after, []).append(place._replace(value=None, held=None))
        old = self.places
        self.places = list(merged.get(-1, []))
        for position, place in enumerate(old):
            self.places += [place, *merged.get(position, [])]


def _owners(watch: Watch) -> dict[nn.Module, set[str]]:
    owners: dict[nn.Module, set[str]] = {}
    for name, module in watch.modules():
        for part in module.modules():
            owners.setdefault(part, set()).add(name)
    return owners
