"""Files that somebody made to do harm: nothing runs, and they are refused quickly and in little memory."""

import contextlib
import io
import json
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import functional_train as ft
from functional_train.runs.checkpoints._digests import finish
from functional_train.runs.checkpoints._header import meaning, write_header
from functional_train.runs.checkpoints._layout import Entry

_FILLED = '"functional_train.digest":"'


def sealed(text: str, data: bytes = b"") -> bytes:
    """A file with any header text, whose own digest is right: whoever forges a file can do that too."""
    head = text.encode()
    head += b" " * (-(8 + len(head)) % 64)
    header = len(head).to_bytes(8, "little") + head
    at = header.find(_FILLED.encode()) + len(_FILLED)
    blank = header[:at] + b"0" * 64 + header[at + 64 :]
    return header[:at] + sha256(blank).hexdigest().encode() + header[at + 64 :] + data


def forged(node: Any, entries: list[Entry] | None = None, data: bytes = b"", tree: str | None = None) -> bytes:
    """A file with any tree and entries, and right digests of all of it."""
    entries = entries or []
    digests, at = [], 0
    for entry in entries:
        digests.append(finish(meaning(entry), [sha256(data[at : at + entry.nbytes]).digest()]))
        at += entry.nbytes
    text = write_header(node, entries, digests)[8:].decode()
    if tree is not None:
        start = text.index('"functional_train.tree":') + len('"functional_train.tree":')
        end = json.JSONDecoder().raw_decode(text, start)[1]
        text = text[:start] + json.dumps(tree) + text[end:]
    return sealed(text, data)


def rewritten(old: str, new: str, node: Any = None, entries: list[Entry] | None = None, data: bytes = b"") -> bytes:
    """A forged file in whose header something else is written."""
    text = forged(node, entries, data)[8 : -len(data) or None].decode().rstrip(" ")
    assert old in text
    return sealed(text.replace(old, new), data)


F4 = Entry("a", "F32", (4,))
A4 = {"tensor": 0, "dtype": "float32", "shape": [4]}
ZEROS = bytes(16)


def tensor(**changes: Any) -> dict[str, Any]:
    return A4 | changes


def container(kind: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "children": [], **more}


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path("ran"),)


