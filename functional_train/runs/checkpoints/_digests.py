"""Digests of long runs of bytes, several pieces at once.

A digest is SHA-256 over what the bytes mean and the SHA-256 of each piece of them, so that pieces can be taken by
several threads. A digest finds decay, not forgery: whoever can write the file can write its digests too.
"""

import hashlib
import os
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

PIECE = 1 << 22
HEX = 64
_MOST_THREADS = 8

# The digests of pieces, or what they will be.
Pieces = list["bytes | Future[bytes]"]


class Digester:
    """Takes digests of pieces, in threads where there are several pieces.

    Args:
        pool: Where long runs of bytes go.
        first: `(piece, offset)`, called by the thread that then takes the piece's digest, while it is in its cache.
    """

    def __init__(self, pool: ThreadPoolExecutor, first: Callable[[memoryview, int], None]) -> None:
        self._pool = pool
        self._first = first

    def pieces(self, view: memoryview, at: int) -> Pieces:
        """Begin to take the digests of all pieces; the bytes have to stay until `finish`, or the end of the digester.

        Args:
            view: The bytes.
            at: Their offset in the file.
        """
        if len(view) <= PIECE // 16:
            return [self._piece(view, at)]
        return [self._begin(view[start : start + PIECE], at + start) for start in range(0, len(view), PIECE)]

    def _begin(self, piece: memoryview, at: int) -> "bytes | Future[bytes]":
        try:
            return self._pool.submit(self._piece, piece, at)
        except RuntimeError:
            # When the interpreter ends, a save in the background still does, without help.
            return self._piece(piece, at)

    def _piece(self, piece: memoryview, at: int) -> bytes:
        self._first(piece, at)
        return hashlib.sha256(piece).digest()


def finish(meaning: str, pieces: Pieces) -> str:
    """The digest, in hexadecimal, of bytes and of what they mean."""
    whole = hashlib.sha256(meaning.encode())
    for piece in pieces:
        whole.update(piece if isinstance(piece, bytes) else piece.result())
    return whole.hexdigest()


@contextmanager
def digester(first: Callable[[memoryview, int], None]) -> Generator[Digester]:
    """A digester whose threads end with the block; what they have not begun when it fails is left.

    Args:
        first: What is done with each piece before its digest is taken, as `Digester` says.
    """
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS), thread_name_prefix="digest")
    try:
        yield Digester(pool, first)
    finally:
        pool.shutdown(cancel_futures=True)
