"""Several steps in one call: the graph of one, run over and over on the buffers of one state."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from functional_train.steps.compiling._lower import Run
from functional_train.steps.loop import Repeated
from functional_train.values.errors import StructureError


def check_carried(repeated: Repeated, paths: Sequence[str], moved: int, over: Collection[int]) -> None:
    """Refuse a step whose new state cannot take the place of the old one: `over` has the leaves that can."""
    if not moved:
        raise StructureError(
            f"{repeated!r} gives each step the state that the last one made, so the step must return (state, metrics), "
            "with a new state of the structure of the old one."
        )
    for place, path in enumerate(paths[:moved]):
        if place not in over:
            raise StructureError(
                f"{repeated!r}, compiled, writes each state over the last one, so a leaf must be a dense tensor whose "
                f"shape, dtype and device a step keeps. {path!r} is not, or does not stay so; begin with a state that "
                "has the dtypes of the next one, and make expanded tensors contiguous()."
            )


def many_times(run: Run, repeated: Repeated, carried: int, given: int) -> Run:
    """Run a graph once a step.

    Args:
        run: One step, which writes the new state over the old one.
        repeated: How often, and where the batches lie.
        carried: How many arguments are the state's; they come first.
        given: How many are the state's or the batches'. The rest are captured.

    Returns:
        From the state, all batches and what is captured to the other results, stacked.
    """
    times, dim = repeated.num_steps, repeated.batch_dim

    def run_all(arguments: list[Tensor]) -> Sequence[Any]:
        state, batches, captured = arguments[:carried], arguments[carried:given], arguments[given:]
        arguments.clear()
        rows: Any = (
            [batches] * times if dim is None or not batches else zip(*[x.unbind(dim) for x in batches], strict=True)
        )
        measured = [run([*state, *row, *captured]) for row in rows]
        return [torch.stack(column) for column in zip(*measured, strict=True)]

    return run_all


def as_tensors(leaves: Sequence[Any], start: int) -> list[Any]:
    """Leaves of a result, with numbers from `start` on as tensors, so that they can be stacked."""
    return [leaf if place < start else torch.as_tensor(leaf) for place, leaf in enumerate(leaves)]


def one_step(fn: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Repeated | None, Any, tuple[Any, ...]]:
    """What is to be traced for a call: of a repeated step, one step on the first batch."""
    if not isinstance(fn, Repeated):
        return None, fn, args
    if kwargs or len(args) != 2:
        raise StructureError(f"{fn!r}, compiled, is called with a state and batches, both by position.")
    fn.check(args[1])
    return fn, fn.step, (args[0], fn.batch(args[1], 0))
