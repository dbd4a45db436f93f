"""Loads files that a fuzzer makes, guided by which lines of the reader they reach.

    pip install atheris && python -m tests.runs.checkpoints.fuzz -max_total_time=600

A crash is any exception but those that `load` promises, a load that takes longer than a second, or memory beyond
what a small file may take. Each input is a file; the same with its own digest put right, so that what is behind it is
reached too; and the text of a tree in a file that is otherwise whole.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["functional_train.runs.checkpoints"]):
    import functional_train as ft

import torch

from tests.runs.checkpoints.test_hostile import F4, forged, sealed

_FLAGS = ("-timeout=1", "-rss_limit_mb=2048", "-max_len=4096")


def first_inputs(folder: Path) -> None:
    """Whole files of small trees, which the fuzzer begins to change."""
    ones = torch.ones(3)
    for place, tree in enumerate(
        (
            {"w": ones, "b": torch.tensor(1.0, dtype=torch.bfloat16)},
            [ones, (ones[1:], None), {"n": 3, "name": "x", "big": 2**70, "inf": float("inf")}],
            ft.init_state(ft.Params({"a.b": ones}), ft.adam()),
            {"shared": (ones, ones.view(3, 1)), "c": torch.ones(2, dtype=torch.complex64)},
            torch.empty(0, 4),
        )
    ):
        ft.save(folder / str(place), tree)
        content = (folder / str(place)).read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        (folder / f"tree-{place}").write_text(header["__metadata__"]["functional_train.tree"])


def main() -> None:
    """Fuzz until it is stopped, or for as long as the options say."""
    with tempfile.TemporaryDirectory() as name:
        path, inputs = Path(name, "file"), Path(name, "inputs")
        inputs.mkdir()
        first_inputs(inputs)
        like = {"w": torch.ones(3), "b": torch.tensor(1.0, dtype=torch.bfloat16)}

        def load_one(content: bytes) -> None:
            text = content.decode(errors="replace")
            for data in (content, _put_right(content), forged(None, [F4, F4._replace(name="b")], bytes(32), tree=text)):
                path.write_bytes(data)
                for expected in (None, like):
                    with contextlib.suppress(ft.CheckpointError, ft.StructureError):
                        ft.tree.map(torch.clone, ft.load(path, like=expected)) if expected else ft.load(path)

        atheris.Setup([sys.argv[0], *_FLAGS, *sys.argv[1:], str(inputs)], load_one)
        atheris.Fuzz()


def _put_right(content: bytes) -> bytes:
    """The same header with its own digest, if it still has a place for one."""
    length = int.from_bytes(content[:8], "little")
    if not 0 < length <= len(content) - 8 or b'"functional_train.digest":"' not in content:
        return content
    text = content[8 : 8 + length].decode(errors="replace").rstrip(" ")
    return sealed(text, content[8 + length :])


if __name__ == "__main__":
    main()
