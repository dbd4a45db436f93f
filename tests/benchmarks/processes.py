"""The runner's end of the workers: start them, ask them, end them."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class System(NamedTuple):
    """Who trains, by name: the function itself is imported by the worker only."""

    function: str  # "module:function"
    imports: tuple[str, ...] = ()  # modules that it imports beyond torch and functional_train
    process: str = ""  # systems that name the same one share it: where they differ by less than two processes do


class BenchmarkError(Exception):
    """The benchmark has no result: a worker died, or systems did different work."""


class Process:
    """A process with one workload, and one system or several."""

    def __init__(self, systems: Sequence[System], workload: str, threads: int) -> None:
        functions = [system.function for system in systems]
        self.label = f"{' and '.join(functions)} on {workload}"
        counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.benchmarks.worker", workload, *functions, "--threads", str(threads)),
                *("--imports", *[name for system in systems for name in system.imports]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **counts},
        )

    def ask(self, place: int, request: str, argument: int) -> Any:
        """Have one request to one of its systems answered; nothing else runs meanwhile."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([place, {request: argument}]) + "\n")
            self._process.stdin.flush()
        return self.answer()[request]

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer; the first one says that the worker is ready."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"the worker of {self.label} ended with code {self._process.wait()}; see above.")
        return json.loads(line)

    def end(self) -> None:
        """Close the pipe, which ends the process; it may be in the middle of a block."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()


class Worker(NamedTuple):
    """A system, and the process that it is in."""

    process: Process
    place: int

    def ask(self, request: str, argument: int = 0) -> Any:
        """Have one request answered; nothing else runs meanwhile."""
        return self.process.ask(self.place, request, argument)


@contextlib.contextmanager
def workers(systems: Mapping[str, System], workload: str, threads: int) -> Iterator[dict[str, Worker]]:
    """One worker a system, ready to be asked; they are gone afterwards."""
    shares: dict[str, list[str]] = {}
    for name, system in systems.items():
        shares.setdefault(system.process or name, []).append(name)
    started: dict[str, Process] = {}
    try:
        for share, names in shares.items():
            started[share] = Process([systems[name] for name in names], workload, threads)
        for process in started.values():
            process.answer()
        yield {
            name: Worker(started[share := system.process or name], shares[share].index(name))
            for name, system in systems.items()
        }
    finally:
        for process in started.values():
            process.end()
