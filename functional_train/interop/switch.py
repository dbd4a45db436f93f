"""`from_torch` and `to_torch`: a live training run as values, and values back in the live objects."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from functional_train.interop._border import check_count, check_scheduler, held_parameters, steps_taken
from functional_train.interop._scheduler import lacking, write
from functional_train.interop._twins import SCHEDULER, Twins
from functional_train.models._checks import leaves_of, read_leaves
from functional_train.models._dismantle import named_tensors
from functional_train.models.functional import functionalize
from functional_train.steps.state import TrainState, check_untouched
from functional_train.updates.torch_classes._codes import restore
from functional_train.updates.torch_classes.wrap import TorchClassState, stepping, values_of
from functional_train.updates.transformation import GradientTransformation
from functional_train.values.errors import StructureError
from functional_train.values.types import Tree


class TorchRun(NamedTuple):
    """A training run of `torch.optim` as values.

    Attributes:
        apply: The model as a pure function; see `functionalize`.
        optimizer: The live optimizer and its scheduler as one transformation, with `TorchClassState`. Its `init` gives
            the memory at the switch, so that a chain around it goes on from there too.
        state: Step, parameters, memory of optimizer and scheduler, and buffers at the switch.

    Example:
        >>> import functional_train as ft, torch
        >>> model = torch.nn.Linear(2, 1)
        >>> run = ft.from_torch(model, torch.optim.SGD(model.parameters(), lr=0.1))
        >>> run._fields
        ('apply', 'optimizer', 'state')
    """

    apply: Callable[..., Any]  # (params, *args, buffers=None, key=None, train=True, **kwargs) -> output
    optimizer: GradientTransformation
    state: TrainState


def from_torch(
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None = None,
    *,
    every: int = 1,
    step: int | None = None,
    method: str = "forward",
    forward_kwargs: Collection[str] = (),
) -> TorchRun:
    """Take a live training run, between two of its steps, into values.

    Training on from these values gives the bits that the live loop would have given. The objects are only read, and
    everything is copied. Each update makes an optimizer of the same class anew, as `wrap_torch_optimizer` does, so that
    every class and option is what it was; such a step is not compiled, mapped over or differentiated.

    What the optimizer holds and requires grad is trained; the rest, `requires_grad=False` or not in the optimizer,
    stays as it is whatever its gradient. Tied parameters are one. Groups stay groups: their numbers are in the state,
    as `group0/lr`, and may be changed there with `ft.tree.set`. Of the gradients that lie on the parameters nothing is
    taken.

    Args:
        model: Not changed and not kept; `apply` is `functionalize(model).apply`.
        optimizer: Any `torch.optim.Optimizer` over parameters of the model, with or without steps taken.
        scheduler: A scheduler of this optimizer, stepped without arguments; it becomes part of the update.
        every: Updates between two calls of `scheduler.step()`: 1, or the batches of an epoch where the loop calls it
            once an epoch. Then switch right after such a call.
        step: Batches consumed so far. If None, the largest count of steps that the optimizer keeps, else the
            scheduler's, else 0.
        method: As in `functionalize`.
        forward_kwargs: As in `functionalize`.

    Returns:
        `apply`, the optimizer as a transformation, and the state to go on from. The optimizer's `init(params)` gives
        the memory that the live one had at the switch, so that it can become a link of a chain:
        `tx = ft.chain(ft.clip_by_global_norm(1.0), run.optimizer)`, and
        `run.state.replace(opt_state=tx.init(run.state.params))`.

    Raises:
        StructureError: the optimizer holds a parameter that is not the model's; the scheduler is another optimizer's,
            or looks at a loss (`ReduceLROnPlateau`); an object cannot be copied or remembers what tensors cannot hold.
        HyperparameterError: `every` or `step` is no count.

    Source: torch.optim.Optimizer and torch.optim.lr_scheduler.LRScheduler, whose contracts this follows.

    Differs: in torch's loop a parameter that the loss never reaches has no gradient and is left alone; here it has a
        zero, and decay and momentum still move it: set its `requires_grad` to False before the switch. Where a class
        computes the loss several times a step (`LBFGS`), each time starts from the buffers of before the step, of which
        the first new ones count. A model that draws, as dropout does, or an optimizer, needs a key in the state,
        `run.state.replace(key=ft.random.key(0))`, and draws other numbers than the global generator would have given.
        Hooks of the optimizer see a copy of it.

    Example:
        >>> import functional_train as ft, torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        >>> run = ft.from_torch(model, optimizer)
        >>> loss_fn = lambda params, batch: run.apply(params, batch).square().mean()
        >>> step = ft.make_step(ft.grad_and_value(loss_fn), run.optimizer)
        >>> state, metrics = step(run.state, torch.ones(4, 2))
        >>> ft.to_torch(state, model, optimizer)  # and on with the loop
        >>> optimizer.state[model.bias]["step"]
        tensor(1.)
    """
    held = held_parameters(model, optimizer, "from_torch")
    check_scheduler(scheduler, optimizer, "from_torch")
    check_count("every", every, 1, "It counts the updates between two calls of scheduler.step().")
    if step is not None:
        check_count("step", step, 0, "It counts the batches consumed so far.")
    apply, params, buffers = functionalize(model, method=method, forward_kwargs=forward_kwargs)
    twins = Twins(optimizer, scheduler, held, every)
    opt_state = stepping(twins).init(params)
    forgetful, known, owner = twins.forgetful(), leaves_of(params), type(model).__name__

    def init(params: Tree) -> TorchClassState:
        read_leaves("params", params, known, owner)
        return opt_state

    reached = steps_taken(optimizer, scheduler, every) if step is None else step
    device = next(iter(params.values())).device
    count = torch.tensor(reached, dtype=torch.int64, device=device)
    transformation = GradientTransformation(init, stepping(forgetful).update)
    return TorchRun(apply, transformation, TrainState(count, params, opt_state, buffers if len(buffers) else None))


def to_torch(state: TrainState, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler | None = None) -> None:
    """Write a state of a run of `from_torch` back into live objects, so that their loop goes on from it.

    This is where purity ends: parameters and buffers are written in place; the memory of the optimizer and of the
    scheduler is replaced by copies, learning rates that are tensors in place. Nothing is written if anything does not
    fit. Gradients that lie on parameters are left there: zero them before the next `backward()`.

    Args:
        state: One of `run.state` or what steps made of it. The optimizer's memory is found inside a chain too.
        model: The model of the run, or one like it.
        optimizer: Its optimizer, or one of its class with the same groups.
        scheduler: Its scheduler, exactly when `from_torch` was given one.

    Raises:
        StructureError: names, shapes or groups differ; the state has no memory of `from_torch`'s optimizer, or two; the
            scheduler is missing, or there was none.
        OwnershipError: a leaf of the state was written to since the state was made.

    Source: torch.optim.Optimizer.load_state_dict, which also converts what it loads to the dtypes of the parameters;
        this does not.

    Example:
        >>> import functional_train as ft, torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> state = ft.from_torch(model, optimizer).state
        >>> ft.to_torch(state.replace(params=ft.Params({"weight": torch.ones(1, 1)})), model, optimizer)
        >>> model.weight
        Parameter containing:
        tensor([[1.]], requires_grad=True)
    """
    held = held_parameters(model, optimizer, "to_torch")
    check_scheduler(scheduler, optimizer, "to_torch")
    if not isinstance(state, TrainState):
        raise StructureError(f"to_torch takes a TrainState first, got a {type(state).__name__}. Pass run.state.")
    check_untouched(state)
    owner = type(model).__name__
    parameters, buffers = (dict(named_tensors(model, kind)) for kind in ("_parameters", "_buffers"))
    new_parameters = read_leaves("params", state.params, leaves_of(parameters), owner)
    given_buffers = buffers if state.buffers is None else state.buffers
    new_buffers = read_leaves("buffers", given_buffers, leaves_of(buffers), owner)
    memory = _memory_in(state.opt_state)
    twins = Twins(optimizer, scheduler, held, 1)
    _check_fits(memory, twins.name, scheduler)
    values = values_of(memory, state.params, twins.picks(state.params))

    with torch.no_grad():
        for old, new in zip((*parameters.values(), *buffers.values()), (*new_parameters, *new_buffers), strict=True):
            old.copy_(new)
        _write_optimizer(memory, optimizer, list(held.values()), values)
    schedule = vars(optimizer).pop(SCHEDULER, None)
    if schedule is not None and scheduler is not None:
        write(scheduler, schedule["at"])


def _write_optimizer(
    memory: TorchClassState, optimizer: Optimizer, parameters: list[Tensor], values: list[Tensor | None]
) -> None:
    tensors = [
        (group, key, old) for group in optimizer.param_groups for key, old in group.items() if isinstance(old, Tensor)
    ]
    restore(optimizer, parameters, memory.layout, memory.codes.tolist(), values)
    # A graph that was captured with this tensor reads from it.
    for group, key, old in tensors:
        if isinstance(group[key], Tensor) and group[key] is not old:
            group[key] = old.copy_(group[key])


def _memory_in(opt_state: Tree) -> TorchClassState:
    found = _memories(opt_state)
    if len(found) != 1:
        raise StructureError(
            f"to_torch looks for the memory of one optimizer of from_torch in opt_state, and found {len(found)}. "
            "Optimizers of this library, such as ft.adamw, have memory of their own, which torch's classes do not "
            "know: train with run.optimizer, alone or in one ft.chain."
        )
    return found[0]


def _memories(value: Any) -> list[TorchClassState]:
    if isinstance(value, TorchClassState):
        return [value]
    entries = vars(value) if dataclasses.is_dataclass(value) else value
    inside = tuple(entries.values()) if isinstance(entries, Mapping) else entries
    return [memory for each in inside for memory in _memories(each)] if isinstance(inside, list | tuple) else []


def _check_fits(memory: TorchClassState, name: str, scheduler: LRScheduler | None) -> None:
    ways = [[key for _, key in place.keys] for place in memory.layout.places if place.owner[0] == "self"]
    scheduled = [way[2:] for way in ways if way[:2] == [SCHEDULER, "at"]]
    if scheduled and scheduler is None:
        raise StructureError(
            "to_torch: the state has the position of a scheduler, and none was given to put it into. Pass scheduler=."
        )
    if scheduler is not None and not scheduled:
        raise StructureError(
            f"to_torch was given a {type(scheduler).__name__}, and the state has no position of one. Pass it to "
            "from_torch too, or leave it out."
        )
    if memory.layout.maker != name:
        raise StructureError(
            f"to_torch: the state is one of {memory.layout.maker}, and the optimizer is {name}. Class, groups and "
            "names of parameters must be those of the run that from_torch was given."
        )
    missing = None if scheduler is None else lacking(scheduler, scheduled)
    if missing is not None:
        raise StructureError(
            f"to_torch: the scheduler of the state remembers something inside {missing!r}, and this "
            f"{type(scheduler).__name__} has nothing there. Pass one that is made as the one of from_torch was."
        )
