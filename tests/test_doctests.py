"""Every example in a docstring, and every Python block of the README, runs."""

import doctest
import importlib
import traceback
from pathlib import Path

import pytest
import torch

from tests import house, readme
from tests.global_rng import seeded
from tests.public_names import PublicName, public_names

ROOT = Path(__file__).parents[1]
MODULES = [module.name for module in house.read_modules(ROOT) if module.room != "__main__"]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(module_name: str, public: list[PublicName]) -> list[doctest.DocTest]:
    """Collect the docstrings with examples of one module.

    The finder passes over functions that a decorator of another module wrapped; public ones are fetched by name.
    """
    module = importlib.import_module(module_name)
    names = {"ft": importlib.import_module(house.PACKAGE), "torch": torch}
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = {test.name: test for test in finder.find(module, extraglobs=names)}
    for name in public:
        if name.has_docstring_of_its_own and name.value.__module__ == module_name and name.home not in found:
            found |= {test.name: test for test in finder.find(name.value, name.home, module, extraglobs=names)}
    return [test for test in found.values() if test.examples]


def failures(test: doctest.DocTest) -> str:
    """Run the examples of one docstring and return the report of those that failed."""
    report: list[str] = []
    with seeded(0):
        doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_module(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of a module prints what its docstring shows."""
    monkeypatch.chdir(tmp_path)
    report = "\n".join(filter(None, map(failures, examples(module, public_names()))))
    assert not report, report


def test_every_public_example_is_run() -> None:
    """No public name has an example that the tests above pass over."""
    public = [name for name in public_names() if name.has_docstring_of_its_own]
    run = {test.name for module in MODULES for test in examples(module, public)}
    passed_over = [name.path for name in public if ">>> " in (name.value.__doc__ or "") and name.home not in run]
    assert not passed_over, f"examples that never run: {passed_over}"
    assert run, "no module has an example"


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python blocks of the README run in order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    blocks = readme.python_blocks((ROOT / "README.md").read_text())
    assert blocks, "README.md has no block fenced as python"
    with seeded(0):
        readme.run(blocks, "README.md")


def test_a_wrong_example_is_seen() -> None:
    """An example that prints something else fails, and names its line."""
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", "wrong.py", 0)
    assert "Expected:\n    3\nGot:\n    2" in failures(test)


def test_only_python_blocks_are_run() -> None:
    """Shell blocks and exempted blocks are left out; the rest share a namespace and know their lines."""
    text = "```sh\nexit 1\n```\n<!-- not run: needs a cluster -->\n```python\n1 / 0\n```\n```python\nx = 1\n```\n"
    blocks = readme.python_blocks(text + "<!-- not run: -->\n```python\nx + 1\nx / 0\n```\n")
    assert [block.line for block in blocks] == [9, 13]
    with pytest.raises(ZeroDivisionError) as error:
        readme.run(blocks, "README.md")
    assert traceback.extract_tb(error.value.__traceback__)[-1].lineno == 14
