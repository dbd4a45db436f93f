"""A process with one workload, and one system or several, told over a pipe what to do next.

Each request is a line of JSON, `[place, request]` with the place of a system among those of the process, and each
answer is one: `{"losses": n}` trains n steps and returns their losses, `{"block": n}` trains n steps and returns the
time of one, `{"memory": 0}` returns the peak of resident memory. The process ends when its input does.
"""

import argparse
import importlib
import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from tests.benchmarks.systems import Advance
from tests.benchmarks.workloads import WORKLOADS


def peak_megabytes() -> float:
    """The most resident memory this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def requests_of(advance: Advance, batches: list[Any], baseline: float) -> dict[str, Callable[[int], Any]]:
    """What a worker can be asked for."""
    stream = itertools.cycle(batches)

    def losses(steps: int) -> list[float]:
        return [float(advance(next(stream))) for _ in range(steps)]

    def block(steps: int) -> dict[str, float]:
        # One step off the record: another system has had the caches since the last block.
        advance(next(stream))
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            advance(next(stream))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"wall": wall / steps, "cpu": cpu / steps}

    def memory(_: int) -> dict[str, float]:
        return {"baseline": baseline, "peak": peak_megabytes()}

    return {"losses": losses, "block": block, "memory": memory}


def main() -> None:
    """Serve requests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("systems", nargs="+", help="module:function")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--imports", nargs="*", default=[], help="libraries that belong to the baseline of memory")
    options = parser.parse_args()
    # What libraries print must not land between answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(options.threads)
    systems = [getattr(importlib.import_module(name), made) for name, made in (s.split(":") for s in options.systems)]
    workload = WORKLOADS[options.workload]
    for library in options.imports:
        importlib.import_module(library)
    baseline = peak_megabytes()
    requests = [requests_of(system(workload.module()), workload.batches(), baseline) for system in systems]
    for line in itertools.chain(["[0, {}]"], sys.stdin):
        place, asked = json.loads(line)
        answer = {name: requests[place][name](argument) for name, argument in asked.items()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
