"""The first call of a compiled step: in a first process, and in a second one that finds the code on disk.

python -m tests.benchmarks.process_start --check
"""

import argparse
import os
import sys
import tempfile
import time
from statistics import median
from unittest import mock

from tqdm import tqdm

from tests.benchmarks.compiled_step import SYSTEMS
from tests.benchmarks.processes import workers

MOST_OF_COLD = 0.3
WORKLOADS = ("tiny", "transformer")
CHOSEN = ("functional_train", "imperative compiled")


def first_call(system: str, workload: str) -> float:
    """Seconds that the first step takes in a new process, with all that it imports for that."""
    with workers({system: SYSTEMS[system]._replace(imports=())}, workload, 1) as group:
        began = time.perf_counter()
        group[system].ask("losses", 1)
        return time.perf_counter() - began


def main(arguments: list[str] | None = None) -> int:
    """Time first calls with an empty cache and a full one, in turn."""
    parser = argparse.ArgumentParser(description="First call of a compiled step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument("--systems", nargs="+", choices=CHOSEN, default=CHOSEN)
    parser.add_argument("--check", action="store_true", help="exit with 1 when the bar is missed")
    options = parser.parse_args(arguments)
    print(f"{'workload':<13}{'system':<21}{'first process':>14}{'second':>8}{'ratio':>7}")
    met = True
    for workload in options.workloads:
        for system in options.systems:
            times: list[tuple[float, float]] = []
            for _ in tqdm(range(options.rounds), desc=system, file=sys.stderr, leave=False, disable=None):
                with tempfile.TemporaryDirectory() as empty:
                    # Inductor keeps compiled headers beside its cache, in the folder for temporary files.
                    folders = {"TORCHINDUCTOR_CACHE_DIR": f"{empty}/cache", "TMPDIR": empty}
                    with mock.patch.dict(os.environ, folders):
                        times.append((first_call(system, workload), first_call(system, workload)))
            cold, warm = (median(column) for column in zip(*times, strict=True))
            print(f"{workload:<13}{system:<21}{cold:>12.1f} s{warm:>6.1f} s{warm / cold:>7.2f}", flush=True)
            met &= system != "functional_train" or warm <= MOST_OF_COLD * cold
    if options.check:
        print(f"{'met   ' if met else 'MISSED'}  a second process takes at most {MOST_OF_COLD} of the first")
    return 0 if met or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
