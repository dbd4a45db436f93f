"""The plain step, not compiled, beside the imperative loop and TorchOpt.

python -m tests.benchmarks.plain_step --check
"""

import sys

from tests.benchmarks.command import Benchmark, run
from tests.benchmarks.processes import System
from tests.benchmarks.report import Bar

# torch.optim imports the compiler when the first optimizer is made: 70 MB that are no optimizer's state.
TORCH_OPTIM = ("torch._dynamo",)
SYSTEMS = {
    "imperative fused": System("tests.benchmarks.systems:imperative_fused", TORCH_OPTIM),
    "imperative foreach": System("tests.benchmarks.systems:imperative_foreach", TORCH_OPTIM),
    "functional_train": System("tests.benchmarks.systems:plain_step"),
    "torchopt": System("tests.benchmarks.systems:torchopt_pure", ("torchopt",)),
    "torchopt accelerated": System("tests.benchmarks.systems:torchopt_accelerated", ("torchopt",)),
}
MOST_OF_FUSED = {"tiny": 1.4, "medium": 1.25, "wide": 1.2, "transformer": 1.1}

PLAIN_STEP = Benchmark(
    "One AdamW step, plain and pure",
    tuple(MOST_OF_FUSED),
    SYSTEMS,
    "imperative fused",
    (
        *(Bar(workload, "functional_train", "imperative fused", most) for workload, most in MOST_OF_FUSED.items()),
        *(
            Bar(workload, "functional_train", other, 1.0)
            for workload in MOST_OF_FUSED
            for other in ("torchopt", "torchopt accelerated")
        ),
    ),
)

if __name__ == "__main__":
    sys.exit(run(PLAIN_STEP))
