"""Functions that write to their arguments, or return parts of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.global_rng import seeded
from tests.purity.impure import ALIAS, HIDDEN, HOOK, INPUT, RANDOM, STATE, Impure, on_x, x


def writes_in_place(x: Tensor) -> Tensor:
    x.mul_(2.0)
    return x.sum()


def writes_the_same_bits(x: Tensor) -> Tensor:
    x.mul_(1.0)
    return x.sum()


def writes_through_a_view(x: Tensor) -> Tensor:
    row = x[1].view(-1)
    row += 1.0
    return x.sum()


def writes_through_data(x: Tensor) -> Tensor:
    x.data.add_(1.0)
    return x.sum()


def writes_through_detach(x: Tensor) -> Tensor:
    x.detach().zero_()
    return x.sum()


def writes_through_numpy(x: Tensor) -> Tensor:
    array = x.numpy()
    array[0] = 7.0
    return x.sum()


def writes_by_foreach(x: Tensor) -> Tensor:
    torch._foreach_mul_([x], 2.0)
    return x.sum()


def writes_by_out(x: Tensor) -> Tensor:
    torch.exp(x.sigmoid(), out=x)
    return x.sum()


def writes_an_entry(x: Tensor) -> Tensor:
    x[0, 0] = 0.0
    return x.sum()


def writes_by_fused_adam(x: Tensor) -> Tensor:
    steps, moments = [torch.ones(())], [torch.zeros_like(x) for _ in range(2)]
    torch._fused_adam_(
        [x], [x * 2], [moments[0]], [moments[1]], [], steps, lr=0.1, beta1=0.9, beta2=0.99, weight_decay=0.0,
        eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip
    return x.sum()


def swaps_data(x: Tensor) -> Tensor:
    x.data = torch.zeros(2)
    return x.sum()


def changes_its_shape(x: Tensor) -> Tensor:
    x.t_()
    return x.sum()


def asks_for_gradients(x: Tensor) -> Tensor:
    x.requires_grad_()
    return x.detach().sum()


def writes_a_list(batch: list[Tensor]) -> Tensor:
    batch.append(torch.zeros(2))
    return batch[0].sum()


def writes_a_dict(params: dict[str, Tensor]) -> Tensor:
    params["weight"] = params["weight"] * 2.0
    return params["weight"].sum()


def writes_an_array(array: Any) -> Tensor:
    array += 1.0
    return torch.tensor(array.sum())


def passes_statistics(x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    return F.batch_norm(x, mean, var, training=True)


def with_batchnorm() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    module = nn.BatchNorm1d(2)

    def normalize(x: Tensor) -> Tensor:
        return module(x).sum()

    return normalize, (x(),)


def a_module_as_argument() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def normalize(module: nn.Module, x: Tensor) -> Any:
        return module(x).sum()

    return normalize, (nn.BatchNorm1d(2), x())


def with_spectral_norm(wrap: Callable[[nn.Module], nn.Module]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    with seeded():
        module = wrap(nn.Linear(2, 2))

    def project(x: Tensor) -> Tensor:
        return module(x).sum()

    return project, (x(),)


@torch.library.custom_op("functional_train_tests::liar", mutates_args=())
def liar(x: Tensor) -> Tensor:
    x.view(-1).numpy()[0] = 5.0
    return x.clone()


@liar.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def calls_a_liar(x: Tensor) -> Tensor:
    return liar(x)


def returns_a_view(x: Tensor) -> Tensor:
    return x[0]


def returns_detached(x: Tensor) -> dict[str, Tensor]:
    return {"x": x.detach()}


def returns_numpy_of_an_argument(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy()[1:])


def switches_a_module(module: nn.Module, x: Tensor) -> Any:
    module.eval()
    return module(x) + 1.0


def hooks_a_module(module: nn.Module, x: Tensor) -> Any:
    module.register_forward_hook(lambda module, args, output: None)
    return module(x) + 1.0


class Counting(nn.Module):
    """What keeps more than parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        """Remember something."""
        self.log.append(1.0)
        return x + 1.0


def calls(fn: Callable[..., Any], x: Tensor) -> Any:
    return fn(x)


@dataclass
class Record:
    """A container that no library knows."""

    x: Tensor
    count: int = 0


def writes_an_attribute(record: Record) -> Tensor:
    record.count += 1
    return record.x + 1.0


