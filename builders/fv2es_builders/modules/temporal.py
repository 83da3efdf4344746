"""Sequences over time: a transformer encoder whose answer is read at a learned first place (CLS)."""

from typing import Final

import torch
from torch import Tensor, nn

from fv2es_builders.presets import TemporalSize

MASKED: Final = -1e4
"""Added to the attention score of a padded place: its weight is exactly 0 in float32, and the number fits float16."""


class SelfAttention(nn.Module):
    """Multi-head attention within a sequence; parameter names of `torch.nn.MultiheadAttention`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Sequences [U, S, dim] and what to add to the scores [U, 1, 1, S] -> [U, S, dim]."""
        dim = self.heads * self.head_dim
        rows = x.shape[0]
        projected = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)  # [U, S, 3 * dim]
        parts = projected.reshape(rows, -1, 3 * self.heads, self.head_dim).transpose(1, 2)
        query, key, value = parts.chunk(3, dim=1)  # [U, heads, S, head_dim]
        scores = (query * self.head_dim**-0.5) @ key.transpose(2, 3)  # [U, heads, S, S]
        mixed = torch.softmax(scores + bias, dim=-1) @ value  # [U, heads, S, head_dim]
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(rows, -1, dim))  # [U, S, dim]
        return out


class EncoderLayer(nn.Module):
    """Attention and feed-forward part, each added and normalised; parameter names of `torch.nn.TransformerEncoderLayer`."""

    def __init__(self, size: TemporalSize) -> None:
        super().__init__()
        self.self_attn = SelfAttention(size.dim, size.heads)
        self.linear1 = nn.Linear(size.dim, size.feed_forward)
        self.linear2 = nn.Linear(size.feed_forward, size.dim)
        self.norm1 = nn.LayerNorm(size.dim)
        self.norm2 = nn.LayerNorm(size.dim)
        self.dropout = nn.Dropout(size.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Sequences [U, S, dim] and what to add to the scores [U, 1, 1, S] -> [U, S, dim]."""
        x = self.norm1(x + self.dropout(self.self_attn(x, bias)))
        inner = self.linear2(self.dropout(torch.relu(self.linear1(x))))  # [U, S, dim]
        out: Tensor = self.norm2(x + self.dropout(inner))
        return out


class _Layers(nn.Module):
    """Holds the layers under the name that the published checkpoints use (`encoder.layers`)."""

    def __init__(self, size: TemporalSize) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(size) for _ in range(size.layers))


class TemporalEncoder(nn.Module):
    """A sequence to one vector. No positions, no final norm; the order of the sequence does not matter."""

    def __init__(self, size: TemporalSize) -> None:
        super().__init__()
        self.encoder = _Layers(size)
        self.cls_emb = nn.Embedding(1, size.dim)

    def forward(self, sequences: Tensor, mask: Tensor) -> Tensor:
        """The vector of each sequence; one that is all padding gives a finite vector of its own.

        Args:
            sequences: [U, N, dim] float32; what stands at padded places is of no effect if finite.
            mask: [U, N] bool, true where the sequence holds something.

        Returns:
            [U, dim] float32.
        """
        rows = sequences.shape[0]
        cls = self.cls_emb.weight.expand(rows, 1, -1)  # [U, 1, dim]
        x = torch.cat([cls, sequences], dim=1)  # [U, 1 + N, dim]
        bias = torch.where(mask, 0.0, MASKED).to(x.dtype)  # [U, N]
        bias = nn.functional.pad(bias, (1, 0))[:, None, None, :]  # [U, 1, 1, 1 + N]; CLS is always attended to
        for layer in self.encoder.layers:
            x = layer(x, bias)
        return x[:, 0]
