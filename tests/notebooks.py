"""Execute a notebook in a fresh kernel, and read what it stores."""

import ast
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

TIMEOUT = 120.0  # seconds for a whole notebook


def execute(notebook: NotebookNode, folder: Path, timeout: float = TIMEOUT) -> None:
    """Run all cells in order, with `folder` as the working directory; any error is raised."""
    deadline = time.monotonic() + timeout

    def time_left(cell: NotebookNode) -> int:
        del cell
        return max(1, round(deadline - time.monotonic()))

    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_name="python3", resources=place, timeout_func=time_left).execute()


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """List the code cells that are not empty."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def ends_in_assert(notebook: NotebookNode) -> bool:
    """Whether the last code cell checks something."""
    cells = code_cells(notebook)
    return bool(cells) and any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(cells[-1].source)))


def stored_faults(notebook: NotebookNode) -> list[str]:
    """Say what keeps the stored outputs from being those of one clean run from top to bottom."""
    cells = code_cells(notebook)
    faults = ["no cell has an output"] if not any(cell.outputs for cell in cells) else []
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        faults.append(f"cells were not run once each from top to bottom: {counts}")
    faults += [
        f"cell {number} stores an error"
        for number, cell in enumerate(cells, 1)
        if any(output.output_type == "error" for output in cell.outputs)
    ]
    return faults


def read(path: Path) -> NotebookNode:
    """Read a notebook and check its format."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook
