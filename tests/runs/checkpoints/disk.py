"""A disk that remembers what reached it, and disks that fail."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


class Recorded:
    """The file operations below a folder, in order, with what each of them wrote.

    Args:
        folder: Where everything happens.
        monkeypatch: Puts the real functions back.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.operations: list[tuple[Any, ...]] = []
        self._names: dict[int, str] = {}
        self._folder = str(folder)
        real = {name: getattr(os, name) for name in ("open", "pwrite", "fsync", "close", "replace", "unlink")}

        def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            handle = real["open"](path, flags, *args, **kwargs)
            name = os.fspath(path)
            if name.startswith(self._folder):
                self._names[handle] = name
                if flags & os.O_CREAT:
                    self.operations.append(("create", name))
            return handle

        def pwrite(handle: int, data: Any, at: int) -> int:
            done = real["pwrite"](handle, data, at)
            if handle in self._names:
                self.operations.append(("write", self._names[handle], bytes(data[:done]), at))
            return done

        def fsync(handle: int) -> None:
            real["fsync"](handle)
            if handle in self._names:
                self.operations.append(("fsync", self._names[handle]))

        def close(handle: int) -> None:
            self._names.pop(handle, None)
            real["close"](handle)

        def replace(source: Any, target: Any, **kwargs: Any) -> None:
            real["replace"](source, target, **kwargs)
            self.operations.append(("replace", os.fspath(source), os.fspath(target)))

        def unlink(path: Any, *args: Any, **kwargs: Any) -> None:
            real["unlink"](path, *args, **kwargs)
            self.operations.append(("unlink", os.fspath(path)))

        for function in (opened, pwrite, fsync, close, replace, unlink):
            monkeypatch.setattr(os, "open" if function is opened else function.__name__, function)

    def acknowledge(self, what: Any) -> None:
        """Note that somebody was told that this is on the disk."""
        self.operations.append(("acknowledged", what))


def after_power_failure(operations: list[tuple[Any, ...]]) -> Iterator[dict[str, bytes]]:
    """The folders that may be found after the power failed behind these operations, name to content.

    The worst that a file system may do: contents that were not synced are lost whole, or but for the first write, or
    the last; and changes of names since the last sync of the folder are lost, or are there before the contents.
    """
    for names_survive in (True, False):
        for contents_survive in ("none", "first", "last", "all"):
            durable: dict[str, str] = {}  # name on the disk -> file
            current: dict[str, str] = {}
            contents: dict[str, bytearray] = {}
            pending: dict[str, list[tuple[bytes, int]]] = {}
            for number, (kind, *rest) in enumerate(operations):
                if kind == "create":
                    current[rest[0]] = f"{rest[0]}@{number}"
                    contents[current[rest[0]]], pending[current[rest[0]]] = bytearray(), []
                elif kind == "write":
                    pending[current[rest[0]]].append((rest[1], rest[2]))
                elif kind == "fsync" and rest[0] in current:
                    file = current[rest[0]]
                    _apply(contents[file], pending[file])
                    pending[file] = []
                elif kind == "fsync":  # of the folder
                    durable = dict(current)
                elif kind == "replace":
                    current[rest[1]] = current.pop(rest[0])
                elif kind == "unlink":
                    current.pop(rest[0], None)
            found: dict[str, bytes] = {}
            for name, file in (current if names_survive else durable).items():
                content, writes = bytearray(contents[file]), pending[file]
                chosen = {"none": [], "first": writes[:1], "last": writes[-1:], "all": writes}[contents_survive]
                _apply(content, chosen)
                found[name] = bytes(content)
            yield found


def _apply(content: bytearray, writes: list[tuple[bytes, int]]) -> None:
    for data, at in writes:
        content.extend(bytes(max(at + len(data) - len(content), 0)))
        content[at : at + len(data)] = data


FAULTS = {
    "disk full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "quota": OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    "permission denied": PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
    "read-only": OSError(errno.EROFS, os.strerror(errno.EROFS)),
    "input/output error": OSError(errno.EIO, os.strerror(errno.EIO)),
}
CALLS = ("open", "pwrite", "fsync", "replace")


def failing(name: str, number: int, fault: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the n-th call of a function of `os` fail."""
    real, calls = getattr(os, name), iter(range(1_000_000))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            raise type(fault)(fault.errno, fault.strerror)
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, call)
