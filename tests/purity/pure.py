"""Pure functions that look suspicious: makers of function and arguments."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import functional_train as ft
from tests.global_rng import seeded
from tests.purity.impure import x

Case = Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]
SCALE = 3.0
NAMES = {"scale": 2.0}


class Pair(NamedTuple):
    """A container of the user's."""

    first: Tensor
    second: Tensor


def writes_to_its_own(x: Tensor) -> Tensor:
    own = x.clone()
    own[0] = 0.0
    own.mul_(2.0)
    return own


def fills_what_it_made(x: Tensor) -> Tensor:
    room = torch.empty(3, 2)
    room.copy_(x)
    return torch.exp(room, out=torch.empty_like(room))


def grows_and_fills(x: Tensor) -> Tensor:
    room = torch.empty(0)
    room.resize_(2).fill_(1.0)
    return x + room


def makes_constants(x: Tensor) -> Tensor:
    return x * torch.tensor([1.0, 2.0]) + torch.arange(2) + torch.as_tensor([3.0, 4.0])


def goes_through_numpy(x: Tensor) -> Tensor:
    array = np.sin(x.numpy())
    array += 1.0
    return torch.from_numpy(array) + torch.frombuffer(bytearray(8), dtype=torch.float32)


def attends(x: Tensor) -> Tensor:
    queries = x[None, None]
    return F.scaled_dot_product_attention(queries, queries, queries, dropout_p=0.0)


def branches(x: Tensor) -> Tensor:
    return x * 2.0 if x.sum() > 0 else x - 1.0


def uses_globals(x: Tensor) -> Tensor:
    return x * SCALE * NAMES["scale"]


