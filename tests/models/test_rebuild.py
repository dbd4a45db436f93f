"""Whatever a module keeps in plain attributes, a call uses the passed tensors and leaves nothing for the next one."""

import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from functional_train.models import functionalize
from functional_train.values.errors import PurityError
from tests.global_rng import seeded

X = torch.linspace(-1, 1, 6).reshape(2, 3)


class Base(nn.Module):
    """One layer, and attributes that lead to it on other ways."""

    def __init__(self, equip: Callable[[Any], None]) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.read: Any = None
        equip(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self, x)

    def own(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Pair(NamedTuple):
    """A tuple with names."""

    layer: nn.Module
    scale: float


class Helper:
    """A plain object that holds part of a module."""

    def __init__(self, layer: nn.Module, **others: Any) -> None:
        self.layer = layer
        self.others = others


class Slotted:
    """An object with both slots and a __dict__."""

    __slots__ = ("__dict__", "scale")

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.scale = layer, 2.0


class Table(dict[str, Any]):
    """A container with attributes."""

    layer: Any = None


def table(module: Any) -> Any:
    made = Table(scale=2.0)
    made.layer = module.layer
    return made


def attribute(value: Callable[[Any], Any], read: Callable[[Any, Tensor], Tensor]) -> Callable[[Any], None]:
    def equip(module: Any) -> None:
        module.kept, module.read = value(module), read

    return equip


def recursive(module: Any) -> Any:
    layers: list[Any] = [module.layer]
    layers.append(layers)
    return layers


def closure(module: Any) -> Any:
    layer, weight = module.layer, module.layer.weight

    def call(x: Tensor, depth: int = 1) -> Tensor:
        return layer(x) + weight.sum() if depth == 0 else call(x, depth - 1)

    return call


WAYS: dict[str, Callable[[Any], None]] = {
    "tensor": attribute(lambda m: [m.layer.weight], lambda m, x: x @ m.kept[0]),
    "list": attribute(lambda m: [m.layer, 1], lambda m, x: m.kept[0](x)),
    "tuple": attribute(lambda m: (1, (m.layer,)), lambda m, x: m.kept[1][0](x)),
    "named_tuple": attribute(lambda m: Pair(m.layer, 2.0), lambda m, x: m.kept.layer(x) * m.kept.scale),
    "dict": attribute(lambda m: OrderedDict(a={"b": m.layer}), lambda m, x: m.kept["a"]["b"](x)),
    "keys": attribute(lambda m: {m.layer: 2.0}, lambda m, x: m.layer(x) * m.kept[m.layer]),
    "set": attribute(lambda m: {m.layer}, lambda m, x: next(iter(m.kept))(x) * (m.layer in m.kept)),
    "deque": attribute(lambda m: deque([m.layer], maxlen=1), lambda m, x: m.kept[0](x) * m.kept.maxlen),
    "recursive": attribute(recursive, lambda m, x: m.kept[1][1][0](x)),
    "weakref": attribute(lambda m: weakref.ref(m.layer.weight), lambda m, x: x @ m.kept()),
    "method": attribute(lambda m: m.own, lambda m, x: m.kept(x)),
    "partial": attribute(lambda m: partial(m.own, x=None), lambda m, x: m.kept(x=x)),
    "keyword": attribute(lambda m: partial(torch.matmul, other=m.layer.weight), lambda m, x: m.kept(x)),
    "closure": attribute(closure, lambda m, x: m.kept(x)),
    "default": attribute(lambda m: lambda x, layer=m.layer: layer(x), lambda m, x: m.kept(x)),
    "helper": attribute(
        lambda m: Helper(m.layer, a=[m.layer]), lambda m, x: m.kept.layer(x) + m.kept.others["a"][0](x)
    ),
    "table": attribute(table, lambda m, x: m.kept.layer(x) * m.kept["scale"]),
    "slotted": attribute(lambda m: Slotted(m.layer), lambda m, x: m.kept.layer(x) * m.kept.scale),
    "alias": attribute(lambda m: ([m.layer],) * 2, lambda m, x: m.kept[0][0](x) * (m.kept[0] is m.kept[1])),
    "hidden": attribute(lambda m: [nn.Sequential(m.layer, nn.Tanh())], lambda m, x: m.kept[0](x)),
    "forward": lambda m: setattr(m, "forward", types.MethodType(lambda self, x: self.layer(x), m)),
    "hook": lambda m: (setattr(m, "read", Base.own), m.register_forward_hook(partial(add_weight, layer=m.layer)))[0],
    "method_hook": lambda m: (setattr(m, "read", Base.own), m.register_forward_pre_hook(lambda _, x: m.own(*x)))[0],
    "handle": attribute(lambda m: [m.layer.register_forward_hook(add_weight)], lambda m, x: m.layer(x)),
}


def add_weight(module: Any, args: Any, output: Tensor, layer: Any = None) -> Tensor:
    return output + (layer or module).weight.sum()


@pytest.mark.parametrize("way", WAYS)
def test_attributes_lead_to_the_passed_tensors(way: str) -> None:
    """On every way from an attribute to a parameter, value and gradient are those of a module that has these values."""
    with seeded(0):
        module = Base(WAYS[way])
    with seeded(0):
        reference = Base(WAYS[way])
    apply, params, _ = functionalize(module)
    passed = {name: (2 * tensor).requires_grad_() for name, tensor in params.items()}
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(2)
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    expected = reference(X)
    for _ in range(2):
        output = apply(passed, X)
        assert torch.equal(output, expected)
    gradients = torch.autograd.grad(output.sum(), list(passed.values()), allow_unused=True)
    others = torch.autograd.grad(expected.sum(), list(reference.parameters()), allow_unused=True)
    for gradient, other in zip(gradients, others, strict=True):
        assert (gradient is None and other is None) or torch.equal(gradient, other)


class Forgetful(nn.Module):
    """A forward that leaves traces everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.seen: list[Any] = []
        self.table: dict[str, Any] = {"inner": []}
        self.layer.log = self.seen
        self.calls = 0

    def forward(self, x: Tensor) -> int:
        self.calls += 1
        self.layer.log.append(x)
        self.table["inner"].append(x)
        self.table[str(len(self.table))] = x
        self.late = nn.Linear(1, 1, device="meta")
        self.layer.register_forward_hook(lambda module, args, output: output + 1)
        hooks = len(self.layer._forward_hooks)
        return self.calls + len(self.seen) + len(self.table["inner"]) + len(self.table) + hooks + len(self._modules)


def test_calls_leave_nothing_behind() -> None:
    """Counters, lists, tables, hooks and modules that a forward adds to are those of one call; aliases stay aliases."""
    with seeded(0):
        module = Forgetful()
    apply, params, _ = functionalize(module)
    assert [apply(params, X) for _ in range(3)] == [1 + 1 + 1 + 2 + 1 + 2] * 3
    assert module.calls == len(module.seen) == len(module.layer._forward_hooks) == 0


class Hidden(nn.Module):
    """State outside of parameters and buffers."""

    def __init__(self, act: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.act = act
        self.memory = torch.zeros(3)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.act(self, x)
        return x + self.memory


def test_hidden_state_is_an_error() -> None:
    """Writing to a plain tensor and removing a buffer are refused; rebinding is fine, and the buffer comes back."""
    apply, params, buffers = functionalize(Hidden(lambda m, x: m.memory.add_(1)))
    for _ in range(2):
        with pytest.raises(PurityError, match=r"forward of Hidden wrote to 'memory'.*register_buffer"):
            apply(params, X, buffers=buffers)
    for remove in (lambda m, x: delattr(m, "mean"), lambda m, x: setattr(m, "mean", None)):
        apply, params, buffers = functionalize(Hidden(remove))
        with pytest.raises(PurityError, match="forward of Hidden removed its buffer 'mean'"):
            apply(params, X, buffers=buffers)

    def rebind(module: Any, x: Tensor) -> None:
        module.memory, module.mean = module.memory + 1, x.mean(0)

    apply, params, buffers = functionalize(Hidden(rebind))
    for _ in range(2):
        output, new_buffers = apply(params, X, buffers=buffers)
        assert torch.equal(output, X + 1)
        assert torch.equal(new_buffers["mean"], X.mean(0))
