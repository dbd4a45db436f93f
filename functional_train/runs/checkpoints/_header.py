"""The header of a file: a safetensors header in one canonical form, with a digest of itself."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from functional_train.runs.checkpoints._describe import Node, check_node
from functional_train.runs.checkpoints._digests import HEX
from functional_train.runs.checkpoints._layout import SIZES, Entry
from functional_train.values.errors import CheckpointError, StructureError

VERSION = 1
LENGTH = 8
_MULTIPLE = 64
_BEFORE = f'{{"__metadata__":{{"format":"pt","functional_train.version":"{VERSION}","functional_train.digest":"'
_LEAVES, _TREE = '","functional_train.leaves":"', '","functional_train.tree":'
_ENTRY = re.compile(r':\{"dtype":"([A-Z0-9_]+)","shape":\[([0-9,]*)\],"data_offsets":\[([0-9]+),([0-9]+)\]\}')
_OTHER_VERSION = re.compile(rb'"functional_train\.version":"([0-9]{1,9})"')
_STARTS = {
    b"PK\x03\x04": "a zip archive, as torch.save writes it",
    **{b"\x80" + bytes([protocol]): "a pickle" for protocol in range(2, 6)},
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
}
# Commas and brackets in the text of a tree that has no tensors; a tree may have more of them with each tensor.
_PARTS, _PARTS_A_TENSOR = 1_000_000, 32
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"')
_LONGEST = 100_000_000


class Header(NamedTuple):
    """What a file says that it holds.

    Attributes:
        node: The tree, described.
        entries: Runs of bytes, one after the other.
        digests: Of each entry, in hexadecimal.
        begin: Where the first entry begins.
    """

    node: Node
    entries: list[Entry]
    digests: list[str]
    begin: int

    def places(self) -> Iterator[tuple[Entry, int]]:
        """The entries, and where each begins."""
        at = self.begin
        for entry in self.entries:
            yield entry, at
            at += entry.nbytes


def meaning(entry: Entry) -> str:
    """What the digest of an entry is of, besides its bytes."""
    return json.dumps([entry.name, entry.code, entry.shape])


def write_header(node: Node, entries: list[Entry], digests: list[str] | None = None) -> bytes:
    """The first bytes of a file, the length of the header among them.

    Args:
        node: The tree, described.
        entries: In the order of the file.
        digests: Of each entry; without them, zeros of the same length stand for those that are not known yet.
    """
    tree = json.dumps(json.dumps(node, separators=(",", ":"), allow_nan=False))
    rows, at = [], 0
    for entry in entries:
        shape, end = ",".join(map(str, entry.shape)), at + entry.nbytes
        rows.append(
            f',{json.dumps(entry.name)}:{{"dtype":"{entry.code}","shape":[{shape}],"data_offsets":[{at},{end}]}}'
        )
        at = end
    leaves = "".join(digests) if digests is not None else "0" * HEX * len(entries)
    text = f"{_BEFORE}{'0' * HEX}{_LEAVES}{leaves}{_TREE}{tree}}}{''.join(rows)}}}"
    text += " " * (-(LENGTH + len(text)) % _MULTIPLE)
    header = len(text).to_bytes(LENGTH, "little") + text.encode("ascii")
    start = LENGTH + len(_BEFORE)
    return header[:start] + hashlib.sha256(header).hexdigest().encode() + header[start + HEX :]


def check_readable(header: bytes, nbytes: int) -> None:
    """Raise for a header that `read_header` would refuse, before it is written.

    Args:
        header: As `write_header` makes it.
        nbytes: Of all entries.

    Raises:
        StructureError: the tree has too many parts, or equal keys.
    """
    try:
        if len(header) > _LONGEST:
            raise CheckpointError(f"its header would have {len(header)} bytes, more than {_LONGEST}.")
        _parse(header[LENGTH:], len(header), len(header) + nbytes)
    except CheckpointError as error:
        raise StructureError(
            f"this tree cannot be saved: {error} Put many numbers into one tensor, and give keys that differ."
        ) from error


def read_header(handle: int, size: int) -> Header:
    """Read and check the first bytes of a file.

    Args:
        handle: An open file.
        size: Its length in bytes.

    Raises:
        CheckpointError: the header is not what was written, or the file is not as long as it says.
    """
    first = os.pread(handle, LENGTH + len(_BEFORE), 0)
    length = int.from_bytes(first[:LENGTH], "little")
    if first[LENGTH:] != _BEFORE.encode() or length > min(size - LENGTH, _LONGEST):
        raise CheckpointError(_stranger(first, length, size, handle))
    header = os.pread(handle, LENGTH + length, 0)
    start = LENGTH + len(_BEFORE)
    said, blank = header[start : start + HEX], header[:start] + b"0" * HEX + header[start + HEX :]
    if len(header) != LENGTH + length or hashlib.sha256(blank).hexdigest().encode() != said:
        raise CheckpointError("its header is not what was saved: its digest differs. It has decayed or was written to.")
    return _parse(header[LENGTH:], LENGTH + length, size)


def _stranger(first: bytes, length: int, size: int, handle: int) -> str:
    """Why a file is not one of ours."""
    for start, kind in _STARTS.items():
        if first.startswith(start):
            return (
                f"it is {kind}, which load does not read: such files can run code or be silently wrong. Read it with "
                "what wrote it (torch.load(path, weights_only=True)), and write the tree with ft.save."
            )
    if length > size - LENGTH or size < LENGTH + len(_BEFORE):
        return f"it has {size} bytes, fewer than its header claims. It was cut short, or is of another kind."
    if length > _LONGEST:
        return f"its header claims {length} bytes, more than the {_LONGEST} that a header may have."
    version = _OTHER_VERSION.search(os.pread(handle, 1000, LENGTH))
    if version is not None and int(version[1]) != VERSION:
        return f"it has format {int(version[1])}, and this version of functional_train reads {VERSION}. Upgrade it."
    if first[LENGTH : LENGTH + 1] == b"{" and version is None:
        return "ft.save did not write it, or it has decayed. Other safetensors files are read with ft.load_weights."
    return "it is not a file that ft.save wrote, or its first bytes have decayed."


def _parse(header: bytes, begin: int, size: int) -> Header:
    try:
        text = header.decode("ascii")
        at = len(_BEFORE) + HEX
        at = _expect(text, _LEAVES, at)
        end = text.index('"', at)
        leaves = text[at:end]
        tree, at = _string(text, _expect(text, _TREE, end))
        at = _expect(text, "}", at)
        entries = list(_entries(text, at))
        node = _node(tree, len(entries))
    except (ValueError, RecursionError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"its header has a valid digest and makes no sense ({error}); ft.save never wrote it."
        ) from error
    names = {entry.name for entry in entries}
    if len(names) != len(entries) or "__metadata__" in names:
        raise CheckpointError("its header gives two tensors one name; ft.save never wrote it.")
    if len(leaves) != HEX * len(entries):
        raise CheckpointError("its header does not have one digest a tensor; ft.save never wrote it.")
    found = Header(node, entries, [leaves[at : at + HEX] for at in range(0, len(leaves), HEX)], begin)
    total = begin
    for entry, start in found.places():
        total = start + entry.nbytes
        if total > size:
            raise CheckpointError(f"it ends after {size} bytes, inside {entry.name!r:.200}. It was cut short.")
    if total != size:
        raise CheckpointError(f"it has {size} bytes where {total} were saved. Something was added to it.")
    return found


def _expect(text: str, word: str, at: int) -> int:
    if not text.startswith(word, at):
        raise CheckpointError(f"its header has something else at {at} than ft.save writes there.")
    return at + len(word)


def _string(text: str, at: int) -> tuple[str, int]:
    _expect(text, '"', at)
    return json.JSONDecoder().raw_decode(text, at)


def _entries(text: str, at: int) -> Iterator[Entry]:
    offset = 0
    while text.startswith(",", at):
        name, at = _string(text, at + 1)
        found = _ENTRY.match(text, at)
        if found is None or found[1] not in SIZES:
            raise CheckpointError(f"its header describes {name!r:.200} in another way than ft.save does.")
        shape = tuple([int(length) for length in found[2].split(",")]) if found[2] else ()
        entry = Entry(name, found[1], shape)
        if int(found[3]) != offset or int(found[4]) != offset + entry.nbytes:
            raise CheckpointError(
                f"{name!r:.200} lies at {found[3]} to {found[4]}; with shape {shape} after what comes before it, it "
                f"would lie at {offset} to {offset + entry.nbytes}. ft.save never wrote it."
            )
        offset, at = int(found[4]), found.end()
        yield entry
    if text[at:].rstrip(" ") != "}":
        raise CheckpointError("its header goes on where it should end.")


def _node(tree: str, count: int) -> Node:
    # Python's objects take many times the memory of their text.
    bare = _STRING.sub("", tree)
    parts = bare.count(",") + bare.count("[") + bare.count("{")
    if parts > _PARTS + _PARTS_A_TENSOR * count:
        raise CheckpointError(f"its tree has {parts} parts and {count} tensors, more than {_PARTS} and 32 a tensor.")
    node = json.loads(tree, object_pairs_hook=_unique, parse_constant=_no_number)
    check_node(node, count)
    return node


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise CheckpointError("its tree has a key twice; ft.save never wrote it.")
    return made


def _no_number(name: str) -> Any:
    raise CheckpointError(f"its tree has a {name} in it; ft.save never wrote it.")
