"""Every public name explains itself, and every rule about that can be broken."""

import importlib
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from tests import docstrings
from tests.public_names import PACKAGE, PublicName, public_names, topics

PUBLIC = [public for public in public_names() if public.has_docstring_of_its_own]
Rule = Callable[[PublicName], list[str]]


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: public.path)
@pytest.mark.parametrize("rule", docstrings.RULES, ids=lambda rule: rule.__name__)
def test_public_name_keeps_the_rule(rule: Rule, public: PublicName) -> None:
    """Every public name keeps every rule about docstrings."""
    complaints = rule(public)
    assert not complaints, f"{rule.__doc__}\n" + "\n".join(complaints)


def test_package_and_topics_list_their_names() -> None:
    """The package and each of its topics say in `__all__` what they promise."""
    package = importlib.import_module(PACKAGE)
    assert package.__all__, "functional_train.__all__ is empty"
    promised = {
        name: getattr(package, name) for name in package.__all__ if isinstance(getattr(package, name), ModuleType)
    }
    silent = [name for name, module in {**promised, **topics()}.items() if not getattr(module, "__all__", None)]
    assert not silent, f"topics without __all__: {silent}"


def test_public_name_has_one_path() -> None:
    """Nothing is promised under two paths."""
    count = Counter(public.home for public in PUBLIC)
    twice = [f"{public.path} is {public.home}" for public in PUBLIC if count[public.home] > 1]
    assert not twice, "promised twice:\n" + "\n".join(twice)


def good(lr: float, *args: Any, eps: float = 0.0) -> float:
    """Add things up.

    $$u = g$$

    Args:
        lr: Step size
            on two lines.
        *args: Positive numbers.
        eps (optional): Small.

    Returns:
        A number.

    Source: A paper, section 1.

    Example:
        >>> good(1.0)
        1.0
    """
    return lr + sum(args) + eps


def refers(lr: float, eps: float = 0.0) -> float:
    """Add two things up.

    Args:
        Others as `good`.

    Returns:
        A number.

    Example:
        >>> refers(1.0)
        1.0
    """
    return lr + eps


def silent(lr, eps=0.0):  # noqa: ANN001, ANN201
    return lr + eps


def vague(lr: float, eps: float = 0.0) -> float:
    """add two things up

    Args:
        lr: Unlike eps: it is a step size, not as `unknown`.

    Example:
        Left to the reader.

    The source: unknown.
    """
    return lr + eps


class Bare(Exception):  # noqa: N818
    pass


def procedure() -> None:
    """Do nothing.

    Example:
        >>> procedure()
    """


BROKEN: list[tuple[Rule, object, int]] = [
    (docstrings.says_what_it_does, silent, 1),
    (docstrings.says_what_it_does, vague, 1),
    (docstrings.says_what_it_does, Bare, 1),
    (docstrings.explains_arguments, silent, 2),
    (docstrings.explains_arguments, vague, 1),
    (docstrings.explains_result, vague, 1),
    (docstrings.shows_an_example, silent, 1),
    (docstrings.shows_an_example, vague, 1),
    (docstrings.shows_an_example, Bare, 1),
    (docstrings.is_annotated, silent, 3),
    (docstrings.names_its_source, refers, 1),
    (docstrings.names_its_source, vague, 1),
]


@pytest.fixture
def as_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the examples of this file count as optimizers."""
    monkeypatch.setattr(docstrings, "SOURCED", (__name__,))


@pytest.mark.usefixtures("as_optimizer")
@pytest.mark.parametrize(("rule", "value", "count"), BROKEN)
def test_a_broken_rule_is_seen(rule: Rule, value: object, count: int) -> None:
    """Each rule counts what a bad docstring lacks."""
    assert len(rule(PublicName("ft.x", value))) == count


@pytest.mark.usefixtures("as_optimizer")
@pytest.mark.parametrize("rule", docstrings.RULES)
def test_a_good_docstring_is_left_alone(rule: Rule) -> None:
    """No rule complains about a docstring that has everything."""
    assert rule(PublicName("ft.good", good)) == []


def test_references_and_procedures_are_understood() -> None:
    """Arguments may be explained by another function, and a function that returns nothing needs no Returns."""
    assert docstrings.explains_arguments(PublicName("ft.refers", refers)) == []
    assert docstrings.explains_result(PublicName("ft.procedure", procedure)) == []


def test_every_rule_is_shown_broken() -> None:
    """A rule without a bad example might never complain."""
    assert {rule for rule, *_ in BROKEN} == set(docstrings.RULES)
