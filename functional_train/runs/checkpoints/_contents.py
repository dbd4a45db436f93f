"""The bytes of a file in memory, and tensors made from them."""

import contextlib
import mmap
import os
import stat
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.runs.checkpoints._describe import leaf_nodes
from functional_train.runs.checkpoints._digests import digester, finish
from functional_train.runs.checkpoints._header import Header, meaning, read_header
from functional_train.runs.checkpoints._layout import LINE, check_entries, tensor_from
from functional_train.values.errors import CheckpointError

_READ_AT_ONCE = 1 << 26


@contextlib.contextmanager
def opened(path: Path) -> Generator[tuple[int, Header]]:
    """A file whose header is right.

    Args:
        path: Of a file that `save` wrote. Errors of the block name it too.

    Raises:
        CheckpointError: the file is not what was saved, or of another kind.
        OSError: the file cannot be read.
    """
    # Opening a pipe would wait for somebody to write to it.
    if not stat.S_ISREG(path.stat().st_mode):
        kind = "a folder" if path.is_dir() else "no regular file"
        raise CheckpointError(f"{path}: it is {kind}; ft.save writes one file. Folders of weights: ft.load_weights.")
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        header = read_header(handle, os.fstat(handle).st_size)
        for name, node in leaf_nodes(header.node):
            if "tensor" in node:
                check_entries(node, header.entries, name)
        yield handle, header
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    finally:
        os.close(handle)


class Contents(NamedTuple):
    """A file's bytes.

    Attributes:
        header: What they are.
        memory: All of them, in memory or mapped; writing to it does not change the file.
    """

    header: Header
    memory: mmap.mmap

    @classmethod
    def of(cls, handle: int, header: Header, *, mapped: bool) -> "Contents":
        """Map a file, or read it."""
        size = os.fstat(handle).st_size
        if mapped:
            return cls(header, mmap.mmap(handle, size, access=mmap.ACCESS_COPY))
        memory = mmap.mmap(-1, size)
        view, at = memoryview(memory), 0
        while at < size:
            part = os.preadv(handle, [view[at : at + _READ_AT_ONCE]], at)
            if part == 0:
                raise CheckpointError(f"it became shorter than {size} bytes while it was read.")
            at += part
        return cls(header, memory)

    def check(self, wanted: set[int]) -> None:
        """Refuse entries whose bytes are not what was saved.

        Args:
            wanted: Which of the entries.
        """
        view = memoryview(self.memory)
        with digester() as digest:
            rows = [
                (entry, said, digest.pieces(view[at : at + entry.nbytes]))
                for position, ((entry, at), said) in enumerate(
                    zip(self.header.places(), self.header.digests, strict=True)
                )
                if position in wanted
            ]
            for entry, said, pieces in rows:
                if finish(meaning(entry), pieces) != said:
                    raise CheckpointError(
                        f"{entry.name!r:.200} is not what was saved: its digest differs. The file has decayed or was "
                        "written to; go back to another copy or an earlier checkpoint."
                    )

    def tensors(self, wanted: set[int], device: torch.device | None) -> "Tensors":
        """The memory of entries as tensors, each with a storage of its own, in a mapping by entry."""
        made: dict[int, Tensor] = {}
        for position, (entry, at) in enumerate(self.header.places()):
            if position in wanted:
                memory: Any = torch.empty(0, dtype=torch.uint8)
                if entry.nbytes:
                    memory = torch.frombuffer(self.memory, dtype=torch.uint8, count=entry.nbytes, offset=at)
                if device is None:
                    made[position] = memory if at % LINE == 0 else memory.clone()
                else:
                    made[position] = memory.to(device)
        return Tensors(made, {})


class Tensors(NamedTuple):
    """Makes the tensors of a file; two leaves that were one are one again."""

    memory: dict[int, Tensor]
    made: dict[str, Tensor]

    def __call__(self, node: Any) -> Tensor:
        text = repr(sorted(node.items()))
        if text not in self.made:
            try:
                self.made[text] = tensor_from(node, self.memory[node["tensor"]])
            except (RuntimeError, OverflowError, ValueError) as error:
                raise CheckpointError(f"torch makes no tensor of {node!r:.200}: {error}") from error
        return self.made[text]
