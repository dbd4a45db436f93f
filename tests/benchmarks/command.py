"""The command line that every benchmark shares."""

import argparse
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.compare import Effort, compare, say
from tests.benchmarks.figures import Figures
from tests.benchmarks.processes import BenchmarkError, System
from tests.benchmarks.report import Bar, judge, save_json, surroundings, table

QUICK = Effort(rounds=3, seconds=0.005, agreement=5)


class Benchmark(NamedTuple):
    """What is compared, on what, and what is promised."""

    title: str
    workloads: tuple[str, ...]
    systems: Mapping[str, System]
    reference: str
    bars: tuple[Bar, ...]
    notes: Callable[[Sequence[Figures], int], list[str]] = lambda rows, threads: []


def run(benchmark: Benchmark, arguments: Sequence[str] | None = None) -> int:
    """Run a benchmark from the command line; returns the exit code."""
    options = _options(benchmark, arguments)
    effort = QUICK if options.quick else Effort()
    effort = effort._replace(threads=options.threads, rounds=options.rounds or effort.rounds)
    systems, missing = installed({name: benchmark.systems[name] for name in options.systems})
    for name, libraries in missing.items():
        say(f"left out: {name}, because {', '.join(libraries)} is not installed: pip install -e '.[bench]'")
    if benchmark.reference not in systems:
        say(f"{benchmark.reference} is what all others are compared with; --systems needs it.")
        return 2
    before = surroundings()
    rows: list[Figures] = []
    try:
        for workload in options.workloads:
            rows += compare(systems, workload, benchmark.reference, effort)
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    after = surroundings()
    print(f"{benchmark.title}; ratios to {benchmark.reference}")
    print(
        f"torch {before['torch']}, {options.threads} thread(s), {effort.rounds} blocks each; "
        f"load average {before['load']} before, {after['load']} after, on {before['cores']} cores\n"
    )
    print("\n".join([table(rows), *benchmark.notes(rows, options.threads)]))
    lines, met = judge([bar for bar in benchmark.bars if bar.workload in options.workloads], rows)
    if options.check:
        print("\n" + "\n".join(lines))
    if options.json is not None:
        settings = {**before, "load after": after["load"], **effort._asdict(), "left out": sorted(missing)}
        save_json(options.json, rows, settings, lines)
    return 0 if met or not options.check else 1


def installed(systems: Mapping[str, System]) -> tuple[dict[str, System], dict[str, list[str]]]:
    """Split systems into those that can run, and those that cannot with the libraries they lack."""
    missing = {
        name: [library for library in map(_library, system.imports) if importlib.util.find_spec(library) is None]
        for name, system in systems.items()
    }
    present = {name: system for name, system in systems.items() if not missing[name]}
    return present, {name: libraries for name, libraries in missing.items() if libraries}


def _library(module: str) -> str:
    # Looking for a submodule would import the library.
    return module.partition(".")[0]


def _options(benchmark: Benchmark, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=benchmark.title)
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1, help="threads of each process")
    parser.add_argument("--rounds", type=int, help=f"blocks of each system (default {Effort().rounds})")
    parser.add_argument("--workloads", nargs="+", choices=benchmark.workloads, default=benchmark.workloads)
    parser.add_argument("--systems", nargs="+", choices=benchmark.systems, default=list(benchmark.systems))
    parser.add_argument("--quick", action="store_true", help="few short blocks: whether it runs, not how fast")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args(arguments)
