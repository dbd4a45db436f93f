"""Modules of every kind that a law about `functionalize` must hold for, and what laws compare."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils._pytree import tree_leaves

from tests.global_rng import seeded


class Residual(nn.Module):
    """Two convolutions around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x + self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))


class Tied(nn.Module):
    """An embedding whose weight is also the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))


def shared() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.BatchNorm1d(3), layer)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


VECTORS, SEQUENCES, IMAGES, IDS = (4, 3), (2, 5, 4), (2, 3, 6, 6), (2, 3)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, VECTORS),
    "cnn": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), IMAGES),
    "resnet": (lambda: nn.Sequential(Residual(3), Residual(3), nn.AdaptiveAvgPool2d(1)), IMAGES),
    "lstm": (lambda: nn.LSTM(4, 3, 2, bidirectional=True), SEQUENCES),
    "gru": (lambda: nn.GRU(4, 3, batch_first=True), SEQUENCES),
    "encoder": (encoder, SEQUENCES),
    "tied": (Tied, IDS),
    "shared": (shared, VECTORS),
    "max_norm": (lambda: nn.Embedding(6, 4, max_norm=0.5), IDS),
    "weight_norm": (lambda: weight_norm(nn.Linear(3, 4)), VECTORS),
    "weight_norm_lstm": (lambda: weight_norm(nn.LSTM(4, 3), "weight_hh_l0"), SEQUENCES),
    "spectral_norm": (lambda: spectral_norm(nn.Linear(3, 4)), VECTORS),
    "parametrized_weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(3, 4)), VECTORS),
    "parametrized_spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(3, 4)), VECTORS),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(3, 3)), VECTORS),
    "traced": (lambda: torch.fx.symbolic_trace(shared()), VECTORS),
}


def make(case: str) -> tuple[nn.Module, Tensor]:
    """Build a module and its input; equal for equal names."""
    build, shape = CASES[case]
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old weight_norm still has users
        x = torch.randint(6, shape) if shape == IDS else torch.randn(shape)
        return build(), x


def trainable(params: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in params.items()}


def assert_same(actual: Any, expected: Any) -> None:
    pairs = list(zip(tree_leaves(actual), tree_leaves(expected), strict=True))
    assert pairs
    for left, right in pairs:
        assert torch.equal(left, right)


def snapshot(module: nn.Module, *trees: Any) -> tuple[Any, ...]:
    """Everything of a module and of trees of tensors that a call could change."""
    tensors = [*module.parameters(), *module.buffers(), *tree_leaves(list(map(dict, trees)))]
    submodules = list(module.modules())
    return (
        [tensor.detach().clone() for tensor in tensors],
        [(id(tensor), tensor._version, tensor.requires_grad, tensor.grad) for tensor in tensors],
        [(id(submodule), submodule.training, list(submodule.__dict__)) for submodule in submodules],
        [list(map(id, submodule._forward_hooks.values())) for submodule in submodules],
    )


def assert_unchanged(before: tuple[Any, ...], after: tuple[Any, ...]) -> None:
    assert_same(after[0], before[0])
    assert after[1:] == before[1:]
