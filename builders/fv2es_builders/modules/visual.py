"""The visual branch: RepVGG blocks that train with several branches and serve with one. MME2E has VGG blocks in their place."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fv2es_builders.presets import VisualSize
from fv2es_pipelines import constants


class ConvNorm(nn.Module):
    """A convolution without bias and its batch norm; parameter names `conv`, `bn` as in the published checkpoints."""

    def __init__(self, in_channels: int, out_channels: int, side: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, side, padding=side // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Activations [B, in, H, W] -> [B, out, H, W]."""
        out: Tensor = self.bn(self.conv(x))
        return out


def _folded_kernel(kernel: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the one convolution that equals a convolution followed by `norm` in evaluation.

    Args:
        kernel: [out, in, side, side] float64.
        bias: [out] float64, or None.
        norm: its running statistics are used.

    Returns:
        [out, in, side, side] and [out], float64.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise TypeError(
            "a batch norm without running statistics can't be folded; build it with track_running_stats=True"
        )
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)  # [out]
    shift = -norm.running_mean.double() if bias is None else bias - norm.running_mean.double()  # [out]
    return kernel * scale[:, None, None, None], norm.bias.double() + shift * scale


class RepVGGBlock(nn.Module):
    """A 3x3 convolution that trains as a sum of 3x3, 1x1 and, where the channels agree, identity, each normalised.

    Source: RepVGG (Ding et al. 2021), section 3; parameter names `rbr_*` as in the published checkpoints.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.rbr_dense: ConvNorm | None = ConvNorm(in_channels, out_channels, 3)
        self.rbr_1x1: ConvNorm | None = ConvNorm(in_channels, out_channels, 1)
        self.rbr_identity = nn.BatchNorm2d(in_channels) if in_channels == out_channels else None
        self.rbr_reparam: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Activations [B, in, H, W] -> [B, out, H, W], not negative."""
        if self.rbr_reparam is not None:
            return torch.relu(self.rbr_reparam(x))
        if self.rbr_dense is None or self.rbr_1x1 is None:
            raise TypeError("the block has neither its branches nor its folded kernel; build it anew")
        total: Tensor = self.rbr_dense(x) + self.rbr_1x1(x)
        if self.rbr_identity is not None:
            total = total + self.rbr_identity(x)
        return torch.relu(total)

    @torch.no_grad()
    def fold(self) -> None:
        """Replace the branches by the one kernel that equals their sum in evaluation. Computed in float64."""
        if self.rbr_dense is None or self.rbr_1x1 is None:
            return
        kernel, bias = _folded_kernel(self.rbr_dense.conv.weight.double(), None, self.rbr_dense.bn)
        point, point_bias = _folded_kernel(self.rbr_1x1.conv.weight.double(), None, self.rbr_1x1.bn)
        kernel = kernel + nn.functional.pad(point, [1, 1, 1, 1])  # [out, in, 3, 3]
        bias = bias + point_bias
        if self.rbr_identity is not None:
            unit = torch.zeros_like(kernel)
            nn.init.dirac_(unit)
            unit, unit_bias = _folded_kernel(unit, None, self.rbr_identity)
            kernel, bias = kernel + unit, bias + unit_bias
        folded = nn.Conv2d(self.in_channels, self.out_channels, 3, padding=1)
        folded.weight.copy_(kernel)
        folded.bias.copy_(bias)  # type: ignore[union-attr]  # made with a bias, one line above
        self.rbr_reparam = folded
        self.rbr_dense = self.rbr_1x1 = self.rbr_identity = None


class VggBlock(nn.Module):
    """Two 3x3 convolutions, each normalised and rectified; parameter names as in MME2E's published checkpoints."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bn1: nn.Module = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bn2: nn.Module = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Activations [B, in, H, W] -> [B, out, H, W], not negative."""
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)))

    def fold(self) -> None:
        """Put the batch norms into the convolutions before them. Computed in float64."""
        self.bn1, self.bn2 = fold_norm(self.conv1, self.bn1), fold_norm(self.conv2, self.bn2)


