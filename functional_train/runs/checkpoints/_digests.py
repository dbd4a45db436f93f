"""Digests of long runs of bytes, several pieces at once.

A digest is SHA-256 over what the bytes mean and the SHA-256 of each piece of them, so that pieces can be taken by
several threads. A digest finds decay, not forgery: whoever can write the file can write its digests too.
"""

import hashlib
import os
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

PIECE = 1 << 22
HEX = 64
_MOST_THREADS = 8

# The digests of pieces, or what they will be.
Pieces = list["bytes | Future[bytes]"]


def _piece(view: memoryview) -> bytes:
    return hashlib.sha256(view).digest()


class Digester:
    """Takes digests of pieces, in threads where there are several pieces.

    Args:
        pool: Where long runs of bytes go.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def pieces(self, view: memoryview) -> Pieces:
        """Begin to take the digests of all pieces; the bytes have to stay until `finish`."""
        if len(view) <= PIECE // 16:
            return [_piece(view)]
        return [self._pool.submit(_piece, view[at : at + PIECE]) for at in range(0, len(view), PIECE)]


def finish(meaning: str, pieces: Pieces) -> str:
    """The digest, in hexadecimal, of bytes and of what they mean."""
    whole = hashlib.sha256(meaning.encode())
    for piece in pieces:
        whole.update(piece if isinstance(piece, bytes) else piece.result())
    return whole.hexdigest()


@contextmanager
def digester() -> Generator[Digester]:
    """A digester whose threads end with the block."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_THREADS), thread_name_prefix="digest") as pool:
        yield Digester(pool)
