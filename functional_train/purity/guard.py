"""`guard`: code that is to be pure is stopped at the first thing it does that is not."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

from functional_train.purity._calls import watched_calls
from functional_train.purity._files import watched_files
from functional_train.purity._operations import Memory, Operations, spans
from functional_train.purity._outside import Outside
from functional_train.purity.findings import Finding
from functional_train.values._captured import held_by
from functional_train.values.errors import PurityError, StructureError


@contextmanager
def guard() -> Generator[None]:
    """Raise at the first impurity of the body of a `with` statement, before it happens where that can be.

    Stopped before they happen: writes to any tensor that was there before, by any operation of torch that says that it
    writes numbers; draws from a generator of torch, or from Python's global one; `backward()` into the gradient of a
    tensor that was there before, or that shares its memory; files opened for writing, and processes started. At the end
    of the body it is seen, and put back, when NumPy's generator moved or a setting of the process was left changed.
    Reading is no offence, and neither is writing to a tensor that the body made. Not seen: `x.data = value`, `x.grad =
    value`, hooks, and what Python objects hold.

    It watches each operation and each call of Python, in the thread that entered it, so it is for tests and for looking
    for a fault; guards end in the reverse of the order in which they began. Inside it, compiled functions run as they
    were written. `check_pure` finds more: it knows what the arguments are, and it compares.

    Yields:
        Nothing.

    Raises:
        PurityError: at the line that is not pure; `findings` has the one `Finding`.
        StructureError: it is inside a transform of torch.func or a trace.

    Example:
        >>> import functional_train as ft, torch
        >>> weight = torch.ones(2)
        >>> with ft.guard():
        ...     total = (weight + 1.0).mul_(2.0).sum()
        >>> try:
        ...     with ft.guard():
        ...         weight.mul_(2.0)
        ... except ft.PurityError as error:
        ...     print(error.findings[0].what)
        mul_ writes to a tensor (float32, shape (2,)), which was there before
        >>> weight
        tensor([1., 1.])
    """

    def refuse(finding: Finding) -> NoReturn:
        raise PurityError(str(finding), (finding,))

    if torch.compiler.is_compiling() or peek_interpreter_stack() is not None:
        raise StructureError("guard() watches a whole call: put it around a transform of torch.func, or a trace.")
    outside = Outside(held_by([]), [])
    operations = _Guarded((), {}, refuse, {}, stranger="which was there before")
    try:
        with watched_files(refuse), watched_calls(refuse, accumulates=operations.gradient_of_a_stranger), operations:
            yield
        left = list(outside.findings())
    finally:
        outside.restore()
    if left:
        raise PurityError("\n".join(map(str, left)), tuple(left))


class _Guarded(Operations):
    def note_read(self, tensor: Tensor, memory: Memory) -> None:
        """Reading is no offence; what is read must not be kept."""

    def note_uncertain(self, place: Any, finding: Finding) -> None:
        """Stop: there is no second call to compare with."""
        del place
        self.report(finding)

    def takes_as_made(self, storage: torch.UntypedStorage) -> bool:
        """Take memory of NumPy's for the body's own, which it mostly is."""
        del storage
        return True

    def gradient_of_a_stranger(self, outputs: Iterable[Any]) -> str | None:
        """The name of a tensor made elsewhere to which a backward pass from these outputs would add a gradient."""
        seen: set[Any] = set()
        nodes = [output.grad_fn for output in outputs if isinstance(output, Tensor)]
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            leaf = getattr(node, "variable", None)
            if isinstance(leaf, Tensor) and any(span.memory not in self.made for span in spans("", leaf)):
                return self.name_of(leaf)
            nodes += [following for following, _ in node.next_functions]
        return None
