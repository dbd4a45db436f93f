"""Draws from keys, plain and compiled, beside torch's generator and JAX, each as many numbers as one tensor has.

python -m tests.benchmarks.draws --check
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.command import Benchmark, run
from tests.benchmarks.processes import System
from tests.benchmarks.report import Bar

# The graph is made by Inductor, whose code is none of the memory that draws need.
INDUCTOR = ("torch._inductor.compile_fx",)
MODULE = "tests.benchmarks.draw_systems"
FEW, MANY = "4,096 numbers", "262,144 numbers"
# What is drawn alone, and normal noise that is added to a tensor, as a step does it.
DRAWS = (
    *("normal", "uniform", "bernoulli", "randint", "truncated_normal", "permutation", "dropout"),
    "noise",
)
MOST_OF_RANDN = {FEW: 3.0, MANY: 1.3}


def benchmark(draw: str) -> Benchmark:
    """The systems of one draw."""
    bars = [Bar(workload, "compiled", "torch", most) for workload, most in MOST_OF_RANDN.items()]
    return Benchmark(
        f"One draw: {draw}",
        (FEW, MANY),
        {
            "torch": System(f"{MODULE}:torch_{draw}"),
            "plain": System(f"{MODULE}:plain_{draw}"),
            "compiled": System(f"{MODULE}:compiled_{draw}", INDUCTOR),
            "jax": System(f"{MODULE}:jax_{draw}", ("jax",)),
        },
        "torch",
        tuple(bars) if draw == "normal" else (),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen draws; the options that are not here are those of every benchmark."""
    parser = argparse.ArgumentParser(description="Draws", add_help=False, allow_abbrev=False)
    parser.add_argument("--draws", nargs="+", choices=DRAWS, default=DRAWS)
    parser.add_argument("--json", type=Path, help="write figures to files of this name, with that of the draw in it")
    options, others = parser.parse_known_args(arguments)
    codes: list[int] = []
    for draw in options.draws:
        file = [] if options.json is None else ["--json", str(options.json.with_stem(f"{options.json.stem}_{draw}"))]
        codes.append(run(benchmark(draw), [*others, *file]))
        print()
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
