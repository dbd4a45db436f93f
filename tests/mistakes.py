"""Bad input as data: what is done, what is raised, what the message says."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import functional_train as ft
from tests.global_rng import seeded

ones = torch.ones(2)
params = {"w": torch.ones(2, 3), "layer": {"b": torch.ones(3)}}


class Row(NamedTuple):
    """One mistake."""

    name: str
    make: Callable[[], Any]
    error: type[Exception]
    message: str


def module() -> Any:
    with seeded():
        return ft.functionalize(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)))


def applied(change: Callable[[ft.Params], Any]) -> Any:
    apply, values, _ = module()
    return apply(change(values), torch.ones(1, 3))


def grad_of(loss_fn: Callable[..., Any], has_aux: bool = False) -> Any:
    return ft.grad_and_value(loss_fn, has_aux=has_aux)(params)


def updated(grads: Any, optimizer: ft.GradientTransformation | None = None, state: Any = None) -> Any:
    optimizer = ft.adam() if optimizer is None else optimizer
    return ft.make_update(optimizer)(grads, optimizer.init(params) if state is None else state, params)


def stepped(grad_fn: Any, *, buffers: Any = None, key: Any = None, optimizer: Any = None) -> Any:
    optimizer = ft.sgd(0.1) if optimizer is None else optimizer
    state = ft.init_state({"w": ones}, optimizer, buffers=buffers, key=key)
    return ft.make_step(grad_fn, optimizer)(state, ones)


def total(params: Any, batch: Any = None) -> Tensor:
    return sum((leaf * leaf).sum() for leaf in ft.tree.leaves(params))  # type: ignore[return-value]


def with_aux(aux: Any) -> Any:
    return ft.grad_and_value(lambda params, batch, **owned: (total(params), aux), has_aux=True)


def bn_like() -> ft.Params:
    return ft.Params({"mean": torch.zeros(2)})


weights = torch.ones(3, requires_grad=True)
linear_state = ft.init_state({"w": torch.ones(2)}, ft.adam())

LOSSES = [
    Row("loss not a scalar", lambda: grad_of(lambda p: p["w"]), ft.LossError, r"shape \(2, 3\).*0-d.*\.mean\(\)"),
    Row("loss of one element", lambda: grad_of(lambda p: p["w"][:1, 0]), ft.LossError, r"shape \(1,\).*0-d"),
    Row("loss complex", lambda: grad_of(lambda p: total(p) * 1j), ft.LossError, "complex.*complex64.*real"),
    Row("loss a float", lambda: grad_of(lambda p: total(p).item()), ft.LossError, r"a float, not a tensor.*\.item\(\)"),
    Row("loss None", lambda: grad_of(lambda p: None), ft.LossError, "the loss is None, not a tensor"),
    Row(
        "loss detached", lambda: grad_of(lambda p: total(p).detach()), ft.LossError, "does not depend on the parameters"
    ),
    Row("loss a constant", lambda: grad_of(lambda p: torch.tensor(1.0)), ft.LossError, "does not depend"),
    Row(
        "loss of other weights", lambda: grad_of(lambda p: weights.sum()), ft.LossError, "does not depend.*own weights"
    ),
    Row(
        "loss without gradients",
        lambda: grad_of(torch.no_grad()(total)),
        ft.LossError,
        r"does not depend.*torch\.no_grad",
    ),
    Row(
        "loss independent inside vmap",
        lambda: torch.func.vmap(ft.grad(lambda p: torch.ones(())))(ones),
        ft.LossError,
        "does not depend on the parameters",
    ),
    Row("aux unannounced", lambda: grad_of(lambda p: (total(p), {})), ft.LossError, "a tuple of 2.*has_aux=True"),
    Row(
        "aux forgotten",
        lambda: grad_of(total, has_aux=True),
        ft.LossError,
        r"has_aux=True, but.*a Tensor.*\(loss, aux\)",
    ),
    Row(
        "three returned",
        lambda: grad_of(lambda p: (total(p), {}, {}), has_aux=True),
        ft.LossError,
        r"returned a tuple of 3.*\(loss, aux\)",
    ),
    Row(
        "nothing floating", lambda: ft.grad(total)({"n": torch.tensor(1)}), ft.LossError, "nothing to differentiate.*n"
    ),
    Row("nothing at all", lambda: ft.grad(total)({}), ft.LossError, "nothing to differentiate.*none"),
    Row("argnums past the end", lambda: ft.grad(total, argnums=2)(ones), ft.StructureError, "argument 2.*only 1 were"),
    Row("params by name", lambda: ft.grad(total)(params=params), ft.StructureError, "only 0 were passed.*by position"),
    Row(
        "mixed precision", lambda: ft.mixed_precision(total, torch.float64), ft.HyperparameterError, "bfloat16.*float64"
    ),
]

MODELS = [
    Row(
        "parameter misspelt",
        lambda: applied(lambda p: ft.Params({name.replace("1.", "one."): leaf for name, leaf in p.items()})),
        ft.StructureError,
        r"one\.weight|1\.weight",
    ),
    Row(
        "parameter missing",
        lambda: applied(lambda p: ft.Params({name: leaf for name, leaf in p.items() if name != "0.bias"})),
        ft.StructureError,
        r"0\.bias",
    ),
    Row(
        "parameter of wrong shape",
        lambda: applied(lambda p: p | {"1.weight": torch.ones(3, 3)}),
        ft.StructureError,
        r"1\.weight.*\(3, 3\)",
    ),
]

UPDATES = [
    Row(
        "grads lack a leaf",
        lambda: updated({"w": params["w"]}),
        ft.StructureError,
        "grads and params differ at 'layer'",
    ),
    Row(
        "grads of other names",
        lambda: updated({"w": params["w"], "layer": {"c": torch.ones(3)}}),
        ft.StructureError,
        "grads and params differ at 'layer/[bc]'",
    ),
    Row("grads a list", lambda: updated([params["w"]]), ft.StructureError, "differ at the top: grads has a list there"),
    Row(
        "grads of wrong shape",
        lambda: updated({"w": torch.ones(3, 2), "layer": {"b": torch.ones(3)}}),
        ft.StructureError,
        r"at 'w': the gradient has \(3, 2\), the parameter \(2, 3\)",
    ),
    Row(
        "grads batched",
        lambda: updated({"w": torch.ones(5, 2, 3), "layer": {"b": None}}),
        ft.StructureError,
        r"\(5, 2, 3\).*batched on the way",
    ),
    Row(
        "updates of wrong shape",
        lambda: updated(params, ft.stateless(lambda grads, params: ft.tree.map(torch.sum, grads))),
        ft.StructureError,
        r"the updates have shape \(\) at 'layer/b', the parameter \(3,\)",
    ),
    Row(
        "updates of another structure",
        lambda: updated(params, ft.stateless(lambda grads, params: ft.tree.leaves(grads))),
        ft.StructureError,
        "differ",
    ),
    Row("apply_updates", lambda: ft.apply_updates(params, {"w": ones}), ft.StructureError, "differ at 'layer'"),
    Row(
        "chain of factories",
        lambda: ft.chain(ft.adam),
        ft.StructureError,
        r"argument 0, takes a GradientTransformation, got a function.*Call the factory",
    ),
    Row(
        "chain of a list",
        lambda: ft.chain([ft.adam()]),
        ft.StructureError,
        r"argument 0, takes.* got a list\. Unpack it: ft\.chain\(\*",
    ),
]

OUT_OF_RANGE = [
    ("lr a string", lambda: ft.adam(lr="fast"), "lr must be a finite number >= 0, got 'fast'"),
    ("lr None", lambda: ft.adam(lr=None), "got None"),
    ("lr True", lambda: ft.adam(lr=True), "got True"),
    ("lr negative", lambda: ft.sgd(-1.0), "maximize=True"),
    ("lr a vector", lambda: ft.adam(lr=ones), r"lr has shape \(2,\); .* 0-d.*vmap"),
    ("beta a vector", lambda: ft.adam(betas=(ones, 0.9)), r"betas\[0\] has shape \(2,\)"),
    ("first beta 1", lambda: ft.adam(betas=(1.0, 0.9)), r"betas\[0\] must be in \[0, 1\), got 1\.0"),
    ("second beta 1", lambda: ft.adamw(betas=(0.9, 1.0)), r"betas\[1\].*got 1\.0.*0\.999 is usual"),
    ("beta negative", lambda: ft.adam(betas=(-0.1, 0.9)), r"betas\[0\].*got -0\.1"),
    ("betas a number", lambda: ft.adam(betas=0.9), "betas must be a pair, got 0.9"),
    (
        "params first",
        lambda: ft.sgd(params, 0.1),
        r"lr must be .*, got a dict\. Parameters go to optimizer\.init\(params",
    ),
    (
        "params then lr",
        lambda: ft.adam(params, 0.1),
        r"betas .* got 0\.1\. .* Parameters go to optimizer\.init\(params",
    ),
    ("parameters", lambda: ft.sgd(iter([ones])), "lr must be .*, got a list_iterator. Parameters go to"),
    ("three betas", lambda: ft.adam(betas=(0.9, 0.9, 0.9)), "betas must be a pair"),
    ("eps negative", lambda: ft.adam(eps=-1e-8), "eps must be .* >= 0, got -1e-08. 1e-8 is usual"),
    ("weight decay negative", lambda: ft.adamw(weight_decay=-1), "weight_decay must be .*, got -1"),
    ("momentum negative", lambda: ft.sgd(momentum=-0.5), "momentum must be .*, got -0.5"),
    ("dampening negative", lambda: ft.sgd(momentum=0.9, dampening=-1.0), "dampening must be"),
    ("max_norm negative", lambda: ft.clip_by_global_norm(-1.0), "max_norm must be"),
    ("nesterov alone", lambda: ft.sgd(nesterov=True), "nesterov=True needs momentum > 0"),
    (
        "nesterov dampened",
        lambda: ft.sgd(momentum=0.9, dampening=0.1, nesterov=True),
        "dampening 0, got momentum=0.9 and dampening=0.1",
    ),
    ("steps a float", lambda: ft.schedules.linear(1.0, 0.0, 10.0), "num_steps.*int >= 0, got 10.0"),
    ("steps negative", lambda: ft.schedules.cosine(1.0, -1), "num_steps.*got -1"),
    ("warmup too long", lambda: ft.schedules.warmup_cosine(1.0, 9, 5), "num_warmup=9.*num_steps=5"),
    ("warmup negative", lambda: ft.schedules.warmup_cosine(1.0, -1, 5), "num_warmup.*got -1"),
]
RANGES = [
    *[
        Row(
            f"{name} lr {lr}",
            lambda make=make, lr=lr: make(lr=lr),
            ft.HyperparameterError,
            f"lr must be .* >= 0, got {lr}",
        )
        for name, make in (("sgd", ft.sgd), ("adam", ft.adam), ("adamw", ft.adamw), ("scale_by_lr", ft.scale_by_lr))
        for lr in (-0.1, float("nan"), float("inf"))
    ],
    *[Row(name, make, ft.HyperparameterError, message) for name, make, message in OUT_OF_RANGE],
]

STEPS = [
    Row(
        "a loss as grad_fn",
        lambda: stepped(total),
        ft.StructureError,
        r"returned a Tensor.*ft\.grad_and_value\(loss_fn\)",
    ),
    Row("ft.grad as grad_fn", lambda: stepped(ft.grad(total)), ft.StructureError, r"returned a dict.*nor ft\.grad"),
    Row(
        "ft.grad of a pair as grad_fn",
        lambda: ft.make_step(ft.grad(total), ft.sgd(0.1))(ft.init_state((ones, ones), ft.sgd(0.1)), ones),
        ft.StructureError,
        r"shape \(2,\) where the loss belongs",
    ),
    Row(
        "ft.grad with aux as grad_fn",
        lambda: stepped(ft.grad(lambda p, batch: (total(p), {}), has_aux=True)),
        ft.StructureError,
        r"a dict where the loss belongs.*ft\.grad_and_value",
    ),
    Row(
        "buffers not returned",
        lambda: stepped(with_aux({}), buffers=bn_like()),
        ft.StructureError,
        "owns buffers.*none",
    ),
    Row(
        "buffers without has_aux",
        lambda: stepped(ft.grad_and_value(lambda p, batch, *, buffers: total(p)), buffers=bn_like()),
        ft.StructureError,
        "owns buffers, but the loss returned none.*has_aux=True",
    ),
    Row(
        "buffers not owned", lambda: stepped(with_aux(ft.Aux(buffers=bn_like()))), ft.StructureError, "owns none.*lost"
    ),
    Row(
        "other buffers returned",
        lambda: stepped(with_aux(ft.Aux(buffers=ft.Params({"var": ones}))), buffers=bn_like()),
        ft.StructureError,
        "the new buffers and the state's buffers differ at '(mean|var)'",
    ),
    Row("aux called loss", lambda: stepped(with_aux({"loss": ones})), ft.StructureError, "a metric called 'loss'"),
    Row(
        "aux a list",
        lambda: stepped(with_aux([ones])),
        ft.StructureError,
        r"a list as aux.*mapping of metrics, or ft\.Aux",
    ),
    Row("aux a tensor", lambda: stepped(with_aux(ones)), ft.StructureError, "a Tensor as aux"),
    Row(
        "key not owned",
        lambda: stepped(ft.grad_and_value(lambda p, batch, *, key: total(p))),
        TypeError,
        "missing 1 required keyword-only argument: 'key'",
    ),
    Row(
        "key not taken",
        lambda: stepped(ft.grad_and_value(total), key=ft.random.key(0)),
        TypeError,
        "unexpected keyword argument 'key'",
    ),
    Row("no parameters", lambda: ft.init_state({}, ft.sgd()), ft.StructureError, "nothing to train"),
    Row(
        "parameters of a module",
        lambda: ft.init_state({"w": weights}, ft.sgd()),
        ft.StructureError,
        "'w' requires grad",
    ),
    Row(
        "unknown field", lambda: linear_state.replace(parameters=1), ft.StructureError, "no field 'parameters'.*params"
    ),
]

RUNS = [
    Row("no batches", lambda: ft.fit(lambda s, b: (s, {}), linear_state, []), ft.BatchesError, "no batches.*empty"),
    Row("an exhausted generator", lambda: ft.fit(lambda s, b: (s, {}), 0, iter(())), ft.BatchesError, "read only once"),
    Row("scan of nothing", lambda: ft.scan(lambda s, b: (s, {}), 0, []), ft.BatchesError, "no batches.*Use fold"),
    Row(
        "steps negative",
        lambda: ft.fit(None, 0, [1], steps=-1),
        ft.HyperparameterError,
        "steps must be an int >= 0, got -1",
    ),
    Row(
        "steps a float",
        lambda: ft.fit(None, 0, [1], steps=2.5),
        ft.HyperparameterError,
        "steps must be an int >= 0, got 2.5",
    ),
    Row(
        "log_every 0",
        lambda: ft.fit(None, 0, [1], log_every=0),
        ft.HyperparameterError,
        "log_every must be an int >= 1",
    ),
    Row("evaluate_every 0", lambda: ft.fit(None, 0, [1], evaluate_every=0), ft.HyperparameterError, "evaluate_every"),
    Row(
        "loss nan",
        lambda: ft.fit(lambda s, b: (s, {"loss": torch.tensor(float("nan"))}), 0, [1]),
        ft.NonFiniteError,
        r"the loss is nan at step 1\. Lower lr.*error\.state.*error\.history",
    ),
    Row(
        "patience 0",
        lambda: ft.early_stopping(patience=0),
        ft.HyperparameterError,
        "patience must be an int >= 1, got 0",
    ),
    Row("mode", lambda: ft.early_stopping(mode="best"), ft.HyperparameterError, "'min' or 'max', got 'best'"),
    Row(
        "min_delta", lambda: ft.early_stopping(min_delta=-1.0), ft.HyperparameterError, "min_delta must be .*, got -1.0"
    ),
]

values = ft.Params({"w": ones})


def assign(target: Any, name: str, value: Any = None) -> None:
    setattr(target, name, value)


def assign_item(target: Any, name: str) -> None:
    target[name] = None


def delete_item(target: Any, name: str) -> None:
    del target[name]


WRITES = [
    Row(
        "item of Params", lambda: assign_item(values, "w"), ft.ImmutableError, r"'w' cannot be written.*params \| \{'w'"
    ),
    Row(
        "deleting from Params", lambda: delete_item(values, "w"), ft.ImmutableError, "'w' cannot be written or removed"
    ),
    Row("attribute of Params", lambda: assign(values, "w"), ft.ImmutableError, "immutable: 'w'"),
    Row(
        "field of a state",
        lambda: assign(linear_state, "params"),
        ft.ImmutableError,
        r"TrainState is immutable.*replace\(",
    ),
    Row("new field of a state", lambda: assign(linear_state, "other"), ft.ImmutableError, "TrainState is immutable"),
    Row(
        "deleting a field",
        lambda: delattr(linear_state, "step"),
        ft.ImmutableError,
        "'step' cannot be written or removed",
    ),
    Row("field of Aux", lambda: assign(ft.Aux(), "metrics"), ft.ImmutableError, r"Aux is immutable"),
    Row(
        "parameters in a state",
        lambda: assign_item(linear_state.replace(params=values).params, "w"),
        ft.ImmutableError,
        "w",
    ),
]

MISTAKES = [*LOSSES, *MODELS, *UPDATES, *RANGES, *STEPS, *RUNS, *WRITES]
