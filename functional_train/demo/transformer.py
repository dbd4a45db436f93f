"""A small transformer language model over bytes, as a plain module."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Transformer(nn.Module):
    """Predicts each byte from those before it: pre-norm blocks, rotary positions, tied embedding, no dropout.

    Args:
        width: Length of the vector that stands for a byte; a multiple of twice `num_heads`.
        num_layers: How many blocks.
        num_heads: How many heads of attention a block has.
    """

    def __init__(self, width: int = 128, num_layers: int = 2, num_heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.blocks = nn.ModuleList([Block(width, num_heads) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, length) int64 in [0, 256) -> (batch, length, 256) logits of the byte that follows each."""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


class Block(nn.Module):
    """Causal attention and a hidden layer, each added to its input."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 4 * width)
        self.hidden_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) -> the same shape."""
        x = x + self.attention_out(self._attention(self.attention_norm(x)))
        return x + self.hidden_out(F.gelu(self.hidden(self.hidden_norm(x))))

    def _attention(self, x: Tensor) -> Tensor:
        heads = self.query_key_value(x).unflatten(-1, (3, self.num_heads, -1)).movedim(-3, 0).transpose(-3, -2)
        query, key, value = heads
        mixed = F.scaled_dot_product_attention(_rotated(query), _rotated(key), value, is_causal=True)
        return mixed.transpose(-3, -2).flatten(-2)


def _rotated(x: Tensor) -> Tensor:
    """Turn pairs of features by angles that grow with the position (Su et al. 2021, arXiv:2104.09864, section 3.2)."""
    length, size = x.shape[-2:]
    frequencies = 10000.0 ** (-torch.arange(0, size, 2, device=x.device) / size)
    angles = torch.arange(length, device=x.device)[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
