"""Memory for what a graph computes on the way, kept from call to call.

Otherwise what a call frees goes back to the system, and each page of what the next one takes costs a fault: on CPU up
to a tenth of a step.
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_uses = torch._C._storage_Use_Count
_view: Any = torch._C._dynamo.guards._reinterpret_tensor  # pyright: ignore[reportAttributeAccessIssue]
# The pool that was used last: what the others keep is worth less than memory.
_latest: list["weakref.ref[Pool]"] = []
Allocate = Callable[[Any, Any, torch.dtype], Tensor]


def extent_of(size: Sequence[int], stride: Sequence[int]) -> int:
    """How many numbers lie from the first to the last of a tensor, gaps included."""
    extent = 1
    for length, step in zip(size, stride, strict=True):
        if not length:
            return 0
        extent += (length - 1) * step
    return extent


class _Block(NamedTuple):
    tensor: Tensor
    storage: int
    alone: int  # how often the storage is used when nobody else does


class Pool:
    """Allocates as the function that it stands for does, first of all what was allocated before and is free again.

    Args:
        allocate: `(size, stride, dtype) -> tensor`, whose numbers are anything.

    Example:
        >>> import torch
        >>> from functional_train.steps.compiling._pool import Pool
        >>> pool = Pool(lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype))
        >>> first = pool((2, 3), (3, 1), torch.float32).data_ptr()
        >>> pool((6,), (1,), torch.float32).data_ptr() == first
        True
    """

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._blocks: dict[tuple[int, torch.dtype], list[_Block]] = {}
        self._handed: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor whose numbers are anything, in memory that nothing else refers to."""
        extent = extent_of(size, stride)
        if not extent:
            return self._allocate(size, stride, dtype)
        with self._lock:
            blocks = self._blocks.setdefault((extent, dtype), [])
            for block in blocks:
                if _uses(block.storage) == block.alone:
                    self._handed.add(block.storage)
                    return _view(block.tensor, size, stride, 0)
            made = self._allocate((extent,), (1,), dtype)
            storage = made.untyped_storage()._cdata
            blocks.append(_Block(made, storage, _uses(storage)))
            self._handed.add(storage)
            return _view(made, size, stride, 0)

    def begin(self) -> None:
        """Say that a call begins: the pool used before, if that is another one, lets go of its memory."""
        if not _latest or _latest[0]() is not self:
            previous = _latest[0]() if _latest else None
            _latest[:] = [weakref.ref(self)]
            if previous is not None:
                previous.clear()

    def clear(self) -> None:
        """Let go of all memory."""
        with self._lock:
            self._blocks.clear()

    def end(self, results: Sequence[Any]) -> None:
        """Say that a call ends: let go of what it returns, and of what it did not ask for.

        That was for batches of another size, of which there may be many.
        """
        leaving = {tensor.untyped_storage()._cdata for tensor in results if isinstance(tensor, Tensor)}
        with self._lock:
            kept = self._handed - leaving
            for key, blocks in list(self._blocks.items()):
                self._blocks[key] = [block for block in blocks if block.storage in kept]
                if not self._blocks[key]:
                    del self._blocks[key]
            self._handed = set()
