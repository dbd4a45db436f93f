"""How a run of an oracle becomes an entry of the figures."""

import ast
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from tests.oracles.problem import LEAVES, NUM_STEPS, STEPS, Tree

FIGURES = Path(__file__).parent / "figures"

# What a run yields after each step: the parameters by the name of the point.
Points = Mapping[str, Tree]


class Spec(NamedTuple):
    """A case to run."""

    name: str
    call: str  # Python expression that makes the optimizer
    rule: str = ""
    note: str = ""
    leaves: tuple[str, ...] = LEAVES
    driver: str = "plain"  # how the library's module runs it
    without: Mapping[str, str] = {}  # problem -> why it has no figures


def entry(spec: Spec, run: Callable[[Spec, str], Iterator[Points]]) -> dict[str, Any]:
    """All that the figures say about a case; `run(spec, problem)` yields one `Points` per step."""
    call = ast.parse(spec.call, mode="eval").body
    assert isinstance(call, ast.Call), f"{spec.name}: {spec.call} is no call"
    kwargs = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
    head = {"call": spec.call, "function": ast.unparse(call.func), "kwargs": kwargs, "leaves": list(spec.leaves)}
    head |= {key: text for key, text in (("rule", spec.rule), ("note", spec.note)) if text}
    for problem in ("given", "quadratic"):
        if problem in spec.without:
            head[problem] = {"reason": spec.without[problem]}
            continue
        found: dict[str, dict[str, dict[str, str]]] = {}
        for step, points in enumerate(run(spec, problem), start=1):
            if step in STEPS:
                for point, tree in points.items():
                    found.setdefault(point, {})[str(step)] = {leaf: text(tree[leaf]) for leaf in spec.leaves}
        assert step == NUM_STEPS, f"{spec.name} ran for {step} steps"
        head[problem] = found
    return head


def text(leaf: Tensor) -> str:
    """Entries as hex floats, row by row."""
    assert str(leaf.dtype) == "torch.float64", f"a leaf has dtype {leaf.dtype}"
    return " ".join(number.hex().replace("0x", "") for number in leaf.detach().flatten().tolist())


def write(library: str, cases: Mapping[str, Any], beside: tuple[str, ...]) -> None:
    """Write `figures/<library>.json`, a case per line."""
    versions = {name: importlib.metadata.version(name) for name in (library, *beside)}
    lines = [f"{json.dumps(name)}:{json.dumps(case, separators=(',', ':'))}" for name, case in cases.items()]
    body = ",\n".join(lines)
    (FIGURES / f"{library}.json").write_text(f'{{"versions":{json.dumps(versions)},"cases":{{\n{body}\n}}}}\n')


def _literal(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    return list(value) if isinstance(value, tuple) else value
