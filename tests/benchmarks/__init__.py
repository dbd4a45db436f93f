"""How fast functional_train is, beside what else can train the same model.

    python -m tests.benchmarks.plain_step --threads 1 --check

A benchmark is a small file that names workloads, systems and bars, and hands them to `compare`. Each system runs in a
process of its own; the processes take turns, block by block, so that only one runs at a time and all see the same
machine. Before anything is timed, all systems of a workload must have reported the same losses.

Files, from the bottom: `workloads` (what is trained), `systems` (who trains it), `worker` (a process with one system),
`processes` (the runner's end of it), `compare` (same work first, then turns), `figures` (medians, ratios, spread),
`report` (table and JSON), `command` (options, exit code), and a file for each benchmark.

A further benchmark needs functions like those in `systems`, in any module, and a file like `plain_step`. What the
runner imports must not import torch: a child's peak memory, as the kernel counts it, starts at its parent's.
"""
