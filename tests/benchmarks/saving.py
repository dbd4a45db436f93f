"""Saving and loading a training state, beside torch, torch.distributed.checkpoint and safetensors.

python -m tests.benchmarks.saving --check
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from tqdm import tqdm

from tests.benchmarks.command import QUICK, installed
from tests.benchmarks.compare import Effort, check_same_work, say, take_turns
from tests.benchmarks.figures import Figures, Timings, figures
from tests.benchmarks.processes import BenchmarkError, System, Worker, workers
from tests.benchmarks.report import Bar, judge, save_json, surroundings, table

# Names in the environment of the workers.
FOLDER, MEGABYTES = "SAVING_FOLDER", "SAVING_MEGABYTES"
MODULE = "tests.benchmarks.saving_systems"
_ANY_WORKLOAD = "tiny"  # the systems make a state of their own
_DCP, _SAFETENSORS = ("torch.distributed.checkpoint",), ("safetensors.torch",)


class Kind(NamedTuple):
    """Systems that do the same, and the one that the others are compared with."""

    reference: str
    systems: Mapping[str, System]


def _saving(how: str) -> Kind:
    return Kind(
        "torch.save",
        {
            "torch.save": System(f"{MODULE}:{how}_torch"),
            "functional_train": System(f"{MODULE}:{how}_functional_train"),
            "dcp": System(f"{MODULE}:{how}_dcp", _DCP),
            "safetensors": System(f"{MODULE}:{how}_safetensors", _SAFETENSORS),
        },
    )


def _loading(how: str) -> Kind:
    return Kind(
        "safetensors",
        {
            "safetensors": System(f"{MODULE}:{how}_safetensors", _SAFETENSORS),
            "functional_train": System(f"{MODULE}:{how}_functional_train"),
            "torch.load": System(f"{MODULE}:{how}_torch"),
            "torch.load, mmap": System(f"{MODULE}:{how}_mapped_torch"),
            "dcp": System(f"{MODULE}:{how}_dcp", _DCP),
        },
    )


SAVE, SYNC, LOAD, COLD, STALL = "save", "sync", "load", "cold", "stall"
KINDS = {
    SAVE: _saving("save"),
    SYNC: _saving("sync"),
    LOAD: _loading("load"),
    COLD: _loading("cold"),
    STALL: Kind(
        "ft.tree.copy",
        {
            "ft.tree.copy": System(f"{MODULE}:stall_of_copy"),
            "ft.Checkpointer": System(f"{MODULE}:stall_of_checkpointer"),
        },
    ),
}
BARS = (
    Bar(SAVE, "functional_train", "torch.save", 1.3),
    Bar(SYNC, "functional_train", "torch.save", 1.3),
    Bar(LOAD, "functional_train", "safetensors", 1.3),
    Bar(COLD, "functional_train", "safetensors", 1.3),
    Bar(STALL, "ft.Checkpointer", "ft.tree.copy", 1.0),
)


def measure(name: str, effort: Effort) -> list[Figures]:
    """The figures of one kind."""
    reference, systems = KINDS[name]
    present, missing = installed(systems)
    for system, libraries in missing.items():
        say(f"left out: {system}, because {', '.join(libraries)} is not installed")
    say(f"{name}: starting {len(present)} processes")
    with workers(present, _ANY_WORKLOAD, effort.threads) as group:
        if name in (COLD, STALL):
            return figures(name, own_seconds(name, group, effort.rounds), reference)
        if name == LOAD:
            check_same_work(group, reference, name, effort.agreement)
        return figures(name, take_turns(group, reference, name, effort), reference)


def own_seconds(kind: str, group: Mapping[str, Worker], rounds: int) -> dict[str, Timings]:
    """Ask systems, in turn, for the seconds that they return in place of losses."""
    seconds: dict[str, list[float]] = {name: [] for name in group}
    for worker in group.values():
        worker.ask("losses", 1)
    for _ in tqdm(range(rounds), desc=kind, file=sys.stderr, leave=False, disable=None):
        for name, worker in group.items():
            seconds[name] += worker.ask("losses", 1)
    return {name: Timings(own, own, **group[name].ask("memory")) for name, own in seconds.items()}


def beyond_the_state(rows: Sequence[Figures]) -> list[str]:
    """The peaks of those that save, each in a process of its own, beside one that makes the state and does nothing."""
    lines = ["", "peak of resident memory in MB, beyond that of a process that has the imports and the state:"]
    for kind in (SAVE, SYNC):
        found: list[str] = []
        for row in rows:
            if row.workload == kind:
                system = System(f"{MODULE}:nothing", KINDS[kind].systems[row.system].imports)
                with workers({row.system: system}, _ANY_WORKLOAD, 1) as group:
                    found.append(f"{row.system} {row.peak - group[row.system].ask('memory')['peak']:.1f}")
        lines += [f"  {kind:<6} {', '.join(found)}"] if found else []
    return lines if len(lines) > 2 else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen kinds and print them; returns the exit code."""
    options = _options(arguments)
    effort = QUICK._replace(agreement=1) if options.quick else Effort(rounds=10, agreement=1)
    effort = effort._replace(rounds=options.rounds or effort.rounds)
    megabytes = options.megabytes or (4 if options.quick else 1000)
    before = surroundings()
    rows: list[Figures] = []
    try:
        for name in options.kinds:
            with (
                tempfile.TemporaryDirectory(dir=options.folder) as folder,
                mock.patch.dict(os.environ, {FOLDER: folder, MEGABYTES: str(megabytes)}),
            ):
                rows += measure(name, effort)
        with mock.patch.dict(os.environ, {MEGABYTES: str(megabytes)}):
            notes = beyond_the_state(rows)
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    after = surroundings()
    print(
        f"A state of {megabytes} MB; a step is one save, one save that waits for the disk (sync), one load with every "
        "number read, the same with nothing of the file in memory (cold), or what a step waits for while its state is "
        "saved (stall); ratios to the first system of each"
    )
    print(
        f"torch {before['torch']}, {effort.rounds} blocks each; load average {before['load']} before, {after['load']} "
        f"after, on {before['cores']} cores\n"
    )
    print("\n".join([table(rows), *notes]))
    lines, met = judge([bar for bar in BARS if bar.workload in options.kinds], rows)
    if options.check:
        print("\n" + "\n".join(lines))
    if options.json is not None:
        settings = {**before, "load after": after["load"], **effort._asdict(), "megabytes": megabytes}
        save_json(options.json, rows, settings, lines)
    return 0 if met or not options.check else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Saving and loading a training state")
    parser.add_argument("--megabytes", type=float, help="size of the state (default 1000)")
    parser.add_argument("--folder", type=Path, help="where files are written and removed (default: for temporary ones)")
    parser.add_argument("--rounds", type=int, help="blocks of each system (default 10)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--quick", action="store_true", help="few MB and blocks: whether it runs, not how fast")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is missed")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
