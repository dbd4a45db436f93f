"""What is trained: a module from fixed weights, and batches from a fixed seed.

Where updates alone are measured, a batch is the gradients.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.global_rng import seeded

Batch = tuple[Tensor, ...]

CLASSES, VOCABULARY, TOKENS, NUM_BATCHES = 10, 256, 64, 8


class Workload(NamedTuple):
    """A model to train, and data of the shape it takes."""

    build: Callable[[], nn.Module]
    draw: Callable[[torch.Generator], Batch]
    num_batches: int = NUM_BATCHES

    def module(self) -> nn.Module:
        """The module, with the same weights at every call."""
        with seeded(0):
            return self.build()

    def batches(self) -> list[Batch]:
        """The batches, the same at every call."""
        generator = torch.Generator().manual_seed(0)
        return [self.draw(generator) for _ in range(self.num_batches)]


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy over all but the last dimension."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each after a normalization and around a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """A causal language model."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, width), nn.Embedding(TOKENS, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


class Residual(nn.Module):
    """Two convolutions with BatchNorm around a skip, at half the resolution where the width doubles."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        stride = width // before
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.skip(x))


class ResNet(nn.Module):
    """Three residual blocks of 16, 32 and 64 channels, for images of 32x32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(Residual(16, 16), Residual(16, 32), Residual(32, 64))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))


def mlp(width: int, layers: int) -> nn.Module:
    """`layers` hidden layers, `width` wide as the input is."""
    hidden = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, CLASSES))


def _vectors(generator: torch.Generator, width: int, size: int) -> Batch:
    inputs = torch.randn(size, width, generator=generator)
    return inputs, torch.randint(CLASSES, (size,), generator=generator)


def _images(generator: torch.Generator, size: int) -> Batch:
    inputs = torch.randn(size, 3, 32, 32, generator=generator)
    return inputs, torch.randint(CLASSES, (size,), generator=generator)


def _texts(generator: torch.Generator, size: int) -> Batch:
    tokens = torch.randint(VOCABULARY, (size, TOKENS + 1), generator=generator)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


class Leaves(nn.Module):
    """Parameters without a model, for updates from given gradients."""

    def __init__(self, count: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.leaves = nn.ParameterList([torch.randn(shape) for _ in range(count)])


def _gradients(generator: torch.Generator, count: int, shape: tuple[int, int]) -> Batch:
    return tuple([torch.randn(shape, generator=generator) for _ in range(count)])


WORKLOADS = {
    "tiny": Workload(partial(mlp, 32, 2), partial(_vectors, width=32, size=32)),
    "medium": Workload(partial(mlp, 256, 4), partial(_vectors, width=256, size=64)),
    "wide": Workload(partial(mlp, 1024, 4), partial(_vectors, width=1024, size=256)),
    "200 leaves": Workload(partial(Leaves, 200, (64, 64)), partial(_gradients, count=200, shape=(64, 64))),
    "100M numbers": Workload(
        partial(Leaves, 50, (1000, 2000)), partial(_gradients, count=50, shape=(1000, 2000)), num_batches=1
    ),
    **{
        f"{rows * 64:,} numbers": Workload(
            partial(Leaves, 1, (rows, 64)), partial(_gradients, count=1, shape=(rows, 64))
        )
        for rows in (64, 4096)
    },
    # So many batches that none is learned by heart: of a loss near zero only rounding could be compared.
    **{
        f"{16 * width * width // 1_000_000}M numbers": Workload(
            partial(mlp, width, 16), partial(_vectors, width=width, size=16), num_batches=32
        )
        for width in (250, 500, 1000, 2000, 4000)
    },
    "resnet": Workload(ResNet, partial(_images, size=32)),
    "transformer": Workload(partial(Transformer, 4, 128, 4), partial(_texts, size=16)),
}
