"""How a run of an oracle becomes an entry of the figures."""

import ast
import importlib.metadata
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from tests.oracles.problem import LEAVES, NUM_STEPS, STEPS, Tree

HERE = Path(__file__).parent

# What a run yields after each step: the parameters by the name of the point.
Points = Mapping[str, Tree]


class Spec(NamedTuple):
    """A case to run."""

    name: str
    call: str  # Python expression that makes the optimizer
    rule: str
    note: str
    leaves: tuple[str, ...]
    driver: str  # how the library's module runs it
    without: Mapping[str, str]  # problem -> why it has no figures


def read(library: str) -> list[Spec]:
    """The cases of `cases/<library>.toml`."""
    content = tomllib.loads((HERE / "cases" / f"{library}.toml").read_text())

    def written_out(names: str | list[str]) -> str:
        listed = [names] if isinstance(names, str) else names
        return " ".join(content["texts"].get(name, name) for name in listed)

    return [
        Spec(
            case["name"],
            case["call"],
            written_out(case.get("rule", [])),
            written_out(case.get("note", [])),
            tuple(case.get("leaves", LEAVES)),
            case.get("driver", "plain"),
            case.get("without", {}),
        )
        for case in content["case"]
    ]


def write(library: str, run: Callable[[Spec, str], Iterator[Points]], beside: tuple[str, ...]) -> None:
    """Run all cases and write `figures/<library>.json`, a case per line; `run(spec, problem)` yields once per step."""
    versions = {name: importlib.metadata.version(name) for name in (library, *beside)}
    lines = [
        f"{json.dumps(spec.name)}:{json.dumps(_entry(spec, run), ensure_ascii=False, separators=(',', ':'))}"
        for spec in read(library)
    ]
    content = f'{{"versions":{json.dumps(versions)},"cases":{{\n' + ",\n".join(lines) + "\n}}\n"
    (HERE / "figures" / f"{library}.json").write_text(content)


def _entry(spec: Spec, run: Callable[[Spec, str], Iterator[Points]]) -> dict[str, Any]:
    call = ast.parse(spec.call, mode="eval").body
    assert isinstance(call, ast.Call), f"{spec.name}: {spec.call} is no call"
    kwargs = {keyword.arg: _literal(keyword.value) for keyword in call.keywords}
    entry = {"call": spec.call, "function": ast.unparse(call.func), "kwargs": kwargs, "leaves": list(spec.leaves)}
    entry |= {key: text for key, text in (("rule", spec.rule), ("note", spec.note)) if text}
    for problem in ("given", "quadratic"):
        if problem in spec.without:
            entry[problem] = {"reason": spec.without[problem]}
        else:
            entry[problem] = _kept(spec, list(run(spec, problem)))
    return entry


def _kept(spec: Spec, walk: list[Points]) -> dict[str, dict[str, dict[str, str]]]:
    assert len(walk) == NUM_STEPS, f"{spec.name} ran for {len(walk)} steps"
    return {
        point: {str(step): {leaf: _hex(walk[step - 1][point][leaf]) for leaf in spec.leaves} for step in STEPS}
        for point in walk[0]
    }


def _hex(leaf: Tensor) -> str:
    assert str(leaf.dtype) == "torch.float64", f"a leaf has dtype {leaf.dtype}"
    return " ".join(number.hex().replace("0x", "") for number in leaf.flatten().tolist())


def _literal(node: ast.expr) -> Any:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
    return list(value) if isinstance(value, tuple) else value
