"""How the memory of a step grows with the number of parameters: moved, copied, and in the usual loop.

python -m tests.benchmarks.growth
"""

import argparse
import sys

from tqdm import tqdm

from tests.benchmarks.compiled_step import SYSTEMS
from tests.benchmarks.processes import workers

MILLIONS = (1, 4, 16, 64, 256)
CHOSEN = ("imperative fused", "functional_train", "without donation", "plain")
_STEPS = 4


def main(arguments: list[str] | None = None) -> int:
    """Measure peaks of resident memory, each in a process of its own, and print them."""
    parser = argparse.ArgumentParser(description="Peak memory of one AdamW step")
    parser.add_argument("--millions", nargs="+", type=int, choices=MILLIONS, default=MILLIONS, help="parameters")
    parser.add_argument("--systems", nargs="+", choices=CHOSEN, default=CHOSEN)
    options = parser.parse_args(arguments)
    print("Peak of resident memory in MB, what of it is beyond imports, and bytes of that for each parameter")
    print(f"{'parameters':<12}{'system':<20}{'peak':>8}{'beyond':>8}{'bytes':>7}{'ratio':>7}")
    for millions in tqdm(options.millions, desc="sizes", file=sys.stderr, leave=False, disable=None):
        first = 0.0
        for name in options.systems:
            with workers({name: SYSTEMS[name]}, f"{millions}M numbers", 1) as group:
                group[name].ask("losses", _STEPS)
                memory = group[name].ask("memory")
            beyond = memory["peak"] - memory["baseline"]
            first = first or memory["peak"]
            print(
                f"{millions:>4} million  {name:<20}{memory['peak']:>8.0f}{beyond:>8.0f}{beyond / millions:>7.1f}"
                f"{memory['peak'] / first:>7.2f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
