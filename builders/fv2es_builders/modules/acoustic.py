"""The acoustic branch: NesT, attention inside blocks of the spectrum that are merged from level to level.

Source: Nested Hierarchical Transformer (Zhang et al. 2022); parameter names follow timm's NesT, which the published
checkpoints were made with. Unlike there, the patch embedding is a 3x3 convolution, and nothing is pooled at the end.
"""

import copy
from typing import Final

import torch
from torch import Tensor, nn

from fv2es_builders.presets import AcousticSize
from fv2es_pipelines import constants

BLOCK_SIDE: Final = 8
"""Tokens along the side of a block in which attention takes place. Source: 32 px, 16 blocks at the first level."""

_NORM_EPS: Final = 1e-6
"""Source: timm's NesT."""


class Attention(nn.Module):
    """Attention among the tokens of each block. Channels leave it with the head as the fastest axis, as in timm's NesT."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.scale = self.head_dim**-0.5
        self.folded = False
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, blocks, tokens, dim] -> the same shape."""
        _, blocks, tokens, dim = x.shape
        parts = self.qkv(x).reshape(-1, tokens, 3 * self.heads, self.head_dim).transpose(1, 2)
        query, key, value = parts.chunk(3, dim=1)  # [B * blocks, heads, tokens, head_dim]
        if not self.folded:
            query = query * self.scale
        scores = query @ key.transpose(2, 3)  # [B * blocks, heads, tokens, tokens]
        mixed = torch.softmax(scores, dim=-1) @ value  # [B * blocks, heads, tokens, head_dim]
        # [B * blocks, tokens, heads, head_dim], or [B * blocks, tokens, head_dim, heads] as the weights have it
        mixed = mixed.transpose(1, 2) if self.folded else mixed.permute(0, 2, 3, 1)
        projected: Tensor = self.proj(mixed.reshape(-1, blocks, tokens, dim))
        return projected

    @torch.no_grad()
    def fold(self) -> None:
        """Put the scale into the weights of the queries, and let the channels leave with the head as the slowest axis.

        The second only changes the order of columns in `proj`. It is the usual order, whose transpositions move whole rows and
        which the engines' fused attention knows.
        """
        if self.folded:
            return
        dim = self.heads * self.head_dim
        self.qkv.weight[:dim] *= self.scale
        self.qkv.bias[:dim] *= self.scale
        channels = torch.arange(dim).reshape(self.head_dim, self.heads)  # as they leave without folding
        self.proj.weight.copy_(self.proj.weight[:, channels.T.flatten()])
        self.folded = True


class Mlp(nn.Module):
    """The feed-forward part: four times as wide inside, GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [..., dim] -> the same shape."""
        out: Tensor = self.fc2(nn.functional.gelu(self.fc1(x)))
        return out


class DropPath(nn.Module):
    """Skips a layer for a random share of the samples in training; does nothing in evaluation."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Activations [B, ...] -> the same shape; dropped samples are zero, the others grow to keep the mean."""
        if not self.training or self.share == 0:
            return x
        kept = torch.rand(x.shape[0], *(1,) * (x.dim() - 1), device=x.device) >= self.share  # [B, 1, ...]
        return x * kept / (1 - self.share)


