"""The runner's end of the workers: start them, ask them, end them."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class System(NamedTuple):
    """Who trains, by name: the function itself is imported by the worker only."""

    function: str  # "module:function"
    imports: tuple[str, ...] = ()  # modules that it imports beyond torch and functional_train


class BenchmarkError(Exception):
    """The benchmark has no result: a worker died, or systems did different work."""


class Worker:
    """A process with one system and one workload."""

    def __init__(self, system: System, workload: str, threads: int) -> None:
        self.label = f"{system.function} on {workload}"
        counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.benchmarks.worker", system.function, workload),
                *("--threads", str(threads), "--imports", *system.imports),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **counts},
        )

    def ask(self, request: str, argument: int = 0) -> Any:
        """Have one request answered; nothing else runs meanwhile."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({request: argument}) + "\n")
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


@contextlib.contextmanager
def workers(systems: Mapping[str, System], workload: str, threads: int) -> Iterator[dict[str, Worker]]:
    """One worker a system, ready to be asked; they are gone afterwards."""
    started: dict[str, Worker] = {}
    try:
        for name, system in systems.items():
            started[name] = Worker(system, workload, threads)
        for worker in started.values():
            worker.answer()
        yield started
    finally:
        for worker in started.values():
            worker.end()
