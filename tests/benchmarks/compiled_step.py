"""The whole step in one graph, its state moved, beside the loops that people leave, TorchOpt and JAX.

python -m tests.benchmarks.compiled_step --check
"""

import sys

from tests.benchmarks.command import Benchmark, run
from tests.benchmarks.plain_step import TORCH_OPTIM
from tests.benchmarks.processes import System
from tests.benchmarks.report import Bar

SYSTEMS = {
    "imperative fused": System("tests.benchmarks.systems:imperative_fused", TORCH_OPTIM),
    "imperative compiled": System("tests.benchmarks.systems:imperative_compiled", TORCH_OPTIM),
    "functional_train": System("tests.benchmarks.systems:compiled_step"),
    "without donation": System("tests.benchmarks.systems:copied_step"),
    "torchopt": System("tests.benchmarks.systems:torchopt_pure", ("torchopt",)),
    "jax": System("tests.benchmarks.jax_systems:jitted", ("jax", "optax")),
}
MOST_OF_FUSED = {"tiny": 0.30, "medium": 0.85, "wide": 0.90, "transformer": 0.95, "resnet": 0.95}

COMPILED_STEP = Benchmark(
    "One AdamW step, compiled whole",
    tuple(MOST_OF_FUSED),
    SYSTEMS,
    "imperative fused",
    (
        *(Bar(workload, "functional_train", "imperative fused", most) for workload, most in MOST_OF_FUSED.items()),
        *(
            Bar(workload, "functional_train", other, 1.0)
            for workload in MOST_OF_FUSED
            for other in ("imperative compiled", "jax")
        ),
    ),
)

if __name__ == "__main__":
    sys.exit(run(COMPILED_STEP))
