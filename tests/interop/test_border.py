"""Each mistake at the border is explained, and leaves everything as it was."""

import copy
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn, optim
from torch.optim import lr_scheduler

import functional_train as ft
from tests.global_rng import seeded
from tests.interop.cases import Halving
from tests.interop.live import Live, assert_same_bits, snapshot


def module(seed: int = 0) -> nn.Linear:
    with seeded(seed):
        return nn.Linear(3, 2)


def made() -> Live:
    model = module()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Live(model, optimizer, lr_scheduler.StepLR(optimizer, 2))


def sgd(model: nn.Module, **kwargs: Any) -> optim.Optimizer:
    return optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **kwargs})


def state_of(live: Live, scheduler: bool = False) -> ft.TrainState:
    return ft.from_torch(live.model, live.optimizer, live.scheduler if scheduler else None).state


class Row(NamedTuple):
    """One mistake."""

    name: str
    make: Callable[[Live], Any]
    error: type[Exception]
    message: str


def replaced_step(live: Live) -> Any:
    optimizer = sgd(live.model)
    optimizer.step = lambda closure=None: None  # type: ignore[method-assign]
    return ft.from_torch(live.model, optimizer)


def compiled_step(live: Live) -> Any:
    live.optimizer.step = torch.compile(live.optimizer.step, backend="eager")  # type: ignore[method-assign]
    return ft.from_torch(*live)


def with_plateau(live: Live) -> Any:
    return ft.from_torch(live.model, live.optimizer, lr_scheduler.ReduceLROnPlateau(live.optimizer))


def graph_in_memory(live: Live) -> Any:
    live.optimizer.state[live.model.bias]["product"] = torch.ones(1, requires_grad=True) * 2
    try:
        return ft.from_torch(live.model, live.optimizer)
    finally:
        live.optimizer.state.clear()


def stubborn_scheduler(live: Live) -> Any:
    scheduler = lr_scheduler.LambdaLR(live.optimizer, lambda epoch: 1.0)
    scheduler.lock = __import__("threading").Lock()
    return ft.from_torch(live.model, live.optimizer, scheduler)


def text_in_memory(live: Live) -> Any:
    live.optimizer.state[live.model.bias]["note"] = {1, 2}
    try:
        return ft.from_torch(live.model, live.optimizer)
    finally:
        live.optimizer.state.clear()


def two_memories(live: Live) -> Any:
    state = state_of(live)
    return ft.to_torch(state.replace(opt_state=(state.opt_state, state.opt_state)), live.model, live.optimizer)


def other_class(live: Live) -> Any:
    return ft.to_torch(state_of(live), live.model, optim.Adam(live.model.parameters()))


def other_groups(live: Live) -> Any:
    optimizer = optim.SGD([{"params": [live.model.weight]}, {"params": [live.model.bias]}], lr=0.1)
    return ft.to_torch(state_of(live), live.model, optimizer)


def other_scheduler(live: Live) -> Any:
    state = state_of(live, scheduler=True)
    return ft.to_torch(state, live.model, live.optimizer, lr_scheduler.ExponentialLR(live.optimizer, 1.0))


def other_functions(live: Live) -> Any:
    counting = lr_scheduler.LambdaLR(live.optimizer, Halving())
    state = ft.from_torch(live.model, live.optimizer, counting).state
    return ft.to_torch(state, live.model, live.optimizer, lr_scheduler.LambdaLR(live.optimizer, lambda epoch: 1.0))


def native(live: Live) -> Any:
    params = state_of(live).params
    return ft.to_torch(ft.init_state(params, ft.adam()), live.model, live.optimizer)


def written_to(live: Live) -> Any:
    state = state_of(live)
    state.params["bias"].add_(1)
    return ft.to_torch(state, live.model, live.optimizer)


def changed_params(live: Live, **changes: Any) -> Any:
    state = state_of(live)
    return ft.to_torch(state.replace(params=state.params | changes), live.model, live.optimizer)


