"""Low-rank additions add nothing at first, then what their matrices say; the parameters under them stay."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import functional_train as ft
from functional_train import testing
from tests.global_rng import seeded
from tests.profiles import examples
from tests.trees import assert_close, normal

KEY = ft.random.key(0)
params = {"conv.weight": normal(0, (3, 2, 2, 2)), "layer": {"weight": normal(1, (4, 3)), "bias": normal(2, (4,))}}


@settings(max_examples=examples(30))
@given(testing.params(dtype=torch.float64), testing.keys(), st.integers(1, 4))
def test_new_additions_add_nothing(params: Any, key: Tensor, rank: int) -> None:
    """Merged at once, parameters are equal bit for bit, and nothing is written to; vectors and scalars get none."""
    matrices = [path for path, leaf in ft.tree.items(params) if leaf.ndim >= 2]
    if not matrices:
        with pytest.raises(ft.PathError, match="nothing to add to"):
            ft.lora_init(params, key=key)
        return
    adapters = testing.assert_untouched(lambda p: ft.lora_init(p, rank=rank, key=key), params)
    assert list(adapters) == [f"{path}.{part}" for path in matrices for part in ("lora_a", "lora_b")]
    merged = testing.assert_untouched(ft.lora_merge, params, adapters)
    # -0.0 + 0.0 is 0.0.
    testing.assert_trees_close(merged, params, rtol=0.0)


def test_what_is_added_is_the_product() -> None:
    """A merged leaf is W + alpha/r B A, of convolutions over all but the first dim; others are the same tensors."""
    adapters = ft.lora_init(params, ["conv*", "*/weight"], 2, key=KEY)
    filled = ft.tree.map(torch.ones_like, adapters)
    merged = ft.lora_merge(params, filled, alpha=3.0)
    assert_close(merged["conv.weight"], params["conv.weight"] + 3.0, 1e-14)
    assert_close(merged["layer"]["weight"], params["layer"]["weight"] + 3.0, 1e-14)
    assert merged["layer"]["bias"] is params["layer"]["bias"]
    spread = adapters["conv.weight.lora_a"].abs().max()
    assert 0.1 < spread <= (3 / 8) ** 0.5


def test_only_the_additions_are_trained() -> None:
    """A loss of the additions trains them, with the optimizer state of their size, and the merged model has learned."""
    with seeded(0):
        module = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 2)).double()
    apply, base, _ = ft.functionalize(module)
    x = normal(5, (64, 8))
    y = (x[:, 0] * x[:, 1] > 0).long()

    def loss_fn(adapters: Any, batch: Any) -> Tensor:
        return F.cross_entropy(apply(ft.lora_merge(base, adapters), batch[0]), batch[1])

    optimizer = ft.adamw(1e-2)
    state = ft.init_state(ft.lora_init(base, "*.weight", rank=2, key=KEY), optimizer)
    step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)
    state, metrics = ft.scan(step, state, [(x, y)] * 150)
    assert metrics["loss"][-1] < 0.5 * metrics["loss"][0]
    assert ft.tree.num_elements(state.params) < 0.8 * ft.tree.num_elements(base)
    merged = ft.merge(module, ft.lora_merge(base, state.params))
    assert_close(F.cross_entropy(merged(x), y).detach(), loss_fn(state.params, (x, y)), 1e-14)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ft.lora_init(params, rank=0, key=KEY), ft.HyperparameterError, "rank must be an int >= 1, got 0"),
        (lambda: ft.lora_init(params, "*bias", key=KEY), ft.PathError, r"targets='\*bias' takes no leaf of two"),
        (
            lambda: ft.lora_merge({"v": torch.ones(2, 2)}, ft.lora_init({"w": torch.ones(2, 2)}, key=KEY)),
            ft.StructureError,
            "an addition to 'w', but the parameters have no such leaf",
        ),
        (
            lambda: ft.lora_merge({"w": torch.ones(3, 2)}, ft.lora_init({"w": torch.ones(2, 2)}, key=KEY)),
            ft.StructureError,
            r"the addition to 'w' needs w\.lora_a.*shape \(3, 2\)",
        ),
        (
            lambda: ft.lora_merge({"w": torch.ones(3, 2)}, ft.Params({"w.lora_a": torch.ones(1, 2)})),
            ft.StructureError,
            r"the addition to 'w' needs w\.lora_a",
        ),
    ],
)
def test_mistakes_are_explained(make: Any, error: type[Exception], message: str) -> None:
    """Each mistake names what is wrong and the way out."""
    with pytest.raises(error, match=f"(?s){message}"):
        make()
