"""The house stands: every file of the repository keeps the rules, and every rule can be broken."""

import importlib
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import house
from tests.house import Module

ROOT = Path(__file__).parents[1]
MODULES = house.read_modules(ROOT)
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
TOP_LEVEL = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml"),
    *("functional_train", "notebooks", "tests"),
)

Rule = Callable[[Module], list[str]]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_module_keeps_the_rule(rule: Rule, module: Module) -> None:
    """Every module of the package keeps every rule of the house."""
    complaints = rule(module)
    assert not complaints, f"{rule.__doc__}\n" + "\n".join(complaints)


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_test_file_is_short_and_named(path: Path) -> None:
    """The tests keep the cap and the naming rule too."""
    module = Module(".".join(path.relative_to(ROOT).with_suffix("").parts), path.read_text())
    complaints = house.file_is_short(module) + house.name_has_meaning(module)
    assert not complaints, "\n".join(complaints)


def test_imports_form_no_circle() -> None:
    """No module reaches itself through imports, deferred ones included."""
    circle = house.circle(MODULES)
    assert not circle, "imports form a circle: " + " -> ".join(circle)


def test_public_names_are_not_folders() -> None:
    """`ft.x` is never both a folder and a function."""
    package = importlib.import_module(house.PACKAGE)
    assert package.__all__, "functional_train.__all__ is empty"
    folders = house.folders_named_like_functions(MODULES, {name: getattr(package, name) for name in package.__all__})
    assert not folders, f"folders with the name of a public function: {folders}"


def test_top_level_holds_nothing_else() -> None:
    """The top of the repository holds the promised files and folders only; what git ignores does not count."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        entries = {line.split("/")[0] for line in listing.splitlines()}
    else:
        entries = {path.name for path in ROOT.iterdir()}
    strangers = house.strangers_at_the_top(entries, TOP_LEVEL)
    assert not strangers, f"move these out of the top folder: {strangers}"
    missing = sorted(set(TOP_LEVEL) - entries)
    assert not missing, f"missing from the top folder: {missing}"


def test_declared_libraries_are_the_allowed_ones() -> None:
    """What the house lets a module import is what pyproject.toml installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in requirements}

    assert names(project["dependencies"]) == {*house.ANYWHERE, "optree"}
    extras = names(project["optional-dependencies"]["demo"]) | names(project["optional-dependencies"]["test"])
    importable = {"scikit-learn": "sklearn"}
    assert {*house.ONLY_IN, *house.ONLY_IN_FUNCTIONS} - {"optree"} <= {importable.get(name, name) for name in extras}