def changed_buffers(live: Live) -> Any:
    buffers = ft.Params({"running": torch.ones(1)})
    return ft.to_torch(state_of(live).replace(buffers=buffers), live.model, live.optimizer)


def started_from(live: Live, params: Any) -> Any:
    run = ft.from_torch(live.model, live.optimizer)
    return ft.init_state(params, run.optimizer)


def compiled(live: Live) -> Any:
    run = ft.from_torch(live.model, live.optimizer)
    loss_fn = lambda params, batch: run.apply(params, batch).sum()  # noqa: E731
    return ft.compile(ft.make_step(ft.grad_and_value(loss_fn), run.optimizer))(run.state, torch.ones(1, 3))


ROWS = [
    Row("model that is none", lambda o: ft.from_torch(o.optimizer, o.model), ft.StructureError, "takes an nn.Module"),
    Row("class of a model", lambda o: ft.from_torch(nn.Linear, o.optimizer), ft.StructureError, "Make an instance"),
    Row(
        "class of an optimizer",
        lambda o: ft.from_torch(o.model, optim.SGD),
        ft.StructureError,
        "takes a torch.optim.Optimizer.*got the class SGD",
    ),
    Row(
        "scheduler in place of the optimizer",
        lambda o: ft.from_torch(o.model, o.scheduler),
        ft.StructureError,
        "got a StepLR. The order is model, optimizer, scheduler",
    ),
    Row(
        "wrapper of an optimizer",
        lambda o: ft.from_torch(o.model, [o.optimizer]),
        ft.StructureError,
        "got a list. A wrapper around one usually has it as .optimizer",
    ),
    Row(
        "parameter of another model",
        lambda o: ft.from_torch(module(1), o.optimizer),
        ft.StructureError,
        r"from_torch: parameter 0 of the optimizer's group 0, of shape \(2, 3\), is none of the 2 parameters of the "
        "Linear. Pass the module that the optimizer was made for",
    ),
    Row("replaced step", replaced_step, ft.StructureError, "somebody replaced `step` of this SGD.*del optimizer.step"),
    Row("compiled step", compiled_step, ft.StructureError, "somebody replaced `step` of this SGD"),
    Row(
        "scheduler that is none",
        lambda o: ft.from_torch(o.model, o.optimizer, lambda step: 0.1),
        ft.StructureError,
        "LRScheduler or None, got a function.*ft.tree.set",
    ),
    Row(
        "class of a scheduler",
        lambda o: ft.from_torch(o.model, o.optimizer, lr_scheduler.StepLR),
        ft.StructureError,
        "got the class StepLR",
    ),
    Row(
        "scheduler of another optimizer",
        lambda o: ft.from_torch(o.model, sgd(o.model), o.scheduler),
        ft.StructureError,
        "the StepLR belongs to another optimizer, a SGD. Pass the optimizer that the scheduler was made with",
    ),
    Row("plateau", with_plateau, ft.StructureError, "ReduceLROnPlateau looks at a loss.*group0/lr.*reduce_on_plateau"),
    Row(
        "no epochs",
        lambda o: ft.from_torch(*o, every=0),
        ft.HyperparameterError,
        "every must be an integer of at least 1, got 0. It counts the updates",
    ),
    Row("half epochs", lambda o: ft.from_torch(*o, every=1.5), ft.HyperparameterError, "got 1.5"),
    Row(
        "negative position",
        lambda o: ft.from_torch(*o, step=-1),
        ft.HyperparameterError,
        "step must be an integer of at least 0, got -1. It counts the batches",
    ),
    Row("memory with a graph", graph_in_memory, ft.StructureError, r"SGD\(weight, bias\) cannot be copied.*detach"),
    Row("scheduler that cannot be copied", stubborn_scheduler, ft.StructureError, "LambdaLR cannot be copied"),
    Row("memory that is no tensor", text_in_memory, ft.StructureError, "keeps a set at 'note'"),
    Row(
        "state that is none",
        lambda o: ft.to_torch(state_of(o).params, o.model, o.optimizer),
        ft.StructureError,
        "takes a TrainState first, got a Params. Pass run.state",
    ),
    Row("state of an optimizer of ours", native, ft.StructureError, "found 0.*ft.adamw.*run.optimizer"),
    Row("two memories", two_memories, ft.StructureError, "found 2"),
    Row(
        "optimizer of another class",
        other_class,
        ft.StructureError,
        r"the state is one of torch.optim.sgd.SGD\(weight, bias\), and the optimizer is torch.optim.adam.Adam\(weight",
    ),
    Row("other groups", other_groups, ft.StructureError, r"SGD\(weight, bias\).*SGD\(weight \| bias\)"),
    Row("scheduler of another kind", other_scheduler, ft.StructureError, "with StepLR, and.*with ExponentialLR"),
    Row(
        "scheduler with other functions",
        other_functions,
        ft.StructureError,
        "something inside 'lr_lambdas/0', and this LambdaLR has nothing there",
    ),
    Row(
        "scheduler left out",
        lambda o: ft.to_torch(state_of(o, scheduler=True), o.model, o.optimizer),
        ft.StructureError,
        "has the position of a scheduler, and none was given.*Pass scheduler=",
    ),
    Row(
        "scheduler too many",
        lambda o: ft.to_torch(state_of(o), *o),
        ft.StructureError,
        "given a StepLR, and the state has no position of one",
    ),
    Row("leaf written to", written_to, ft.OwnershipError, "'params/bias' was written to"),
    Row(
        "parameter of another shape",
        lambda o: changed_params(o, bias=torch.ones(3)),
        ft.StructureError,
        r"params\['bias'\] has shape \(3,\), but in Linear it has shape \(2,\)",
    ),
    Row(
        "unknown parameter", lambda o: changed_params(o, bais=torch.ones(2)), ft.StructureError, "no parameter of that"
    ),
    Row("unknown buffer", changed_buffers, ft.StructureError, "no buffer of that name"),
    Row(
        "start from other parameters",
        lambda o: started_from(o, {"weight": torch.ones(2, 3)}),
        ft.StructureError,
        r"params\['bias'\] is missing",
    ),
    Row(
        "start from other shapes",
        lambda o: started_from(o, {"weight": torch.ones(2, 3), "bias": torch.ones(4)}),
        ft.StructureError,
        r"params\['bias'\] has shape \(4,\)",
    ),
    Row("compiled", compiled, ft.StructureError, r"SGD\(weight, bias\) is a class that writes into real tensors"),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_a_mistake_is_explained(row: Row) -> None:
    """Each mistake raises the error of its kind, whose message says what is wrong and what to do."""
    with pytest.raises(row.error, match=f"(?s){row.message}"):
        row.make(made())


BACK = [row for row in ROWS if row.name in {"unknown buffer", "other groups", "scheduler too many", "two memories"}]


@pytest.mark.parametrize("row", BACK, ids=lambda row: row.name.replace(" ", "-"))
def test_nothing_is_written_on_a_mistake(row: Row) -> None:
    """`to_torch` checks everything before it writes anything."""
    live = made()
    before = snapshot(live)
    with pytest.raises(row.error):
        row.make(live)
    assert_same_bits(snapshot(live), before)


def test_long_names_are_cut_but_tell_apart() -> None:
    """Of many parameters the name shows the first, and a checksum stands for the rest."""
    with seeded(0):
        model = nn.Sequential(*[nn.Linear(1, 1) for _ in range(30)])
    whole = ft.from_torch(model, sgd(model)).state
    other = optim.SGD(list(model.parameters())[:-1], lr=0.1, momentum=0.9)
    with pytest.raises(ft.StructureError, match=re.escape("SGD(0.weight, 0.bias, ")) as caught:
        ft.to_torch(whole, model, other)
    assert len(str(caught.value)) < 500


def test_a_module_that_was_copied_is_not_the_model() -> None:
    """A deep copy has other parameters."""
    live = made()
    with pytest.raises(ft.StructureError, match="was it copied"):
        ft.from_torch(copy.deepcopy(live.model), live.optimizer)