@torch.no_grad()
def fold_norm(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """Put a batch norm into the convolution (with a bias) before it; what stands in its place. Computed in float64."""
    if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)) or conv.bias is None:
        return norm
    kernel, bias = _folded_kernel(conv.weight.double(), conv.bias.double(), norm)
    conv.weight.copy_(kernel)
    conv.bias.copy_(bias)
    return nn.Identity()


def fold_blocks(trunk: nn.Sequential) -> None:
    """Fold all blocks of a trunk."""
    for block in trunk:
        if isinstance(block, RepVGGBlock | VggBlock):
            block.fold()


def fold_trunk(trunk: nn.Sequential) -> None:
    """Fold all blocks of a trunk, and the batch norm after its first convolution."""
    fold_blocks(trunk)
    trunk[1] = fold_norm(trunk[0], trunk[1])


def conv_trunk(
    in_channels: int,
    stem_channels: int,
    stage_channels: Sequence[Sequence[int]],
    block: Callable[[int, int], nn.Module],
) -> nn.Sequential:
    """The convolutions of a branch: [B, in_channels, H, W] -> [B, last stage's channels, H / 2^(1 + stages), W / ...].

    With the paper's sizes the positions are those of the published checkpoints: 0 convolution, 1 batch norm,
    blocks at 4, 5, 6, 8 and 10.

    Args:
        in_channels: of what comes in.
        stem_channels: after the 5x5 convolution.
        stage_channels: output channels of the blocks, by stage.
        block: makes a block from its input and output channels.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, stem_channels, 5, padding=2),
        nn.BatchNorm2d(stem_channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    channels = stem_channels
    for stage in stage_channels:
        for out_channels in stage:
            layers.append(block(channels, out_channels))
            channels = out_channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def visual_trunk(size: VisualSize, block: Callable[[int, int], nn.Module] = RepVGGBlock) -> nn.Sequential:
    """The convolutions: normalised faces [F, 3, 48, 48] -> [F, last stage's channels, 3, 3]. See `conv_trunk`."""
    return conv_trunk(3, size.stem_channels, size.stage_channels, block)


def visual_head(size: VisualSize, dim: int) -> nn.Sequential:
    """The layers after the convolutions: [F, channels * side * side] -> [F, dim]."""
    side = constants.FACE_SIZE_PX >> (len(size.stage_channels) + 1)
    channels = size.stage_channels[-1][-1]
    return nn.Sequential(nn.Linear(channels * side * side, size.hidden), nn.ReLU(), nn.Linear(size.hidden, dim))


class VisualBranch(nn.Module):
    """Face crops to features, normalisation included.

    Shares its layers with the model it is made from. Mean and deviation: `fv2es_pipelines.constants`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, trunk: nn.Sequential, head: nn.Sequential) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        mean = torch.tensor(constants.VISUAL_MEAN_RGB).reshape(1, 3, 1, 1)
        std = torch.tensor(constants.VISUAL_STD_RGB).reshape(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("scale", 1 / std, persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        """Features of each face.

        Args:
            faces: [F, 48, 48, 3] uint8 RGB, 0..255.

        Returns:
            [F, dim] float32.
        """
        # Converted before it is transposed: TensorRT for RTX can't transpose uint8.
        pixels = faces.to(self.mean.dtype).permute(0, 3, 1, 2)  # [F, 3, 48, 48]
        features: Tensor = self.trunk((pixels - self.mean) * self.scale)  # [F, channels, 3, 3]
        embedded: Tensor = self.head(features.flatten(1))  # [F, dim]
        return embedded

    def folded(self) -> "VisualBranch":
        """A copy for serving: every batch norm is folded into the convolution before it. The original stays as it is."""
        branch = copy.deepcopy(self).eval()
        fold_trunk(branch.trunk)
        return branch
