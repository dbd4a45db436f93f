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
        memory: All of them; writing to it does not change the file.
        handle: Of the file that `check` reads into the memory, or None when it is mapped there.
    """

    header: Header
    memory: mmap.mmap
    handle: int | None

    @classmethod
    def of(cls, handle: int, header: Header, *, mapped: bool) -> "Contents":
        """Map a file, or make the memory that it is read into."""
        size = os.fstat(handle).st_size
        # Memory without a file is private too: the kernel is slow to make what a forked process would share.
        memory = mmap.mmap(handle if mapped else -1, size, access=mmap.ACCESS_COPY)
        return cls(header, memory, None if mapped else handle)

    def check(self, wanted: set[int]) -> None:
        """Read entries that are not mapped, and refuse those whose bytes are not what was saved.

        Args:
            wanted: Which of the entries.
        """
        view = memoryview(self.memory)
        with digester(self._read) as digest:
            rows = [
                (entry, said, digest.pieces(view[at : at + entry.nbytes], at))
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

    def _read(self, piece: memoryview, at: int) -> None:
        done = 0
        while self.handle is not None and done < len(piece):
            part = os.preadv(self.handle, [piece[done:]], at + done)
            if part == 0:
                raise CheckpointError(f"it became shorter than {at + len(piece)} bytes while it was read.")
            done += part

    def tensors(self, wanted: set[int], device: torch.device | None) -> "Tensors":
        """Makes tensors from the memory of entries, each with a storage of its own.

        Args:
            wanted: Which of the entries.
            device: Of all of them; by default of what each is like.
        """
        made: dict[int, Tensor] = {}
        for position, (entry, at) in enumerate(self.header.places()):
            if position in wanted:
                memory = torch.empty(0, dtype=torch.uint8, device="cpu")
                if entry.nbytes:
                    memory = torch.frombuffer(self.memory, dtype=torch.uint8, count=entry.nbytes, offset=at)
                made[position] = memory if at % LINE == 0 else memory.clone()
        return Tensors(made, device)


class Tensors:
    """Makes the tensors of a file; two leaves that were one are one again.

    Args:
        memory: The bytes of each entry.
        device: As `Contents.tensors`.
    """

    def __init__(self, memory: dict[int, Tensor], device: torch.device | None) -> None:
        self._memory = memory
        self._device = device
        self._moved: dict[tuple[int, torch.device], Tensor] = {}
        self._made: dict[tuple[str, torch.device], Tensor] = {}

    def __call__(self, node: Any, like: Any) -> Tensor:
        device = self._device
        if device is None:
            device = like.device if isinstance(like, Tensor) and not like.is_meta else torch.device("cpu")
        text = (repr(sorted(node.items())), device)
        if text not in self._made:
            place = (node["tensor"], device)
            if place not in self._moved:
                self._moved[place] = self._memory[node["tensor"]].to(device)
            try:
                self._made[text] = tensor_from(node, self._moved[place])
            except (RuntimeError, OverflowError, ValueError) as error:
                raise CheckpointError(f"torch makes no tensor of {node!r:.200}: {error}") from error
        return self._made[text]
