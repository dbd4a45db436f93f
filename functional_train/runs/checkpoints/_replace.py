"""A file that is replaced as a whole or not at all."""

import contextlib
import itertools
import os
import stat
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has another kind of lock, and refuses to remove a file that is open
    fcntl = None

_MARK = ".unfinished-"
_numbers = itertools.count()
# Linux writes at most 2 GiB in one call.
_MOST_AT_ONCE = 1 << 30


class Writer:
    """Writes to a file that nobody else can see yet.

    Args:
        handle: A file opened for writing.
        path: Its name, for those who write by name.
    """

    def __init__(self, handle: int, path: Path) -> None:
        self._handle = handle
        self.path = path

    def write(self, view: Any, at: int) -> None:
        """Put bytes at an offset."""
        view = memoryview(view).cast("B")
        done = 0
        while done < len(view):
            done += os.pwrite(self._handle, view[done : done + _MOST_AT_ONCE], at + done)


@contextlib.contextmanager
def replacing(path: Path, *, fsync: bool = True) -> Generator[Writer]:
    """Write a file beside `path` and put it in its place when the block ends well.

    Whatever happens, `path` is the old file or the whole new one, also after the power fails: the bytes are on the disk
    before the name changes, and the name is before this returns. A process that was killed leaves an unfinished file
    behind, and the next one that writes to `path` removes it.

    Args:
        path: Where the file belongs. A symbolic link stays, and the file that it points to is replaced.
        fsync: Whether to wait for the disk. Without, a power failure can leave an older file, or an empty one.

    Raises:
        OSError: naming `path`; nothing is left of the new file then.
    """
    target = Path(os.path.realpath(path))
    with _naming(path):
        _remove_unfinished(target)
        handle, unfinished = _open_beside(target)
    try:
        with _naming(path):
            yield Writer(handle, unfinished)
            if fsync:
                os.fsync(handle)
            unfinished.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    finally:
        os.close(handle)
    if fsync:
        with _naming(path):
            fsync_folder(target.parent)


def fsync_folder(folder: Path) -> None:
    """Have the names in a folder reach the disk."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_unfinished(name: str) -> bool:
    """Whether a file's name is that of one which is being written, or was when its process ended."""
    return name.startswith(".") and _MARK in name


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that they are on the disk."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        fsync_folder(each.parent)


def _open_beside(target: Path) -> tuple[int, Path]:
    """A new file in the folder of `target`, locked for as long as it is open, with the permissions of the old file."""
    if target.is_dir():
        raise IsADirectoryError(21, "Is a directory; a file is written at exactly the path given")
    if target.exists() and not target.is_file():
        raise FileExistsError(17, "Is a pipe or a device, which would be replaced by a file")
    while True:
        # A name that no other thread or process has ever had: whoever finds it unlocked may remove it.
        path = target.parent / f".{_beginning(target)}{_MARK}{os.getpid()}-{time.monotonic_ns()}-{next(_numbers)}"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        if not _is_ours(handle):
            os.close(handle)
            continue
        with contextlib.suppress(OSError):
            os.fchmod(handle, stat.S_IMODE(target.stat().st_mode))
        return handle, path


def _is_ours(handle: int) -> bool:
    """Lock a new file, unless another process took it for a dead one's before the lock was there."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not every file system has locks
        return True
    return os.fstat(handle).st_nlink > 0


def _remove_unfinished(target: Path) -> None:
    """Remove what processes left behind that no longer live."""
    if fcntl is None:
        return
    for path in target.parent.glob(f".{_escaped(_beginning(target))}{_MARK}*"):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # whoever still writes holds it
                path.unlink()
            finally:
                os.close(handle)


def _beginning(target: Path) -> str:
    """As much of a name as leaves room for the rest of another; a file system takes 255 bytes."""
    return os.fsdecode(os.fsencode(target.name)[:160])


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


@contextlib.contextmanager
def _naming(path: Path) -> Generator[None]:
    """Have errors of the system name the file that was to be written."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename == str(path):
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error
