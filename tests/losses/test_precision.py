"""`mixed_precision`: a loss in 16 bits, with everything outside in its own dtype."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import functional_train as ft
from tests.global_rng import seeded
from tests.trees import Witness, assert_bitwise, normal, relative_difference

params = {"w1": normal(0, (8, 16), torch.float32), "w2": normal(1, (16, 3), torch.float32)}
batch = normal(2, (32, 8), torch.float32), torch.arange(32) % 3


def loss_fn(params: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(torch.tanh(x @ params["w1"]) @ params["w2"], y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_is_autocast(dtype: torch.dtype) -> None:
    """Loss and gradients are those of torch.autocast with its cache off, bit for bit."""
    grads, loss = ft.grad_and_value(ft.mixed_precision(loss_fn, dtype))(params, batch)
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    with torch.autocast("cpu", dtype, cache_enabled=False):
        expected = loss_fn(leaves, batch)
    assert_bitwise(loss, expected.detach().float())
    assert_bitwise(list(grads.values()), list(torch.autograd.grad(expected, list(leaves.values()))))


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
def test_is_near_full_precision(dtype: torch.dtype, error: float) -> None:
    """Products are really computed in 16 bits, and the loss is off by no more than their rounding."""
    seen: list[torch.dtype] = []

    def watched(params: Any, batch: Any) -> Tensor:
        seen.append((batch[0] @ params["w1"]).dtype)
        return loss_fn(params, batch)

    loss = ft.mixed_precision(watched, dtype)(params, batch)
    assert seen == [dtype]
    # Half a unit in the last place for inputs and products, over logits of a few units.
    assert 0 < relative_difference(loss, loss_fn(params, batch)) < 4 * error


def test_nothing_is_left_behind() -> None:
    """Autocast is off afterwards, also when the loss raises, and nothing was written to."""
    witness = Witness(params, batch)

    def fail(params: Any, batch: Any) -> Tensor:
        raise RuntimeError("within")

    ft.mixed_precision(loss_fn)(params, batch)
    with pytest.raises(RuntimeError, match="within"):
        ft.mixed_precision(fail)(params, batch)
    assert not torch.is_autocast_enabled("cpu")
    assert torch.is_autocast_cache_enabled()
    witness.check()


def test_loss_and_aux_come_out_wide() -> None:
    """A loss that ends in 16 bits, and metrics that do, come out in float32; other leaves and what is owned stay."""

    def with_aux(params: Any, batch: Any, *, key: Tensor) -> Any:
        product = batch[0] @ params["w1"]
        assert product.dtype == torch.bfloat16
        wide = torch.ones((), dtype=torch.float64)
        return product.sum(), {"norm": product.norm(), "product": product, "wide": wide, "key": key, "name": 3}

    loss, aux = ft.mixed_precision(with_aux)(params, batch, key=ft.random.key(0))
    assert loss.dtype == aux["norm"].dtype == aux["product"].dtype == torch.float32
    assert aux["wide"].dtype == torch.float64
    assert torch.equal(aux["key"], ft.random.key(0))
    assert aux["name"] == 3


def test_trains_with_everything_in_float32() -> None:
    """A step with buffers keeps params, moments and running statistics in their dtypes, and learns."""
    with seeded():
        module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    apply, values, buffers = ft.functionalize(module)

    def loss_fn(params: Any, batch: Any, *, buffers: Any) -> Any:
        logits, new_buffers = apply(params, batch[0], buffers=buffers)
        return F.cross_entropy(logits, batch[1]), ft.Aux(buffers=new_buffers)

    images, labels = normal(3, (16, 1, 8, 8), torch.float32), torch.arange(16) % 2
    optimizer = ft.adamw(1e-2)
    step = ft.make_step(ft.grad_and_value(ft.mixed_precision(loss_fn), has_aux=True), optimizer)
    state = ft.init_state(values, optimizer, buffers=buffers)
    trained, metrics = ft.scan(step, state, [(images, labels)] * 10)
    assert_bitwise(ft.tree.zeros_like(trained), ft.tree.zeros_like(state))
    assert metrics["loss"].dtype == torch.float32
    assert metrics["loss"][-1] < metrics["loss"][0] / 2
