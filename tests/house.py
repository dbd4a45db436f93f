"""The rules of the house as functions: a module's source in, a list of complaints out."""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

PACKAGE = "functional_train"
LINE_CAP = 400
# From the ground up. Rooms on one floor do not see each other.
FLOORS = (
    ("values",),
    ("models", "losses", "gradients", "updates", "purity"),
    ("steps",),
    ("runs",),
    ("distributed", "interop"),
    ("testing", "plot"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# The package itself ("") and the two ways into the demo see everything.
ROOF = ("", "__main__", "demo")

ANYWHERE = ("torch", "tqdm")
# Library -> the modules that may import it, each with everything below it.
ONLY_IN = {
    "optree": ("values.tree", "values.arithmetic"),
    "hypothesis": ("testing",),
    "pytest": ("testing",),
    "matplotlib": ("plot",),
}
# Extras, which a user may not have installed.
ONLY_IN_FUNCTIONS = ("matplotlib", "numpy", "pandas", "safetensors", "sklearn")

DRAWS_ALLOWED_IN = ("values.random",)
DRAWING_LIBRARIES = ("random", "secrets", "numpy.random", "torch.nn.init")
DRAWING_FUNCTIONS = {
    *(f"torch.{name}" for name in ("rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "randperm")),
    *(f"torch.{name}" for name in ("bernoulli", "binomial", "dropout", "multinomial", "normal", "poisson", "rrelu")),
    *(f"torch.nn.functional.{name}" for name in ("alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d")),
    *(f"torch.nn.functional.{name}" for name in ("feature_alpha_dropout", "gumbel_softmax", "rrelu")),
}
DRAWING_METHODS = {
    *("bernoulli", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_"),
    *("multinomial", "normal_", "random_", "uniform_"),
}
NAMES_WITHOUT_MEANING = {"common", "helper", "helpers", "misc", "util", "utils"}


class Module(NamedTuple):
    """One Python file."""

    name: str  # dotted, such as "functional_train.values.tree"
    source: str
    is_package: bool = False  # an __init__.py

    @property
    def place(self) -> str:
        """Dotted name below the package: "values.tree"; "" for the package itself."""
        return self.name.removeprefix(PACKAGE).removeprefix(".")

    @property
    def room(self) -> str:
        """First part of `place`."""
        return self.place.split(".")[0]


class Import(NamedTuple):
    """One imported name."""

    module: str
    name: str | None  # None for `import module`
    alias: str
    line: int
    deferred: bool  # inside a function, or for the type checker only

    @property
    def full(self) -> str:
        """Dotted name of what is imported."""
        return f"{self.module}.{self.name}" if self.name else self.module


def read_modules(root: Path) -> list[Module]:
    """Read every Python file of the package below `root`."""
    modules: list[Module] = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        modules.append(Module(".".join(parts[:-1] if is_package else parts), path.read_text(), is_package))
    return modules


def imports(module: Module) -> list[Import]:
    """List the imports of a module, relative ones made absolute."""
    return list(_imports(ast.parse(module.source), module, deferred=False))


def _imports(node: ast.AST, module: Module, *, deferred: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for item in node.names:
            top = item.name.split(".")[0]
            yield Import(item.name, None, item.asname or top, node.lineno, deferred)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.name.split(".")
            home = parts[: len(parts) - node.level + module.is_package]
            base = ".".join([*home, base] if base else home)
        for item in node.names:
            yield Import(base, item.name, item.asname or item.name, node.lineno, deferred)
    elif isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
        for child in node.body:
            yield from _imports(child, module, deferred=True)
        for child in node.orelse:
            yield from _imports(child, module, deferred=deferred)
    else:
        inside = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, module, deferred=inside)


def is_in(place: str, places: Iterable[str]) -> bool:
    """Whether a dotted name is one of `places` or below one of them."""
    return any(place == other or place.startswith(f"{other}.") for other in places)


def imports_point_down(module: Module) -> list[str]:
    """A module imports from its own room and from lower floors."""
    if module.room in ROOF:
        return []
    if module.room not in FLOOR_OF:
        return [f"{module.name}: {module.room!r} has no floor; give it one in design and in tests/house.py"]
    complaints: list[str] = []
    for item in imports(module):
        if not is_in(item.full, [PACKAGE]):
            continue
        room = Module(item.full, "").room
        floor = FLOOR_OF.get(room, len(FLOORS))  # any other name belongs to the package itself: the roof
        if room != module.room and floor >= FLOOR_OF[module.room]:
            direction = "sideways" if floor == FLOOR_OF[module.room] else "up"
            complaints.append(f"{module.name}:{item.line} imports {item.full}, which points {direction}")
    return complaints


def libraries_have_their_place(module: Module) -> list[str]:
    """A module imports only what is declared, where it belongs, and extras only when they are used."""
    complaints: list[str] = []
    for item in imports(module):
        library, at = item.full.split(".")[0], f"{module.name}:{item.line} imports {item.full}"
        if library in sys.stdlib_module_names or library in {*ANYWHERE, PACKAGE}:
            continue
        if library not in ONLY_IN and library not in ONLY_IN_FUNCTIONS:
            complaints.append(f"{at}, which pyproject.toml does not promise")
        if library in ONLY_IN and not is_in(module.place, ONLY_IN[library]):
            complaints.append(f"{at}, which belongs in {' or '.join(ONLY_IN[library])} alone")
        if library in ONLY_IN_FUNCTIONS and not item.deferred:
            complaints.append(f"{at} at the top of the file; import it in the function that uses it")
    return complaints


def draws_from_keys_only(module: Module) -> list[str]:
    """A module outside `values.random` draws no number that does not come from a key."""
    if is_in(module.place, DRAWS_ALLOWED_IN):
        return []
    found = imports(module)
    complaints = [
        f"{module.name}:{item.line} imports {item.full}, which draws without a key"
        for item in found
        if is_in(item.full, DRAWING_LIBRARIES)
    ]
    origin = {
        item.alias: item.full if item.name or item.alias != item.module.split(".")[0] else item.alias for item in found
    }
    for node in ast.walk(ast.parse(module.source)):
        if not isinstance(node, ast.Call):
            continue
        root, *attributes = _dotted(node.func)
        full = ".".join([origin.get(root, root), *attributes])
        of_ours = root in origin and is_in(origin[root], [PACKAGE])
        is_method = bool(attributes) and attributes[-1] in DRAWING_METHODS and not of_ours
        if full in DRAWING_FUNCTIONS or (is_in(full, DRAWING_LIBRARIES) and root in origin) or is_method:
            complaints.append(f"{module.name}:{node.lineno} calls {full}, which draws without a key")
    return complaints


def _dotted(node: ast.expr) -> list[str]:
    """Split `a.b.c` into its names; what is not a name, such as a call, becomes "?"."""
    if isinstance(node, ast.Attribute):
        return [*_dotted(node.value), node.attr]
    return [node.id if isinstance(node, ast.Name) else "?"]


def file_is_short(module: Module) -> list[str]:
    """A file stays under the cap."""
    lines = len(module.source.splitlines())
    return [f"{module.name} has {lines} lines, cap {LINE_CAP}; it holds more than one idea"] if lines > LINE_CAP else []


def name_has_meaning(module: Module) -> list[str]:
    """A file or folder is named for what it holds."""
    words = {word for part in module.name.split(".") for word in part.split("_")}
    return [f"{module.name}: {word!r} says nothing; name the idea" for word in sorted(words & NAMES_WITHOUT_MEANING)]


def all_is_sorted(module: Module) -> list[str]:
    """`__all__`, where there is one, is a sorted literal without repetitions."""
    for node in ast.parse(module.source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        if "__all__" not in [ast.unparse(target) for target in targets]:
            continue
        try:
            names = list(ast.literal_eval(node.value))  # type: ignore[union-attr]
        except ValueError:
            return [f"{module.name}:{node.lineno} computes __all__; write it out"]
        if names != sorted(set(names)):
            return [f"{module.name}:{node.lineno} __all__ should read {sorted(set(names))}"]
    return []


RULES = (
    imports_point_down,
    libraries_have_their_place,
    draws_from_keys_only,
    file_is_short,
    name_has_meaning,
    all_is_sorted,
)


def circle(modules: Iterable[Module]) -> list[str]:
    """Return one circle of imports, or an empty list."""
    modules = list(modules)
    known = {module.name for module in modules}
    graph: dict[str, set[str]] = {}
    for module in modules:
        targets = {item.full if item.full in known else item.module for item in imports(module)}
        graph[module.name] = (targets & known) - {module.name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def folders_named_like_functions(modules: Iterable[Module], public: Mapping[str, object]) -> list[str]:
    """Return the folders that share their name with a public function, which would hide one behind the other."""
    folders = {module.name.split(".")[-1] for module in modules if module.is_package and module.place}
    return sorted(name for name in folders if callable(public.get(name)))


def strangers_at_the_top(entries: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """Return what lies at the top of the repository without belonging there; dot files always do."""
    return sorted(entry for entry in entries if not entry.startswith(".") and entry not in set(allowed))
