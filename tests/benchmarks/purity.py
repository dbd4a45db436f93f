"""What it costs to look after purity: the checks in every plain step, `guard`, and `check_pure`.

python -m tests.benchmarks.purity --check
"""

import sys

from tests.benchmarks.command import Benchmark, run
from tests.benchmarks.processes import System
from tests.benchmarks.report import Bar

# Two processes of the same code differ by more than the checks take, by where its objects come to lie.
TOGETHER = "step"
SYSTEMS = {
    "without checks": System("tests.benchmarks.systems:unchecked_step", process=TOGETHER),
    "plain step": System("tests.benchmarks.systems:plain_step", process=TOGETHER),
    "inside guard": System("tests.benchmarks.systems:guarded_step"),
    "check_pure": System("tests.benchmarks.systems:step_through_check"),
}
WORKLOADS = ("tiny", "medium", "transformer")
MOST_OF_UNCHECKED = 1.05

PURITY = Benchmark(
    "One AdamW step, and what watches over it",
    WORKLOADS,
    SYSTEMS,
    "without checks",
    tuple(Bar(workload, "plain step", "without checks", MOST_OF_UNCHECKED) for workload in WORKLOADS),
)

if __name__ == "__main__":
    sys.exit(run(PURITY))
