"""What blocks of timings say: medians, their ratio to the reference, and how far that can be trusted."""

import random
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

RESAMPLES = 1000


class Timings(NamedTuple):
    """What one worker reported; entry i of any two workers was taken in the same round."""

    wall: list[float]  # seconds a step, one entry a block
    cpu: list[float]  # same, without the time in which other processes had the cores
    baseline: float  # megabytes, peak of resident memory after imports
    peak: float  # megabytes, peak of resident memory at the end


class Figures(NamedTuple):
    """One row of the table."""

    workload: str
    system: str
    milliseconds: float  # median wall time of a step
    ratio: float  # of that to the reference's
    low: float  # 90 % bootstrap interval of the ratio
    high: float
    cpu_ratio: float  # the same ratio of processor times
    peak: float  # megabytes of resident memory
    beyond_imports: float  # megabytes of it that imports alone do not take


def figures(workload: str, timings: dict[str, Timings], reference: str) -> list[Figures]:
    """Reduce the timings of one workload."""
    base = timings[reference]
    return [
        Figures(
            workload,
            system,
            1e3 * median(own.wall),
            median(own.wall) / median(base.wall),
            *interval(own.wall, base.wall),
            median(own.cpu) / median(base.cpu),
            own.peak,
            own.peak - own.baseline,
        )
        for system, own in timings.items()
    ]


def interval(own: Sequence[float], base: Sequence[float]) -> tuple[float, float]:
    """Where 90 % of the ratios of medians lie when whole rounds are drawn again, with replacement.

    Rounds are drawn in pairs, since what disturbs one system of a round disturbs the others too.
    """
    draw = random.Random(0)
    rounds = range(len(own))
    ratios: list[float] = []
    for _ in range(RESAMPLES):
        chosen = draw.choices(rounds, k=len(own))
        ratios.append(median([own[i] for i in chosen]) / median([base[i] for i in chosen]))
    ratios.sort()
    return ratios[RESAMPLES // 20], ratios[-RESAMPLES // 20]