class TransformerLayer(nn.Module):
    """Attention and feed-forward part, each after a layer norm and added to what came in."""

    def __init__(self, dim: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.mlp = Mlp(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [B, blocks, tokens, dim] -> the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class ConvPool(nn.Module):
    """From one level to the next: 3x3 convolution, layer norm over channels, maximum over 3x3 with stride 2."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, out_dim, 3, padding=1)
        self.norm = nn.LayerNorm(out_dim, eps=_NORM_EPS)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, in_dim, side, side] -> [B, out_dim, side / 2, side / 2]."""
        x = self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # [B, out_dim, side, side]
        pooled: Tensor = self.pool(x)
        return pooled


class NestLevel(nn.Module):
    """One level: pooling (but at the first), positions, transformer layers inside blocks of 8x8 tokens."""

    def __init__(self, *, in_dim: int | None, dim: int, heads: int, side: int, drop_paths: list[float]) -> None:
        super().__init__()
        self.grid = side // BLOCK_SIDE
        self.dim, self.side = dim, side
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid**2, BLOCK_SIDE**2, dim))
        self.pool = nn.Identity() if in_dim is None else ConvPool(in_dim, dim)
        self.transformer_encoder = nn.Sequential(*(TransformerLayer(dim, heads, share) for share in drop_paths))

    def blocks(self, x: Tensor) -> Tensor:
        """Maps [B, in_dim, side before, side before] -> tokens in blocks [B, grid * grid, 8 * 8, dim]."""
        grid, dim = self.grid, self.dim
        # Two transpositions that move whole rows; one that does both at once is slower on ONNX Runtime.
        x = self.pool(x).permute(0, 2, 3, 1)  # [B, side, side, dim]
        if grid > 1:
            x = x.reshape(-1, grid, BLOCK_SIDE, grid, BLOCK_SIDE, dim).transpose(2, 3)  # [B, grid, grid, 8, 8, dim]
        x = x.reshape(-1, grid * grid, BLOCK_SIDE * BLOCK_SIDE, dim)  # [B, blocks, tokens, dim]
        tokens: Tensor = self.transformer_encoder(x + self.pos_embed)
        return tokens

    def maps(self, tokens: Tensor) -> Tensor:
        """Tokens in blocks [B, grid * grid, 8 * 8, dim] -> maps [B, dim, side, side]."""
        grid, dim, side = self.grid, self.dim, self.side
        if grid > 1:
            tokens = tokens.reshape(-1, grid, grid, BLOCK_SIDE, BLOCK_SIDE, dim).transpose(2, 3)
        return tokens.reshape(-1, side, side, dim).permute(0, 3, 1, 2)  # [B, dim, side, side]

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, in_dim, side before, side before] -> [B, dim, side, side]."""
        return self.maps(self.blocks(x))


class PatchEmbed(nn.Module):
    """Pixels to tokens: a 3x3 convolution with stride 1."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Pieces [B, in_channels, 32, 32] -> [B, dim, 32, 32]."""
        out: Tensor = self.proj(x)
        return out


class Nest(nn.Module):
    """Pieces of the spectrum to feature maps: [P, 4, 32, 32] -> [P, last dim, 8, 8]."""

    def __init__(self, size: AcousticSize) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(constants.PIECE_CHANNELS, size.dims[0])
        num_layers = sum(size.depths)
        shares = [size.drop_path * layer / max(num_layers - 1, 1) for layer in range(num_layers)]
        levels: list[NestLevel] = []
        side, first, in_dim = constants.PIECE_FRAMES, 0, None
        for dim, heads, depth in zip(size.dims, size.heads, size.depths, strict=True):
            drop_paths = shares[first : first + depth]
            levels.append(NestLevel(in_dim=in_dim, dim=dim, heads=heads, side=side, drop_paths=drop_paths))
            side, first, in_dim = side // 2, first + depth, dim
        self.levels = nn.Sequential(*levels)
        self.norm = nn.LayerNorm(size.dims[-1], eps=_NORM_EPS)
        self.apply(_initialise)

    def forward(self, pieces: Tensor) -> Tensor:
        """Pieces [P, 4, 32, 32] float32, power -> [P, last dim, 8, 8]."""
        *levels, last = (level for level in self.levels if isinstance(level, NestLevel))
        x = self.patch_embed(pieces)
        for level in levels:
            x = level(x)
        return last.maps(self.norm(last.blocks(x)))  # [P, last dim, 8, 8]; the norm is that of each token


def _initialise(module: nn.Module) -> None:
    """Start values: normal with deviation 0.02, cut off at two units. Source: timm's NesT."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, NestLevel):
        nn.init.trunc_normal_(module.pos_embed, std=0.02)


def acoustic_head(size: AcousticSize, dim: int) -> nn.Sequential:
    """The layers after NesT: [P, last dim * 8 * 8] -> [P, dim]."""
    side = constants.PIECE_FRAMES >> (len(size.dims) - 1)
    return nn.Sequential(nn.Linear(size.dims[-1] * side * side, size.hidden), nn.ReLU(), nn.Linear(size.hidden, dim))


class AcousticBranch(nn.Module):
    """Pieces of the spectrum to features. Shares its layers with the model it is made from."""

    def __init__(self, trunk: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def folded(self) -> "AcousticBranch":
        """A copy for serving, see `Attention.fold`. The original stays as it is."""
        branch = copy.deepcopy(self).eval()
        for module in branch.modules():
            if isinstance(module, Attention):
                module.fold()
        return branch

    def forward(self, pieces: Tensor) -> Tensor:
        """Features of each piece.

        Args:
            pieces: [P, 4, 32, 32] float32, power of the mel spectrum, >= 0, without logarithm.

        Returns:
            [P, dim] float32.
        """
        features: Tensor = self.trunk(pieces)  # [P, last dim, 8, 8]
        embedded: Tensor = self.head(features.flatten(1))  # [P, dim]
        return embedded