def saved_by_torch(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


HOSTILE: dict[str, bytes | Callable[[], bytes]] = {
    **{f"pickle, protocol {protocol}": pickle.dumps(Bomb(), protocol=protocol) for protocol in range(6)},
    "torch.save of a bomb": lambda: saved_by_torch(Bomb()),
    "torch.save of a tensor": lambda: saved_by_torch(torch.ones(3)),
    "nothing": b"",
    "seven bytes": b"1234567",
    "text": b"hello, this is a note of some length that somebody kept beside the checkpoints, and no checkpoint",
    "a header of 2^63 bytes": (1 << 63).to_bytes(8, "little") + b'{"__metadata__"' + bytes(200),
    "a header of 2^60 bytes": (1 << 60).to_bytes(8, "little") + forged(None)[8:],
    "2^60 elements": rewritten("[4]", f"[{1 << 60}]", A4, [F4], ZEROS),
    "2^60 elements, and offsets to match": lambda: rewritten(
        '[4],"data_offsets":[0,16]', f'[{1 << 60}],"data_offsets":[0,{1 << 62}]', A4, [F4], ZEROS
    ),
    "sizes whose product overflows": rewritten("[4]", f"[{1 << 32},{1 << 32},4]", A4, [F4], ZEROS),
    "negative sizes": rewritten("[4]", "[-4]", A4, [F4], ZEROS),
    "sizes with a comma too many": rewritten("[4]", "[4,]", A4, [F4], ZEROS),
    "overlapping entries": lambda: rewritten(
        '"data_offsets":[16,32]', '"data_offsets":[0,16]', A4, [F4, Entry("b", "F32", (4,))], bytes(32)
    ),
    "a gap between entries": lambda: rewritten(
        '"data_offsets":[16,32]', '"data_offsets":[32,48]', A4, [F4, Entry("b", "F32", (4,))], bytes(48)
    ),
    "an entry beyond the end": forged(A4, [F4], ZEROS)[:-1],
    "a dtype that is none": rewritten('"F32"', '"F33"', A4, [F4], ZEROS),
    "two entries of one name": forged(A4, [F4, F4], bytes(32)),
    "an entry for metadata": forged(None, [Entry("__metadata__", "F32", (4,))], ZEROS),
    "fewer digests than entries": rewritten('leaves":"', 'leaves":"00', A4, [F4], ZEROS),
    "a later format": rewritten('version":"1"', 'version":"2"', A4, [F4], ZEROS),
    "a tensor that is not there": forged(tensor(tensor=1), [F4], ZEROS),
    "a tensor before the first": forged(tensor(tensor=-1), [F4], ZEROS),
    "a tensor by a float": forged(tensor(tensor=0.0), [F4], ZEROS),
    "another shape than its entry": forged(tensor(shape=[5]), [F4], ZEROS),
    "another dtype than its entry": forged(tensor(dtype="float64", shape=[2]), [F4], ZEROS),
    "a dtype by another name": forged(tensor(dtype="nn"), [F4], ZEROS),
    "a dtype that is a list": forged(tensor(dtype=["float32"]), [F4], ZEROS),
    "strides beyond the entry": forged(tensor(stride=[4]), [F4], ZEROS),
    "strides for a shape of another length": forged(tensor(stride=[1, 1]), [F4], ZEROS),
    "a view beyond the memory": forged(tensor(stride=[1], offset=1), [F4], ZEROS),
    "a view that strides beyond it": forged(tensor(stride=[1 << 40], offset=0), [F4], ZEROS),
    "a view before it": forged(tensor(stride=[1], offset=-1), [F4], ZEROS),
    "empty, and too large for torch": forged(
        tensor(shape=[0, 1 << 62, 1 << 62]), [Entry("a", "F32", (0, 1 << 62, 1 << 62))]
    ),
    "a tensor of no dtype": forged({"tensor": 0, "shape": [4]}, [F4], ZEROS),
    "a tensor of no shape": forged({"tensor": 0, "dtype": "float32"}, [F4], ZEROS),
    "a shape that is a number": forged(tensor(shape=4), [F4], ZEROS),
    "strides that are null": forged(tensor(stride=None), [F4], ZEROS),
    "a view without strides": forged(tensor(offset=0), [F4], ZEROS),
    "no tree": forged("x"),
    "a tree that is a list": forged([]),
    "a container of no kind": forged(container("set")),
    "a kind that is a list": forged({"kind": ["list"], "children": []}),
    "children that are none": forged({"kind": "list", "children": {}}),
    "more names than children": forged(container("dict", keys=["a"])),
    "a name twice": forged({"kind": "dict", "keys": ["a", "a"], "children": [None, None]}),
    "a name that cannot be one": forged({"kind": "dict", "keys": [["a"]], "children": [None]}),
    "a name of Params that is no word": forged({"kind": "Params", "keys": [1], "children": [None]}),
    "a factory that runs": forged(container("defaultdict", keys=[], factory="os.system")),
    "a maxlen that is none": forged(container("deque", maxlen="3")),
    "a maxlen below zero": forged(container("deque", maxlen=-3)),
    "a class of the system": forged(container("namedtuple", keys=[], **{"class": "os:system"})),
    "a function of ours": forged(container("struct", keys=[], static={}, **{"class": "functional_train:save"})),
    "a module of ours": forged(container("struct", keys=[], static={}, **{"class": "functional_train:tree"})),
    "what our modules import": forged(
        container("namedtuple", keys=[], **{"class": "functional_train.runs.fit:Any"})
    ),
    "a class of ours with other fields": forged(
        container("struct", keys=[], static={}, **{"class": "functional_train.steps.state:TrainState"})
    ),
    "a class that is a list": forged(container("struct", keys=[], static={}, **{"class": [1]})),
    "static fields that are a list": forged(container("struct", keys=[], static=[], **{"class": "a:b"})),
    "static fields of a list": forged(container("list", static={})),
    "a tensor with children": forged(A4 | {"children": [{}]}, [F4], ZEROS),
    "a value with children": forged({"value": 1, "children": [{}]}),
    "nothing but an empty node": forged({}),
    "a factory that is a list": forged(container("defaultdict", keys=[], factory=[])),
    "a value of no kind": forged({"value": {"pickle": "x"}}),
    "a value with two tags": forged({"value": {"float": "nan", "bytes": ""}}),
    "bytes that are none": forged({"value": {"bytes": "zz"}}),
    "a device that is none": forged({"value": {"device": "; rm -rf"}}),
    "a size with a word in it": forged({"value": {"size": ["a"]}}),
    "a key twice": forged(None, tree='{"kind":"list","kind":"tuple","children":[]}'),
    "not a number": forged(None, tree='{"value":NaN}'),
    "a tree that is no JSON": forged(None, tree="__import__('os').system('touch ran')"),
    "a tree that is cut short": forged(None, tree='{"kind":"list"'),
    "nested a million times": lambda: forged(None, tree="[" * 1_000_000),
    "containers nested a hundred thousand times": lambda: forged(
        None, tree='{"kind":"list","children":[' * 10_000 + "]}" * 10_000
    ),
    "values nested ten thousand times": lambda: forged(
        None, tree='{"value":' + '{"tuple":[' * 5_000 + "]}" * 5_000 + "}"
    ),
    "ten million empty lists": lambda: forged(None, tree='{"kind":"list","children":[' + "[]," * 10_000_000 + "null]}"),
    "a name of fifty megabytes": lambda: forged(A4, [Entry("a" * 50_000_000, "F32", (4,))], ZEROS)[:-1],
    "a number with a million digits": lambda: forged(None, tree='{"value":' + "1" * 1_000_000 + "}"),
    "backslashes": lambda: forged(None, tree="\\" * 1_000_000),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With an error that names the file, in less than a second; nothing runs and no class is looked for."""
    monkeypatch.chdir(tmp_path)
    content = HOSTILE[name]
    path = tmp_path / "hostile.ckpt"
    path.write_bytes(content if isinstance(content, bytes) else content())
    before = set(sys.modules)
    for like in (None, {"a": torch.zeros(4)}):
        begun = time.process_time()
        with pytest.raises(ft.FunctionalTrainError) as caught:
            ft.load(path, like=like)
        assert time.process_time() - begun < 1.0
        assert len(str(caught.value)) < 5_000
        assert str(path) in str(caught.value) or "load makes only when it is shown one" in str(caught.value)
    assert set(sys.modules) == before
    assert not (tmp_path / "ran").exists()


_WATCHED = """
import resource, sys, functional_train as ft
ran = []
events = ("exec", "compile", "import", "os.system", "subprocess.Popen", "pickle.find_class", "os.exec", "marshal.loads")
ft.save("warm.ckpt", 1, fsync=False)
ft.load("warm.ckpt")
try: ft.load(sys.argv[1])
except ft.FunctionalTrainError: pass
sys.addaudithook(lambda event, args: ran.append(event) if event in events else None)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    before = peak()
    try:
        ft.load(path)
    except ft.FunctionalTrainError:
        print(path, peak() - before, *ran)
    else:
        print(path, "loaded")
"""


def test_nothing_runs_and_little_memory_is_taken(tmp_path: Path) -> None:
    """In a process of its own: Python's audit hook sees no code, and memory grows by at most twice the file.

    For small files by 8 MB, which is what the first use of a module takes.
    """
    paths = []
    contents = {name: made if isinstance(made, bytes) else made() for name, made in HOSTILE.items()}
    # A peak would hide the smaller ones after it.
    names = sorted(contents, key=lambda name: len(contents[name]))
    for place, name in enumerate(names):
        paths.append(tmp_path / f"{place}.ckpt")
        paths[-1].write_bytes(contents[name])
    command = [sys.executable, "-c", _WATCHED, *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    assert len(lines) == len(HOSTILE)
    for path, line in zip(paths, lines, strict=True):
        _, grown, *ran = line.split()
        assert not ran, line
        assert int(grown) * 1024 <= max(2 * path.stat().st_size, 8 << 20), f"{names[int(path.stem)]}: {line}"


def test_the_forger_can_forge(tmp_path: Path) -> None:
    """The files above are refused for what is wrong with them: the same ones without a fault load."""
    path = tmp_path / "right.ckpt"
    path.write_bytes(forged(A4, [F4], ZEROS))
    assert torch.equal(ft.load(path), torch.zeros(4))
    path.write_bytes(forged(tensor(stride=[1], offset=0), [F4], ZEROS))
    assert torch.equal(ft.load(path), torch.zeros(4))
    path.write_bytes(rewritten('version":"1"', 'version":"1"', container("list")))
    assert ft.load(path) == []
    path.write_bytes(forged(None, tree='{"value":3}'))
    assert ft.load(path) == 3


def mutations() -> Iterator[bytes]:
    yield forged(A4, [F4], ZEROS)
    yield forged({"kind": "dict", "keys": ["a", 1], "children": [A4, {"value": {"tuple": [1]}}]}, [F4], ZEROS)
    yield forged(
        {"kind": "struct", "class": "functional_train.steps.state:TrainState", "static": {},
         "keys": ["step", "params", "opt_state", "buffers", "key"], "children": [A4, A4, None, None, None]},
        [F4], ZEROS,
    )  # fmt: skip


SEEDS = list(mutations())
PIECES = ('"', "\\", "{", "[", ",", "null", "0", "9" * 11)


@given(data=st.data())
def test_any_other_file(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A header in which anything is exchanged, sealed again: an error of ours, or a tree."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.ckpt"
    content = data.draw(st.sampled_from(SEEDS))
    text = content[8:-16].decode()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        old = data.draw(st.integers(0, 8))
        new = data.draw(st.one_of(st.text(max_size=4), st.sampled_from(PIECES)))
        text = text[:at] + new + text[at + old :]
    path.write_bytes(sealed(text.rstrip(" "), content[-16:]))
    for like in (None, torch.zeros(4)):
        with contextlib.suppress(ft.FunctionalTrainError):
            ft.load(path, like=like)


def test_peak_memory_is_in_kilobytes() -> None:
    """What the test of memory multiplies."""
    assert 10_000 < resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 100_000_000
