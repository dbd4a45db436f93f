"""Same work first, then turns: what all systems of one workload report."""

import sys
from collections.abc import Mapping
from typing import NamedTuple

from tqdm import tqdm

from tests.benchmarks.figures import Figures, Timings, figures
from tests.benchmarks.processes import BenchmarkError, System, Worker, workers

# Systems round differently, and Adam amplifies that.
SAME_LOSS = 1e-4


class Effort(NamedTuple):
    """How much is measured."""

    rounds: int = 60  # blocks of each system
    seconds: float = 0.1  # length of one block of the reference
    agreement: int = 20  # steps whose losses are compared
    threads: int = 1


def compare(systems: Mapping[str, System], workload: str, reference: str, effort: Effort) -> list[Figures]:
    """Measure all systems on one workload."""
    say(f"{workload}: starting {len(systems)} systems")
    with workers(systems, workload, effort.threads) as group:
        apart = check_same_work(group, reference, workload, effort.agreement)
        say(f"{workload}: {effort.agreement} losses agree to {apart:.0e}")
        timings = take_turns(group, reference, workload, effort)
    return figures(workload, timings, reference)


def check_same_work(group: Mapping[str, Worker], reference: str, workload: str, steps: int) -> float:
    """Refuse systems whose losses differ from the reference's; returns the largest relative difference."""
    losses = {name: worker.ask("losses", steps) for name, worker in group.items()}
    largest = 0.0
    for name, own in losses.items():
        for step, (loss, expected) in enumerate(zip(own, losses[reference], strict=True)):
            apart = abs(loss - expected) / abs(expected)
            # Written so that nan is refused.
            if not apart <= SAME_LOSS:
                raise BenchmarkError(
                    f"{workload}: {name} does not do the work of {reference}. The loss of step {step} is {loss}, there "
                    f"{expected}: {apart:.1e} apart, more than {SAME_LOSS:.0e}."
                )
            largest = max(largest, apart)
    return largest


def take_turns(group: Mapping[str, Worker], reference: str, workload: str, effort: Effort) -> dict[str, Timings]:
    """Time blocks of steps, one system after another, round after round."""
    trial = group[reference].ask("block", 3)["wall"]
    steps = max(1, round(effort.seconds / trial))
    for worker in group.values():
        worker.ask("block", steps)
    blocks: dict[str, list[dict[str, float]]] = {name: [] for name in group}
    say(f"{workload}: {effort.rounds} rounds, each of {steps} steps of each system")
    for _ in tqdm(range(effort.rounds), desc=workload, file=sys.stderr, leave=False, disable=None):
        for name, worker in group.items():
            blocks[name].append(worker.ask("block", steps))
    return {
        name: Timings(
            [block["wall"] for block in blocks[name]],
            [block["cpu"] for block in blocks[name]],
            **group[name].ask("memory"),
        )
        for name in group
    }


def say(line: str) -> None:
    """Report progress."""
    print(line, file=sys.stderr, flush=True)