def sets_for_a_while(x: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        return x @ x.T


def times_itself(x: Tensor) -> Tensor:
    time.perf_counter()
    return x + 1.0


def goes_backward_by_itself(x: Tensor) -> Tensor:
    own = x.detach().clone().requires_grad_()
    own.square().sum().backward()
    assert own.grad is not None
    return own.grad


def differentiates(x: Tensor) -> Any:
    return torch.autograd.functional.hessian(lambda row: row.pow(3).sum(), x[0])


def recomputes() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def loss_fn(weight: Tensor) -> Any:
        value = checkpoint(lambda weight: weight.sin().sum(), weight, use_reentrant=False)
        return torch.autograd.grad(value, weight)

    return loss_fn, (torch.ones(2, requires_grad=True),)


def sparse() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return lambda x: (x * 2.0).to_dense().sum(), (torch.eye(3).to_sparse(),)


def with_key() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def draw(key: Tensor) -> Any:
        key_normal, key_choice = ft.random.split(key)
        return ft.random.normal(key_normal, (5,)), ft.random.permutation(key_choice, 7)

    return draw, (ft.random.key(0),)


def module(train: bool) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    with seeded():
        made = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    apply, params, buffers = ft.functionalize(made)

    def run(params: Any, buffers: Any, x: Tensor, key: Tensor) -> Any:
        return apply(params, x, buffers=buffers, key=key, train=train)

    return run, (params, buffers, x(), ft.random.key(0))


def loss_fn(params: Any, batch: Tensor) -> Tensor:
    return (batch @ params["weight"] + params["bias"]).square().mean()


def params() -> Any:
    return {"weight": torch.ones(2, 3), "bias": torch.zeros(3)}


def step(optimizer: Callable[[], Any]) -> Case:
    def make() -> tuple[Callable[..., Any], tuple[Any, ...]]:
        made = optimizer()
        state = ft.init_state(params(), made, key=ft.random.key(1))

        def loss_with_key(params: Any, batch: Tensor, key: Tensor) -> Tensor:
            return loss_fn(params, ft.random.dropout(key, batch, 0.5))

        return ft.make_step(ft.grad_and_value(loss_with_key), made), (state, x())

    return make


OPTIMIZERS: Mapping[str, Callable[[], Any]] = {
    "adamw": ft.adamw,
    "adamw, clipped and scheduled": lambda: ft.chain(
        ft.clip_by_global_norm(1.0), ft.adamw(ft.schedules.warmup_cosine(1e-2, 2, 10))
    ),
    "sgd": partial(ft.sgd, momentum=0.9, nesterov=True),
    "a rate that is a tensor": lambda: ft.sgd(rate()),
    "a class of torch": lambda: ft.wrap_torch_optimizer(torch.optim.SGD, lr=0.1),
    "muon": ft.muon,
    "soap": ft.soap,
    "shampoo": ft.shampoo,
    "adafactor": ft.adafactor,
    "lion": ft.lion,
    "rprop": ft.rprop,
    "prodigy": ft.prodigy,
    "schedule-free": ft.schedule_free_adamw,
    "accumulation": lambda: ft.accumulate_updates(ft.adamw(), every=2),
    "noise": lambda: ft.chain(ft.add_noise(), ft.sgd()),
    "lookahead": lambda: ft.lookahead(ft.adam()),
    "ema": lambda: ft.chain(ft.adam(), ft.ema_params(0.9)),
    "kahan": lambda: ft.kahan(ft.adam()),
    "psgd": ft.psgd,
}


def mixes_containers(pair: Pair, more: Mapping[str, list[Tensor]]) -> Pair:
    return Pair(pair.second * 2.0, more["a"][0] + 1.0)


def builds_on_meta(x: Tensor) -> Tensor:
    nn.Linear(2, 2, device="meta")
    return x + 1.0


def makes_arrays(x: Tensor) -> Tensor:
    return x + torch.from_numpy(np.zeros(2, dtype=np.float32)).add_(1.0)


def makes_a_generator(x: Tensor) -> Tensor:
    return x + torch.rand(2, generator=torch.Generator().manual_seed(0))


@dataclass
class Batch:
    """A container that no library knows."""

    x: Tensor
    name: str


def reads_attributes(batch: Batch) -> Batch:
    return Batch(batch.x * 2.0, batch.name)


def takes_a_module(module: nn.Module, x: Tensor) -> Any:
    return module.eval()(x) if module.training else module(x)


def linear() -> nn.Module:
    with seeded():
        return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()


def rate() -> Tensor:
    return torch.tensor(0.1)


def returns_a_function(x: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda y: x + y


PURE: dict[str, Case] = {
    "addition": lambda: (lambda x: x + 1.0, (x(),)),
    "the leaf itself": lambda: (lambda x: {"x": x, "y": x}, (x(),)),
    "its own memory": lambda: (writes_to_its_own, (x(),)),
    "filled memory": lambda: (fills_what_it_made, (x(),)),
    "grown memory": lambda: (grows_and_fills, (x(),)),
    "constants": lambda: (makes_constants, (x(),)),
    "numpy": lambda: (goes_through_numpy, (x(),)),
    "attention": lambda: (attends, (x(),)),
    "dropout of nothing": lambda: (lambda x: F.dropout(x, 0.5, training=False), (x(),)),
    "branches": lambda: (branches, (x(),)),
    "global numbers": lambda: (uses_globals, (x(),)),
    "settings for a while": lambda: (sets_for_a_while, (x(),)),
    "a clock that nobody reads": lambda: (times_itself, (x(),)),
    "backward of its own": lambda: (goes_backward_by_itself, (x(),)),
    "hessian": lambda: (differentiates, (x(),)),
    "checkpoint": recomputes,
    "sparse": sparse,
    "key": with_key,
    "module in training": lambda: module(train=True),
    "module in evaluation": lambda: module(train=False),
    "a generator of its own": lambda: (makes_a_generator, (x(),)),
    "a function": lambda: (returns_a_function, (x(),)),
    "nothing": lambda: (lambda: torch.zeros(2), ()),
    "nan": lambda: (lambda x: x / torch.zeros(2) * 0.0, (x(),)),
    "containers": lambda: (
        lambda pair, more: Pair(pair.second * 2.0, more["a"][0] + 1.0),
        (Pair(x(), x()), {"a": [x()]}),
    ),
    "numbers and text": lambda: (lambda x, n, name: (x * n, name, None), (x(), 3, "name")),
    "one tensor twice": lambda: (lambda a, b: a + b, (x(),) * 2),
    "view of an argument inside": lambda: (lambda x: x.view(-1)[1:].unsqueeze(0).sum(), (x(),)),
    "in-place view of a view": lambda: (lambda x: x.view(-1).unsqueeze_(0).sum(), (x(),)),
    "vmap": lambda: (torch.vmap(lambda row: row * torch.ones(2) + torch.zeros_like(row)), (x(),)),
    "grad": lambda: (ft.grad_and_value(loss_fn), (params(), x())),
    "jacobian": lambda: (torch.func.jacrev(lambda x: x.sin().sum(0)), (x(),)),
    "forward mode": lambda: (torch.func.jacfwd(lambda x: x.sin().sum(0)), (x(),)),
    "compiled": lambda: (ft.compile(ft.grad(loss_fn), backend="eager"), (params(), x())),
    "expanded": lambda: (lambda x: (x * 2.0).sum(), (torch.ones(2).expand(3, 2),)),
    "slice of much": lambda: (lambda x: x.sum(), (torch.arange(1000.0)[10:13],)),
    "complex": lambda: (lambda x: (x * 1j).conj().resolve_conj(), (x(),)),
    "bool": lambda: (lambda x: torch.empty(3, 2, dtype=torch.bool).copy_(x > 0), (x(),)),
    "sorting": lambda: (lambda x: torch.sort(x, dim=0), (x(),)),
    "column": lambda: (lambda x: x + 1.0, (x()[:, 0],)),
    "sum": lambda: (ft.grad(lambda params: params.sum()), (torch.ones(3),)),
    "one of any stride": lambda: (lambda x: x + 1.0, (torch.zeros(1).expand(3)[:1],)),
    "meta": lambda: (builds_on_meta, (x(),)),
    "arrays of its own": lambda: (makes_arrays, (x(),)),
    "dataclass": lambda: (reads_attributes, (Batch(x(), "name"),)),
    "module in evaluation as argument": lambda: (takes_a_module, (linear(), x())),
    "schedule of factors": lambda: (ft.schedules.multiplicative(0.1, lambda step: 0.9, 3), (torch.tensor(2),)),
    "array": lambda: (lambda array: torch.tensor(array.sum()), (np.ones(2),)),
    "requires grad": lambda: (loss_fn, (ft.tree.map(torch.Tensor.requires_grad_, params()), x())),
    "inference": lambda: (torch.inference_mode()(lambda x: x + 1.0), (x(),)),
    "initial state": lambda: (ft.init_state, (params(), ft.adamw())),
    "tree arithmetic": lambda: (lambda params: ft.tree.add(params, ft.tree.scale(2.0, params)), (params(),)),
    **{f"step of {name}": step(optimizer) for name, optimizer in OPTIMIZERS.items()},
}
