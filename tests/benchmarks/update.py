"""One update from given gradients, beside torch.optim and TorchOpt: many small leaves, and many numbers.

python -m tests.benchmarks.update --check
"""

import sys
from collections.abc import Sequence

from tests.benchmarks.command import Benchmark, run
from tests.benchmarks.figures import Figures
from tests.benchmarks.plain_step import TORCH_OPTIM
from tests.benchmarks.processes import System, workers
from tests.benchmarks.report import Bar

MODULE = "tests.benchmarks.optimizers"
SMALL, LARGE = "200 leaves", "100M numbers"
# Numbers read and written for each parameter by an update in place: gradient, parameter and moments.
TRAFFIC = {"adam": 7, "adamw": 7, "sgd": 5, "lion": 5}
NUMBERS, BYTES = 100_000_000, 4
MOST_OF_FOREACH = 1.3


def benchmark(optimizer: str) -> Benchmark:
    """The systems of one optimizer."""
    systems = {
        "in place, foreach": System(
            f"{MODULE}:foreach_{optimizer}", ("pytorch_optimizer",) if optimizer == "lion" else TORCH_OPTIM
        ),
        "functional_train": System(f"{MODULE}:ours_{optimizer}"),
    }
    if optimizer == "lion":
        systems["bare calls"] = System(f"{MODULE}:bare_lion")
    else:
        systems["in place, fused"] = System(f"{MODULE}:fused_{optimizer}", TORCH_OPTIM)
        systems["torchopt"] = System(f"{MODULE}:torchopt_{optimizer}", ("torchopt",))
    others = [(workload, "torchopt") for workload in (SMALL, LARGE) if "torchopt" in systems]
    bars = [Bar(SMALL, "functional_train", "in place, foreach", MOST_OF_FOREACH)]
    return Benchmark(
        f"One update of {optimizer}",
        (SMALL, LARGE),
        systems,
        "in place, foreach",
        (*bars, *[Bar(workload, "functional_train", other, 1.0) for workload, other in others]),
        lambda rows, threads: bandwidths(optimizer, rows, threads),
    )


def bandwidths(optimizer: str, rows: Sequence[Figures], threads: int) -> list[str]:
    """How much of the speed of a plain copy each system reaches, counting the bytes that an update in place moves."""
    large = [row for row in rows if row.workload == LARGE]
    if not large:
        return []
    with workers({"copy": System(f"{MODULE}:copy")}, LARGE, threads) as group:
        copied = min(group["copy"].ask("block", 3)["wall"] for _ in range(5))
    speed = 2 * BYTES * NUMBERS / copied
    lines = [
        "",
        f"a copy moves {speed / 1e9:.1f} GB/s; an update in place has to move {TRAFFIC[optimizer]} numbers each:",
    ]
    for row in large:
        moved = TRAFFIC[optimizer] * BYTES * NUMBERS / (row.milliseconds / 1e3)
        lines.append(f"  {row.system:<18} {moved / 1e9:5.1f} GB/s, {moved / speed:.2f} of the copy")
    return lines


if __name__ == "__main__":
    sys.exit(max([run(benchmark(optimizer)) for optimizer in TRAFFIC]))