def writes_inside_an_object(record: Record) -> Tensor:
    return record.x.add_(1.0) + 1.0


def adds_to_a_set(seen: set[int], x: Tensor) -> Tensor:
    seen.add(3)
    return x + 1.0


def seeds_a_generator(x: Tensor, generator: torch.Generator) -> Tensor:
    generator.manual_seed(3)
    return x + 1.0


def returns_an_array(x: Tensor) -> Any:
    return x.numpy()


WRITING: dict[str, Impure] = {
    "x.mul_()": on_x(writes_in_place, INPUT, "x.mul_(2.0)"),
    "x.mul_(1.0)": on_x(writes_the_same_bits, INPUT, "x.mul_(1.0)"),
    "view": on_x(writes_through_a_view, INPUT, "row += 1.0"),
    "x.data": on_x(writes_through_data, INPUT, "x.data.add_(1.0)"),
    "x.detach()": on_x(writes_through_detach, INPUT, "x.detach().zero_()"),
    "numpy alias": on_x(writes_through_numpy, INPUT, "array[0] = 7.0"),
    "foreach": on_x(writes_by_foreach, INPUT, "torch._foreach_mul_"),
    "out=": on_x(writes_by_out, INPUT, "out=x"),
    "entry": on_x(writes_an_entry, INPUT, "x[0, 0] = 0.0"),
    "fused": on_x(writes_by_fused_adam, INPUT, "torch._fused_adam_("),
    "x.data = other": on_x(swaps_data, INPUT, "x.data = torch.zeros(2)"),
    "x.t_()": on_x(changes_its_shape, INPUT, "x.t_()"),
    "requires_grad_": on_x(asks_for_gradients, INPUT, "x.requires_grad_()"),
    "list": Impure(lambda: (writes_a_list, ([x()],)), {INPUT}, "batch.append"),
    "dict": Impure(lambda: (writes_a_dict, ({"weight": x()},)), {INPUT}, 'params["weight"] = '),
    "array": Impure(lambda: (writes_an_array, (np.ones(2),)), {INPUT}, "array += 1.0"),
    "BatchNorm held": Impure(with_batchnorm, {STATE, HIDDEN}, "module(x).sum()"),
    "BatchNorm given": Impure(a_module_as_argument, {INPUT}, "module(x).sum()"),
    "F.batch_norm": Impure(
        lambda: (passes_statistics, (x(), torch.zeros(2), torch.ones(2))), {INPUT}, "F.batch_norm(x, mean, var"
    ),
    "spectral_norm, old": Impure(
        lambda: with_spectral_norm(nn.utils.spectral_norm), {STATE, HIDDEN}, "module(x).sum()"
    ),
    "spectral_norm, new": Impure(
        lambda: with_spectral_norm(nn.utils.parametrizations.spectral_norm), {STATE, HIDDEN}, "module(x).sum()"
    ),
    "lying operation": on_x(calls_a_liar, INPUT, "x.view(-1).numpy()[0] = 5.0"),
    "mode of a module": Impure(lambda: (switches_a_module, (nn.ReLU(), x())), {INPUT}, "module.eval()"),
    "hook of a given module": Impure(
        lambda: (hooks_a_module, (nn.ReLU(), x())), {HOOK}, "module.register_forward_hook"
    ),
    "log of a module": Impure(lambda: (calls, (Counting(), x())), {INPUT}, "self.log.append(1.0)"),
    "attribute of an argument": Impure(lambda: (writes_an_attribute, (Record(x()),)), {INPUT}, "record.count += 1"),
    "tensor in an object": Impure(lambda: (writes_inside_an_object, (Record(x()),)), {INPUT}, "record.x.add_(1.0)"),
    "given set": Impure(lambda: (adds_to_a_set, ({1}, x())), {INPUT}, "seen.add(3)"),
    "given generator seeded": Impure(
        lambda: (seeds_a_generator, (x(), torch.Generator())), {RANDOM}, "generator.manual_seed(3)"
    ),
    "returned array": on_x(returns_an_array, ALIAS, "return x.numpy()"),
    "returned view": on_x(returns_a_view, ALIAS, "return x[0]"),
    "returned x.detach()": on_x(returns_detached, ALIAS, "x.detach()"),
    "returned NumPy view": on_x(returns_numpy_of_an_argument, ALIAS, "torch.from_numpy"),
}
