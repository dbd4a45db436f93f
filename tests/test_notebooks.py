"""Every notebook runs from top to bottom without an error, ends in an assert, and stores the outputs of such a run."""

from pathlib import Path

import pytest
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tests import notebooks

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    """A notebook runs in a fresh kernel within two minutes."""
    notebooks.execute(notebooks.read(path), tmp_path)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_notebook_is_stored_clean(path: Path) -> None:
    """A notebook ends in an assert and shows the outputs of one clean run."""
    notebook = notebooks.read(path)
    assert notebooks.ends_in_assert(notebook), f"{path.name}: the last code cell has no assert"
    assert not notebooks.stored_faults(notebook), f"{path.name}: {notebooks.stored_faults(notebook)}"


def test_an_error_is_seen(tmp_path: Path) -> None:
    """A cell that raises fails the run, in the folder that was asked for."""
    cells = [new_code_cell("import pathlib; pathlib.Path('here').touch()"), new_code_cell("assert 1 == 2")]
    with pytest.raises(CellExecutionError, match="assert 1 == 2"):
        notebooks.execute(new_notebook(cells=cells), tmp_path)
    assert (tmp_path / "here").exists()


@pytest.mark.slow
def test_a_long_run_is_stopped(tmp_path: Path) -> None:
    """A notebook that takes too long is ended, however its time is spread over cells."""
    cells = [new_code_cell("import time; time.sleep(1)") for _ in range(9)]
    with pytest.raises(CellTimeoutError):
        notebooks.execute(new_notebook(cells=cells), tmp_path, timeout=4.0)


def test_stored_faults_are_seen() -> None:
    """A missing assert, missing outputs, cells out of order and a stored error are each reported."""
    error = new_output("error", ename="E", evalue="", traceback=[])
    text = new_output("stream", text="1")
    good = new_notebook(cells=[new_code_cell("1", execution_count=1, outputs=[text])])
    assert notebooks.stored_faults(good) == []
    assert not notebooks.ends_in_assert(good)
    assert notebooks.ends_in_assert(new_notebook(cells=[new_code_cell("assert x"), new_code_cell(" ")]))
    bad = new_notebook(cells=[new_code_cell("1", execution_count=2, outputs=[error])])
    assert len(notebooks.stored_faults(bad)) == 2
    assert len(notebooks.stored_faults(new_notebook(cells=[new_code_cell("1", execution_count=1)]))) == 1
