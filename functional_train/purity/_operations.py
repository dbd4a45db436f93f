"""Every operation of torch that runs: what it writes to, reads, draws, and leaves unfilled."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from functional_train.purity._watch import stored
from functional_train.purity.findings import Finding
from functional_train.values._generators import draws
from functional_train.values._lines import running_line
from functional_train.values._operands import LIFTED, name_of, operands
from functional_train.values.tree._structure import tensors

_ATEN = torch.ops.aten
_UNFILLED = (
    *(_ATEN.empty.memory_format, _ATEN.empty_strided.default, _ATEN.empty_permuted.default),
    *(_ATEN.empty_like.default, _ATEN.new_empty.default, _ATEN.new_empty_strided.default),
)
_RESIZES = _ATEN.resize_.default


class Memory(NamedTuple):
    """Where the numbers of a tensor lie."""

    device: torch.device
    start: int


class Span(NamedTuple):
    """Memory that has a name."""

    name: str
    memory: Memory
    num_bytes: int

    def holds(self, memory: Memory) -> bool:
        """Whether a piece of memory begins in this one."""
        return memory.device == self.memory.device and 0 <= memory.start - self.memory.start < self.num_bytes


def spans(name: str, tensor: Tensor) -> list[Span]:
    """The memory of a tensor under its name; what holds no number has none."""
    return [Span(name, memory, storage.nbytes()) for memory, storage in _memories(tensor)]


def _memories(tensor: Tensor) -> Iterator[tuple[Memory, torch.UntypedStorage]]:
    for storage in [part.untyped_storage() for part in stored(tensor)]:
        try:
            start = storage.data_ptr()
        except RuntimeError:  # of a fake tensor
            continue
        if start:
            yield Memory(storage.device, start), storage


class Operations(TorchDispatchMode):
    """Sees each operation on plain tensors, below the transforms of torch.func.

    Args:
        arguments: Memory of what the function may read, by name.
        generators: Generators that the function is given, by `id`.
        report: Called with each finding as it is made.
        names: Of tensors that the function holds, by `id`.
        within: Code that calls the function, for lines.
        stranger: What to say of a tensor that is no argument.
        filling: The byte that unfilled memory is filled with; None leaves it as it is.
    """

    only_looks_on = True
    supports_higher_order_operators = True

    def __init__(
        self,
        arguments: Iterable[Span],
        generators: Mapping[int, str],
        report: Callable[[Finding], None],
        names: Mapping[int, str],
        within: CodeType | None = None,
        stranger: str = "which is no argument",
        filling: int | None = None,
    ) -> None:
        super().__init__()
        self.arguments = {span.memory: span for span in arguments}
        self.generators = generators
        self.report = report
        self.names = names
        self.within = within
        self.stranger = stranger
        self.filling = filling
        self.made: set[Memory] = set()
        # What was there before and is no argument, kept so that nothing else can take its place: where it was read.
        self.read: dict[Memory, tuple[Tensor, str]] = {}
        self.drawn_from: dict[int, tuple[torch.Generator, Tensor]] = {}
        # Findings that hold only if it was there before the call.
        self.uncertain: dict[Any, Finding] = {}
        self.unfilled: list[str] = []
        # Of memory that an argument holds: where it was last made a view of.
        self.viewed: dict[Memory, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not hasattr(func, "_schema"):  # of a higher order, whose branches come here too
            return func(*args, **kwargs)
        if draws(func, args, kwargs):
            self._note_draw(func, kwargs.get("generator"))
        known: set[Memory] = set()
        for tensor, is_written in operands(func, args, kwargs):
            for memory, storage in _memories(tensor):
                known.add(memory)
                if memory in self.made or (func in LIFTED and self.takes_as_made(storage)):
                    self.made.add(memory)
                elif is_written and torch.Tag.inplace_view not in func.tags:
                    self._note_write(func, tensor, memory, is_lent=not storage.resizable())
                elif self.owner_of(memory) is None and memory not in self.read:
                    self.note_read(tensor, memory)
        size_before = args[0].untyped_storage().nbytes() if func is _RESIZES else 0
        result = func(*args, **kwargs)
        for tensor in tensors(result):
            for memory, _ in _memories(tensor):
                if memory not in known:
                    self.made.add(memory)
                elif memory not in self.made:
                    self.viewed[memory] = running_line(self.within)
        if self.filling is not None and (func in _UNFILLED or func is _RESIZES):
            self._fill(result, size_before, self.filling)
        return result

    def takes_as_made(self, storage: torch.UntypedStorage) -> bool:
        """Whether memory that becomes a tensor is taken for new; NumPy may lend what is older."""
        return storage.resizable()

    def note_read(self, tensor: Tensor, memory: Memory) -> None:
        """Called when a tensor that is no argument is read first."""
        self.read[memory] = (tensor, running_line(self.within))

    def note_uncertain(self, place: Any, finding: Finding) -> None:
        """Called with what holds only if a generator, or memory of NumPy's, is not the function's own."""
        self.uncertain[place] = finding

    def owner_of(self, memory: Memory) -> str | None:
        """The name of the argument that holds a piece of memory."""
        found = self.arguments.get(memory)
        if found is None:
            # A view that NumPy made begins in the middle.
            found = next((span for span in self.arguments.values() if span.holds(memory)), None)
        return None if found is None else found.name

    def name_of(self, tensor: Tensor) -> str:
        """What to call a tensor that is no argument."""
        if id(tensor) in self.names:
            return self.names[id(tensor)]
        return f"a tensor ({str(tensor.dtype).removeprefix('torch.')}, shape {tuple(tensor.shape)})"

    def _note_draw(self, func: Any, generator: torch.Generator | None) -> None:
        line = running_line(self.within)
        if generator is None:
            what = f"{name_of(func)} draws from the global generator of torch"
            self.report(Finding("randomness", "torch", what, line))
            return
        if id(generator) not in self.drawn_from:
            self.drawn_from[id(generator)] = (generator, generator.get_state())
        name = self.generators.get(id(generator))
        if name is not None:
            what = f"{name_of(func)} moves the generator {name!r}, which is an argument"
            self.report(Finding("randomness", name, what, line))
        else:
            self.note_uncertain(
                id(generator), Finding("randomness", "", f"{name_of(func)} draws from a torch.Generator", line)
            )

    def _note_write(self, func: Any, tensor: Tensor, memory: Memory, *, is_lent: bool) -> None:
        owner, line = self.owner_of(memory), running_line(self.within)
        if owner is not None:
            self.report(Finding("input written", owner, f"{name_of(func)} writes to {owner!r}", line))
        else:
            name = self.name_of(tensor)
            what = f"{name_of(func)} writes to {name}, {self.stranger}"
            finding = Finding("captured state written", name, what, line)
            # Memory of NumPy's may have been made by the function, which no operation tells.
            if is_lent:
                self.note_uncertain(memory, finding)
            else:
                self.report(finding)

    def _fill(self, tensor: Tensor, num_filled: int, byte: int) -> None:
        if not tensor.numel() or tensor.is_meta or tensor.layout is not torch.strided:
            return
        numbers = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
        if numbers.numel() <= num_filled:
            return
        # Of a bool only one bit may be set.
        numbers[num_filled:] = byte & 1 if tensor.dtype is torch.bool else byte
        self.unfilled.append(running_line(self.within))
