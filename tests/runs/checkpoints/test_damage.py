"""A file with any bit flipped, or cut anywhere, does not load."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import functional_train as ft
from tests.runs.checkpoints.trees import assert_same


def small() -> dict[str, Any]:
    """Every kind of entry: plain, strided, shared, empty, and values in the header."""
    base = torch.arange(6.0)
    return {
        "w": torch.tensor([1.0, -2.0, 3.5], dtype=torch.float64),
        "low": base[:4],
        "high": base[2:],
        "half": torch.ones(3, dtype=torch.bfloat16).reshape(3, 1),
        "turned": torch.arange(4.0).reshape(2, 2).t(),
        "none": torch.empty(0, 2),
        "n": 3,
        "rate": 0.1,
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("damage") / "tree.ckpt"
    ft.save(path, small(), fsync=False)
    return path, path.read_bytes()


READERS: list[Callable[[Path], Any]] = [
    ft.load,
    lambda path: ft.load(path, like=small()),
    lambda path: ft.load(path, like={"w": torch.zeros(3, dtype=torch.float64)}, partial=True),
]


def outcome(read: Callable[[Path], Any], path: Path) -> Any:
    """What is read, or the error, which names the file."""
    try:
        return read(path)
    except ft.CheckpointError as refused:
        found = refused
    assert str(path) in str(found)
    return found


def flips(whole: tuple[Path, bytes], places: range) -> None:
    path, content = whole
    begin = 8 + int.from_bytes(content[:8], "little")
    for place in places:
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            for read in READERS[:2]:
                found = outcome(read, path)
                assert isinstance(found, ft.CheckpointError), f"bit {bit} of byte {place}"
                if place >= begin:
                    assert any(f"'{name}" in str(found) for name in small()), str(found)
            # What is not read of a file is not compared; what is read is right.
            found = outcome(READERS[2], path)
            if not isinstance(found, ft.CheckpointError):
                assert place >= begin
                assert_same(found, {"w": small()["w"]})
    path.write_bytes(content)


def test_every_flipped_bit_of_the_numbers(whole: tuple[Path, bytes]) -> None:
    """Refused with the file and the leaf."""
    content = whole[1]
    flips(whole, range(8 + int.from_bytes(content[:8], "little"), len(content)))


def test_flipped_bits_of_the_header(whole: tuple[Path, bytes]) -> None:
    """Refused with the file: each byte of the length and of the beginning, and each seventh of the rest."""
    flips(whole, range(120))
    flips(whole, range(120, 8 + int.from_bytes(whole[1][:8], "little"), 7))


@pytest.mark.slow
def test_every_flipped_bit(whole: tuple[Path, bytes]) -> None:
    """All of them."""
    flips(whole, range(len(whole[1])))


def test_every_truncation(whole: tuple[Path, bytes]) -> None:
    """Refused with the file, and with the leaf where the header says which."""
    path, content = whole
    begin = 8 + int.from_bytes(content[:8], "little")
    for length in range(len(content)):
        path.write_bytes(content[:length])
        for read in READERS:
            found = outcome(read, path)
            assert isinstance(found, ft.CheckpointError), length
            if length >= begin:
                assert f"it ends after {length} bytes, inside '" in str(found)
    path.write_bytes(content)


def test_bytes_added(whole: tuple[Path, bytes]) -> None:
    """A longer file is another file."""
    path, content = whole
    for more in (b"\0", content):
        path.write_bytes(content + more)
        for read in READERS:
            assert "Something was added to it" in str(outcome(read, path))
    path.write_bytes(content)


def test_leaves_exchanged(whole: tuple[Path, bytes]) -> None:
    """Right bytes in the wrong place: two leaves of one size, each with the other's numbers."""
    path = whole[0]
    ft.save(path, {"a": torch.ones(4), "b": torch.zeros(4)}, fsync=False)
    content = path.read_bytes()
    path.write_bytes(content[:-32] + content[-16:] + content[-32:-16])
    assert "'a' is not what was saved" in str(outcome(READERS[0], path))
    path.write_bytes(whole[1])


def test_pieces_exchanged(tmp_path: Path) -> None:
    """Large leaves are compared in pieces, whose order counts."""
    path = tmp_path / "large.ckpt"
    ft.save(path, torch.arange(3 << 20), fsync=False)
    content = bytearray(path.read_bytes())
    piece = 1 << 22
    content[-piece:], content[-2 * piece : -piece] = content[-2 * piece : -piece], content[-piece:]
    path.write_bytes(content)
    assert "'tensor' is not what was saved" in str(outcome(READERS[0], path))
