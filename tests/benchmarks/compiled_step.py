"""The whole step in one graph, its state moved, beside the loops that people leave, TorchOpt and JAX.

python -m tests.benchmarks.compiled_step --check
"""

import sys
from collections.abc import Sequence

from tests.benchmarks.command import Benchmark, run
from tests.benchmarks.figures import Figures
from tests.benchmarks.plain_step import TORCH_OPTIM
from tests.benchmarks.processes import System
from tests.benchmarks.report import Bar

# The graph is made by Inductor, whose code is no state.
INDUCTOR = ("torch._inductor.compile_fx",)
SYSTEMS = {
    "imperative fused": System("tests.benchmarks.systems:imperative_fused", TORCH_OPTIM),
    "imperative compiled": System("tests.benchmarks.systems:imperative_compiled", (*TORCH_OPTIM, *INDUCTOR)),
    "functional_train": System("tests.benchmarks.systems:compiled_step", INDUCTOR),
    "without donation": System("tests.benchmarks.systems:copied_step", INDUCTOR),
    "plain": System("tests.benchmarks.systems:plain_step"),
    "torchopt": System("tests.benchmarks.systems:torchopt_pure", ("torchopt",)),
    "jax": System("tests.benchmarks.jax_systems:jitted", ("jax", "optax")),
}
MOST_OF_FUSED = {"tiny": 0.30, "medium": 0.85, "wide": 0.90, "transformer": 0.95, "resnet": 0.95}

LARGE, MOST_MEMORY = "64M numbers", 0.85


def floors(rows: Sequence[Figures], threads: int) -> list[str]:
    """Each system beside its floor. What measures floors needs torch, which comes after the children's peaks."""
    from tests.benchmarks.floors import beside_floors

    return beside_floors(rows, threads)


COMPILED_STEP = Benchmark(
    "One AdamW step, compiled whole",
    (*MOST_OF_FUSED, LARGE),
    SYSTEMS,
    "imperative fused",
    (
        *(Bar(workload, "functional_train", "imperative fused", most) for workload, most in MOST_OF_FUSED.items()),
        Bar(LARGE, "functional_train", "imperative fused", MOST_MEMORY, "peak"),
        Bar(LARGE, "functional_train", "imperative fused", MOST_MEMORY, "beyond_imports"),
        *(
            Bar(workload, "functional_train", other, 1.0)
            for workload in MOST_OF_FUSED
            for other in ("imperative compiled", "jax")
        ),
    ),
    floors,
)

if __name__ == "__main__":
    sys.exit(run(COMPILED_STEP))
