"""What a model, its optimizer and its scheduler must satisfy."""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from functional_train.interop._scheduler import nested
from functional_train.models._checks import check_module
from functional_train.models._dismantle import named_tensors
from functional_train.values.errors import HyperparameterError, StructureError


def held_parameters(model: Any, optimizer: Any, caller: str) -> dict[str, Tensor]:
    """The parameters that the optimizer holds by their names in the model, in its order."""
    check_module(model, caller)
    _check_optimizer(optimizer, caller)
    named = dict(named_tensors(model, "_parameters"))
    names = {id(parameter): name for name, parameter in named.items()}
    for number, group in enumerate(optimizer.param_groups):
        for place, parameter in enumerate(group["params"]):
            if id(parameter) not in names:
                raise StructureError(
                    f"{caller}: parameter {place} of the optimizer's group {number}, of shape "
                    f"{tuple(parameter.shape)}, is none of the {len(named)} parameters of the "
                    f"{type(model).__name__}. Pass the module that the optimizer was made for, the whole of it: was it "
                    "copied, moved by to_empty() or given new parameters since?"
                )
    ids = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return {name: parameter for name, parameter in named.items() if id(parameter) in ids}


def _check_optimizer(optimizer: Any, caller: str) -> None:
    if isinstance(optimizer, type) or not isinstance(optimizer, Optimizer):
        found = f"the class {optimizer.__name__}" if isinstance(optimizer, type) else f"a {type(optimizer).__name__}"
        hint = (
            " The order is model, optimizer, scheduler."
            if isinstance(optimizer, LRScheduler | nn.Module)
            else " A wrapper around one usually has it as .optimizer."
        )
        raise StructureError(f"{caller} takes a torch.optim.Optimizer, made for the model, got {found}.{hint}")
    own = vars(optimizer).get("step")
    # A scheduler puts one there that calls the class's own.
    if own is not None and getattr(own, "__wrapped__", None) is not type(optimizer).step:
        raise StructureError(
            f"{caller}: somebody replaced `step` of this {type(optimizer).__name__}, as torch.compile(optimizer.step) "
            "does, and what it computes now cannot be known. Take the replacement off with `del optimizer.step`, or "
            "write it as a subclass."
        )


def check_scheduler(scheduler: Any, optimizer: Optimizer, caller: str) -> None:
    """Refuse what is no scheduler of the optimizer, or looks at more than the number of its steps."""
    if scheduler is None:
        return
    if not isinstance(scheduler, LRScheduler):
        found = f"the class {scheduler.__name__}" if isinstance(scheduler, type) else f"a {type(scheduler).__name__}"
        raise StructureError(
            f"{caller} takes a torch.optim.lr_scheduler.LRScheduler or None, got {found}. Leave it out and set lr "
            "between steps: it is part of the state, ft.tree.set(state, 'group0/lr', lr)."
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise StructureError(
            f"{caller}: ReduceLROnPlateau looks at a loss that it is given, and not only at the number of steps. "
            "Leave it out, keep it in the loop, and put the lr it finds into the state between steps: "
            "ft.tree.set(state, 'group0/lr', lr). Or start ft.reduce_on_plateau() in a chain after the optimizer."
        )
    for each in nested(scheduler):
        its = getattr(each, "optimizer", None)
        if its is not optimizer:
            raise StructureError(
                f"{caller}: the {type(each).__name__} belongs to another optimizer, a "
                f"{type(its).__name__}. Pass the optimizer that the scheduler was made with."
            )


def check_count(name: str, value: Any, least: int, meaning: str) -> None:
    """Refuse what is no count."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise HyperparameterError(f"{name} must be an integer of at least {least}, got {value!r}. {meaning}")


def steps_taken(optimizer: Optimizer, scheduler: LRScheduler | None, every: int) -> int:
    """How many steps the optimizer counted, or its scheduler, or 0 where nobody counts."""
    counts = [entries.get("step") for entries in optimizer.state.values() if isinstance(entries, dict)]
    taken = [int(count) for count in counts if isinstance(count, int | float)]
    taken += [int(count) for count in counts if isinstance(count, Tensor) and count.numel() == 1]
    epochs = [] if scheduler is None else [getattr(each, "last_epoch", 0) for each in nested(scheduler)]
    return max(taken or [every * epoch for epoch in epochs], default=0)