# One line of source that breaks a rule, where it stands, and a word of the complaint.
BROKEN: list[tuple[Rule, str, str, str]] = [
    (house.imports_point_down, "values.tree", "from functional_train.steps import state", "up"),
    (house.imports_point_down, "values.tree", "import functional_train", "up"),
    (house.imports_point_down, "values.tree", "from functional_train import adam", "up"),
    (house.imports_point_down, "values.tree", "from ..runs.fit import fit", "up"),
    (house.imports_point_down, "values.tree", "def f():\n    import functional_train.plot", "up"),
    (house.imports_point_down, "steps.step", "if TYPE_CHECKING:\n    from functional_train.runs import fit", "up"),
    (house.imports_point_down, "models.functional", "from functional_train.losses import mse", "sideways"),
    (house.imports_point_down, "testing.laws", "from functional_train import plot", "sideways"),
    (house.imports_point_down, "attic.box", "x = 1", "no floor"),
    (house.libraries_have_their_place, "values.params", "import optree", "alone"),
    (house.libraries_have_their_place, "updates.chain", "from hypothesis import given", "alone"),
    (house.libraries_have_their_place, "runs.fit", "def f():\n    import matplotlib.pyplot", "alone"),
    (house.libraries_have_their_place, "plot.curves", "import matplotlib.pyplot as plt", "at the top"),
    (house.libraries_have_their_place, "runs.history", "import numpy as np", "at the top"),
    (house.libraries_have_their_place, "runs.history", "class A:\n    import pandas", "at the top"),
    (house.libraries_have_their_place, "runs.data", "import requests", "not promise"),
    (house.draws_from_keys_only, "losses.mse", "import torch\ntorch.rand(1)", "torch.rand,"),
    (house.draws_from_keys_only, "losses.mse", "import torch as t\nt.randn_like(x)", "torch.randn_like"),
    (house.draws_from_keys_only, "losses.mse", "from torch import bernoulli as b\nb(x)", "torch.bernoulli"),
    (house.draws_from_keys_only, "losses.mse", "import torch.nn.functional as F\nF.dropout(x)", "dropout"),
    (house.draws_from_keys_only, "losses.mse", "from torch import nn\nnn.init.ones_(x)", "torch.nn.init"),
    (house.draws_from_keys_only, "losses.mse", "x.clone().normal_()", "normal_"),
    (house.draws_from_keys_only, "losses.mse", "x.uniform_(0, 1)", "uniform_"),
    (house.draws_from_keys_only, "losses.mse", "probabilities.multinomial(2)", "multinomial"),
    (house.draws_from_keys_only, "losses.mse", "import random", "random"),
    (house.draws_from_keys_only, "losses.mse", "from numpy import random", "numpy.random"),
    (house.draws_from_keys_only, "losses.mse", "import numpy as np\nnp.random.default_rng(0)", "numpy.random"),
    (house.file_is_short, "losses.mse", "x = 1\n" * 401, "401 lines"),
    (house.name_has_meaning, "losses.tree_utils", "", "utils"),
    (house.name_has_meaning, "_helpers.mse", "", "helpers"),
    (house.all_is_sorted, "losses.mse", "__all__ = ['b', 'a']", "should read"),
    (house.all_is_sorted, "losses.mse", "__all__: list[str] = ['a', 'a']", "should read"),
    (house.all_is_sorted, "losses.mse", "__all__ = names()", "write it out"),
]
KEPT: list[tuple[Rule, str, str]] = [
    (house.imports_point_down, "steps.step", "from functional_train.values import tree\nfrom . import state"),
    (house.imports_point_down, "updates.optimizers._sgd", "from ..transforms import _clip\nimport torch"),
    (house.imports_point_down, "demo.digits", "import functional_train as ft"),
    (house.libraries_have_their_place, "values.tree._lookup", "import optree, torch"),
    (house.libraries_have_their_place, "values.arithmetic", "import optree"),
    (house.libraries_have_their_place, "testing.laws", "import hypothesis"),
    (house.libraries_have_their_place, "plot.curves", "def f():\n    import matplotlib"),
    (house.libraries_have_their_place, "plot.curves", "if TYPE_CHECKING:\n    import matplotlib"),
    (house.draws_from_keys_only, "values.random._threefry", "import torch\ntorch.rand(1)"),
    (house.draws_from_keys_only, "values.random", "import torch\ntorch.rand(1)"),
    (house.draws_from_keys_only, "runs.data", "from functional_train.values import random\nrandom.bernoulli(key)"),
    (house.draws_from_keys_only, "purity.check", "import torch\nwatched = {torch.rand, torch.bernoulli}"),
    (house.draws_from_keys_only, "losses.mse", "import torch\ntorch.nn.Linear(1, 1)"),
    (house.file_is_short, "losses.mse", "x = 1\n" * 400),
    (house.name_has_meaning, "losses.utility", ""),
    (house.all_is_sorted, "losses.mse", "__all__ = ['A', 'a', 'b']"),
]


@pytest.mark.parametrize(("rule", "place", "source", "word"), BROKEN)
def test_a_broken_rule_is_seen(rule: Rule, place: str, source: str, word: str) -> None:
    """Each rule complains about a line that breaks it, and names the module."""
    complaints = rule(Module(f"{house.PACKAGE}.{place}", source))
    assert any(word in complaint for complaint in complaints), complaints
    assert all(place in complaint for complaint in complaints)


@pytest.mark.parametrize(("rule", "place", "source"), KEPT)
def test_a_kept_rule_is_quiet(rule: Rule, place: str, source: str) -> None:
    """No rule complains about a line that keeps it."""
    assert rule(Module(f"{house.PACKAGE}.{place}", source)) == []


def test_every_rule_is_shown_broken_and_kept() -> None:
    """A rule without an example of either kind might never complain, or always."""
    assert {rule for rule, *_ in BROKEN} == {rule for rule, *_ in KEPT} == set(house.RULES)


def test_a_circle_is_seen() -> None:
    """A circle through three modules is found, one of its imports being deferred; a line of three is not."""
    a = Module("functional_train.runs.a", "from functional_train.runs import b")
    b = Module("functional_train.runs.b", "def f():\n    from functional_train.runs.c import x")
    c = Module("functional_train.runs.c", "from .a import y")
    assert set(house.circle([a, b, c])) == {a.name, b.name, c.name}
    assert house.circle([a, b]) == []


def test_a_package_is_not_its_own_circle() -> None:
    """A folder whose `__init__` gathers its files, which import each other by name, forms no circle."""
    package = Module("functional_train.runs", "from functional_train.runs.a import x\nfrom . import b", is_package=True)
    a = Module("functional_train.runs.a", "from functional_train.runs import b")
    b = Module("functional_train.runs.b", "")
    assert house.circle([package, a, b]) == []
    through_package = Module("functional_train.runs.b", "from functional_train.runs import x")
    assert package.name in house.circle([package, a, through_package])


def test_strangers_and_namesakes_are_seen() -> None:
    """An extra file at the top and a folder named like a function are reported."""
    assert house.strangers_at_the_top(["setup.py", ".ci", "LICENSE"], TOP_LEVEL) == ["setup.py"]
    folder = Module("functional_train.compile", "", is_package=True)
    assert house.folders_named_like_functions([folder], {"compile": compile}) == ["compile"]
    assert house.folders_named_like_functions([folder], {"compile": house}) == []
