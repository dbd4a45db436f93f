"""Every name that functional_train promises, found in the `__all__` of the package and of its topics."""

import importlib
import importlib.util
import inspect
from types import ModuleType
from typing import Any, NamedTuple, get_origin

PACKAGE = "functional_train"
TOPICS = ("tree", "random", "losses", "schedules", "curvature", "data", "distributed", "plot", "testing")


class PublicName(NamedTuple):
    """A promised name and what it stands for."""

    path: str  # as a user writes it: "ft.tree.map"
    value: Any

    @property
    def is_function(self) -> bool:
        """Whether it is called for its result: a function, or anything callable that is no class and no type alias."""
        is_type = inspect.isclass(self.value) or get_origin(self.value) is not None
        return callable(self.value) and not is_type

    @property
    def has_docstring_of_its_own(self) -> bool:
        """Whether it can carry a docstring: type aliases and constants cannot."""
        return inspect.isclass(self.value) or self.is_function

    @property
    def home(self) -> str:
        """Dotted name of the definition."""
        return f"{self.value.__module__}.{getattr(self.value, '__qualname__', self.path)}"


def topics() -> dict[str, ModuleType]:
    """Import the topics that exist: attributes of the package, or modules right below it."""
    package = importlib.import_module(PACKAGE)
    found: dict[str, ModuleType] = {}
    for topic in TOPICS:
        module = getattr(package, topic, None)
        spec = importlib.util.find_spec(f"{PACKAGE}.{topic}") if module is None else None
        if spec is not None and spec.origin is not None:  # a folder without __init__.py has no origin
            module = importlib.import_module(spec.name)
        # A folder of the package becomes its attribute too; a topic is one whose names are promised.
        if isinstance(module, ModuleType) and hasattr(module, "__all__"):
            found[topic] = module
    return found


def public_names() -> list[PublicName]:
    """List what the package and its topics promise; the topics themselves are left out."""
    modules = {"ft": importlib.import_module(PACKAGE)} | {f"ft.{name}": module for name, module in topics().items()}
    return [
        PublicName(f"{path}.{name}", getattr(module, name))
        for path, module in modules.items()
        for name in getattr(module, "__all__", ())
        if not isinstance(getattr(module, name), ModuleType)
    ]
