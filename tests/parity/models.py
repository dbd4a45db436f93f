"""Three small models, each trained by our step and by the loop that everybody writes, from the same weights."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import functional_train as ft
from tests.global_rng import seeded

NUM_STEPS = 200
WIDTH = 16
VOCABULARY = 13


class LanguageModel(nn.Module):
    """A transformer whose head is its embedding."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.randn(8, WIDTH) / 10)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.encoder(self.embed(ids) + self.positions[: ids.shape[1]])
        return self.head(hidden).flatten(0, 1)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.GELU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip


class Case(NamedTuple):
    """A model, its inputs, and the entries of its parameters whose true gradient is zero."""

    build: Callable[[], nn.Module]
    draw: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    is_flat: Callable[[str, Tensor], Tensor]


def _images_or_vectors(shape: tuple[int, ...]) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(16, *shape, generator=generator, dtype=torch.float64)
        return x, (x.flatten(1)[:, 0] > 0).long() + (x.flatten(1)[:, 1] > 0.5).long()

    return draw


def _sequences(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    ids = torch.randint(VOCABULARY, (4, 8), generator=generator)
    return ids, ((ids + ids.roll(1, 1)) % VOCABULARY).flatten()


def _nowhere(name: str, leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf, dtype=torch.bool)


def _before_batch_norm(name: str, leaf: Tensor) -> Tensor:
    # A shift before BatchNorm is taken off again; until then it is part of the running mean.
    return torch.full_like(leaf, name in ("0.bias", "1.running_mean"), dtype=torch.bool)


def _key_biases(name: str, leaf: Tensor) -> Tensor:
    # A shift of all keys shifts all scores of a query, which softmax takes off again.
    flat = torch.zeros_like(leaf, dtype=torch.bool)
    if name.endswith("in_proj_bias"):
        flat[WIDTH : 2 * WIDTH] = True
    return flat


CASES = {
    "mlp": Case(mlp, _images_or_vectors((10,)), _nowhere),
    "cnn": Case(cnn, _images_or_vectors((1, 8, 8)), _before_batch_norm),
    "transformer": Case(LanguageModel, _sequences, _key_biases),
}
OPTIMIZERS: dict[str, tuple[Callable[..., ft.GradientTransformation], type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (ft.sgd, torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}),
    "adam": (ft.adam, torch.optim.Adam, {"lr": 2e-3}),
    "adamw": (ft.adamw, torch.optim.AdamW, {"lr": 2e-3, "weight_decay": 0.05}),
}


class Trained(NamedTuple):
    """What a run ends with."""

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    losses: Tensor


@functools.cache
def start(case: str) -> tuple[nn.Module, tuple[tuple[Tensor, Tensor], ...]]:
    """The module and its batches, in float64."""
    with seeded(1):
        module = CASES[case].build().double()
    generator = torch.Generator().manual_seed(2)
    return module, tuple([CASES[case].draw(generator) for _ in range(NUM_STEPS)])


def ours(case: str, optimizer: str, dtype: torch.dtype, num_steps: int = NUM_STEPS) -> Trained:
    """A fold of a pure step."""
    module, batches = start(case)
    apply, params, buffers = ft.functionalize(module)

    def loss_fn(params: Any, batch: Any) -> Tensor:
        return F.cross_entropy(apply(params, batch[0]), batch[1])

    def loss_fn_with_buffers(params: Any, batch: Any, *, buffers: Any) -> Any:
        logits, new_buffers = apply(params, batch[0], buffers=buffers)
        return F.cross_entropy(logits, batch[1]), ft.Aux(buffers=new_buffers)

    factory, _, options = OPTIMIZERS[optimizer]
    tx = factory(**options)
    grad_fn = ft.grad_and_value(loss_fn_with_buffers, has_aux=True) if buffers else ft.grad_and_value(loss_fn)
    state = ft.tree.to(ft.init_state(params, tx, buffers=buffers), dtype)
    state, metrics = ft.scan(
        ft.make_step(grad_fn, tx), state, [ft.tree.to(batch, dtype) for batch in batches[:num_steps]]
    )
    return Trained(dict(state.params), dict(state.buffers or {}), metrics["loss"])


@functools.cache
def imperative(
    case: str, optimizer: str, dtype: torch.dtype, fused: bool = False, num_steps: int = NUM_STEPS
) -> Trained:
    """zero_grad, forward, backward, step."""
    module, batches = start(case)
    module = ft.merge(module, dict(module.named_parameters())).to(dtype)
    _, cls, options = OPTIMIZERS[optimizer]
    torch_optimizer = cls(module.parameters(), **options, foreach=False, fused=fused)
    losses = []
    for x, y in (ft.tree.to(batch, dtype) for batch in batches[:num_steps]):
        torch_optimizer.zero_grad()
        loss = F.cross_entropy(module(x), y)
        loss.backward()
        torch_optimizer.step()
        losses.append(loss.detach())
    params = {name: leaf.detach() for name, leaf in module.named_parameters()}
    return Trained(params, dict(module.named_buffers()), torch.stack(losses))
