"""Who owned what in one step of training: measured, not asserted."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

import functional_train as ft
from functional_train.demo.task import Task


def measure(task: Task, optimizer: ft.GradientTransformation, state: ft.TrainState, batch: Any) -> str:
    """Take one step function by function, watch every tensor meanwhile, and make a table of what happened."""
    update_fn = ft.make_update(optimizer)
    owned = {} if state.buffers is None else {"buffers": state.buffers}
    given = {"params": state.params, "batch": batch, **owned}
    watched = {"module": task.module, "state": state, "batch": batch}

    with ft.record_effects(**watched) as effects:
        with effects.phase("loss_fn"):
            value = task.loss_fn(state.params, batch, **owned)
        with effects.phase("grad_fn"):
            grads, same_value = task.grad_fn(state.params, batch, **owned)
    with ft.record_effects(**watched, grads=grads) as effects_of_update, effects_of_update.phase("update_fn"):
        params, opt_state = update_fn(grads, state.opt_state, state.params)

    writes = {**effects.writes, **effects_of_update.writes}
    to_update = {"grads": grads, "opt_state": state.opt_state, "params": state.params}
    rows = [
        ("loss_fn", given, _parts(value)),
        ("grad_fn", given, {"grads": grads, **_parts(same_value)}),
        ("update_fn", to_update, {"params": params, "opt_state": opt_state}),
    ]
    table = [("phase", "reads", "returns", "of these new", "changed in place")]
    table += [
        (phase, _counted(reads), _counted(returns), _new(returns, reads), ", ".join(sorted(writes[phase])) or "nothing")
        for phase, reads, returns in rows
    ]
    num_watched = len(effects_of_update.watched)
    return f"{_aligned(table)}\n  numbers count tensors; all {num_watched} were compared bit for bit before and after"


def _parts(value: Any) -> Mapping[str, Any]:
    """What a loss returns, by name."""
    loss, aux = value if isinstance(value, tuple) else (value, ft.Aux())
    return {"loss": loss, "metrics": aux.metrics, "buffers": aux.buffers}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in ft.tree.leaves(tree) if isinstance(leaf, Tensor)]


def _counted(trees: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {len(_tensors(tree))}" for name, tree in trees.items() if _tensors(tree))


def _new(returns: Mapping[str, Any], reads: Mapping[str, Any]) -> str:
    """How many of the returned tensors share no memory with what was read."""
    old = {tensor.untyped_storage().data_ptr() for tensor in _tensors(reads)}
    returned = _tensors(returns)
    num_new = sum(tensor.untyped_storage().data_ptr() not in old for tensor in returned)
    return "all" if num_new == len(returned) else f"{num_new} of {len(returned)}"


def _aligned(table: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in table)
