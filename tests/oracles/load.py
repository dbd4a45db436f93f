"""Figures of other libraries, read back as tensors."""

import functools
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tests.oracles.problem import SHAPES

FIGURES = Path(__file__).parent / "figures"
LIBRARIES = ("optax", "pytorch_optimizer", "schedulefree")

Problem = Literal["given", "quadratic"]
Point = Literal["params", "eval_params"]


class Case(NamedTuple):
    """One optimizer of another library, and where it leads."""

    library: str
    name: str
    call: str  # the expression that made the optimizer
    function: str
    kwargs: dict[str, Any]
    leaves: tuple[str, ...]
    problems: tuple[Problem, ...]  # those that have figures
    rule: str  # where the library departs from the paper; may be empty
    note: str  # how the figures were made; may be empty


@functools.cache
def _read(library: str) -> dict[str, Any]:
    return json.loads((FIGURES / f"{library}.json").read_text())


def versions(library: str) -> dict[str, str]:
    """Versions of the libraries that made the figures."""
    return dict(_read(library)["versions"])


def names(library: str) -> list[str]:
    """Names of all cases of a library."""
    return list(_read(library)["cases"])


def case(library: str, name: str) -> Case:
    """What a case is made of."""
    entry = _read(library)["cases"][name]
    problems: tuple[Problem, ...] = tuple(key for key in ("given", "quadratic") if "reason" not in entry[key])
    return Case(
        library, name, entry["call"], entry["function"], entry["kwargs"], tuple(entry["leaves"]), problems,
        entry.get("rule", ""), entry.get("note", ""),
    )  # fmt: skip


def reason(library: str, name: str, problem: Problem) -> str | None:
    """Why a case has no figures for a problem; None if it has."""
    return _read(library)["cases"][name][problem].get("reason")


def figures(
    library: str, name: str, problem: Problem = "given", point: Point = "params"
) -> dict[int, dict[str, Tensor]]:
    """Parameters by step and leaf, float64, as the library left them."""
    entry = _read(library)["cases"][name][problem]
    if "reason" in entry:
        raise LookupError(f"{library}'s {name} has no figures for the problem {problem!r}: {entry['reason']}")
    return {
        int(step): {leaf: _tensor(text, SHAPES[leaf]) for leaf, text in tree.items()}
        for step, tree in entry[point].items()
    }


def _tensor(text: str, shape: tuple[int, ...]) -> Tensor:
    return torch.tensor([float.fromhex(number) for number in text.split()], dtype=torch.float64).reshape(shape)
