"""An acoustic branch of another kind: the first layers of a speech recogniser's encoder, which has heard very many voices.

Source: Whisper (Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision"), the size `tiny`. Pieces of the
spectrum come in as for the other branches, and are brought to the bands and the frames that Whisper was trained on.
"""

import copy
import math
from typing import Final

import torch
from torch import Tensor, nn

from fv2es_builders.modules.acoustic import AcousticBranch
from fv2es_builders.modules.temporal import SelfAttention
from fv2es_builders.presets import SpeechAcousticSize
from fv2es_pipelines import constants

NUM_BANDS: Final = 80
"""Source: Whisper."""
FRAMES: Final = 40
"""Of 10 ms each in a piece. Source: Whisper's step."""
TOKENS: Final = FRAMES // 2

POWER_FLOOR: Final = 1e-4
"""Added to the power before the logarithm: 60 dB below the loudest bands of speech at full level."""
LOUDEST: Final = 1.5
"""What the logarithm (base 10) of a piece's loudest band is made: as in loud speech, on which Whisper was trained."""
QUIET: Final = -2.5
"""A piece whose loudest band lies below this is not made as loud as the others, so that silence stays silent."""


def band_matrix() -> Tensor:
    """From the mel bands of the pieces to those of Whisper: [80, 128].

    A band of Whisper is a triangle over frequency; ours are triangles of height 1 that overlap by half, so weights that are the
    value of Whisper's at the middle of each of ours give its straight lines again.
    """
    top = 2595 * math.log10(1 + constants.SAMPLE_RATE_HZ / 2 / 700)
    mels = torch.linspace(0, top, constants.NUM_MELS + 2, dtype=torch.float64)[1:-1]
    middles_hz = 700 * (10 ** (mels / 2595) - 1)  # [128]
    edges = torch.linspace(
        0, 15 + 27 * math.log(8) / math.log(6.4), NUM_BANDS + 2, dtype=torch.float64
    )  # Slaney's mels
    edges_hz = torch.where(edges < 15, edges * 200 / 3, 1000 * torch.exp((edges - 15) * math.log(6.4) / 27))  # [82]
    rising = (middles_hz - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]  # [80, 128]
    falling = (edges_hz[2:, None] - middles_hz) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    height = 2 / (edges_hz[2:] - edges_hz[:-2])[:, None]  # each has the same area
    return (torch.minimum(rising, falling).clamp(min=0) * height).float()


def frame_kernels() -> Tensor:
    """Straight lines between five of our frames of 12.5 ms to five frames of 10 ms, of which four of ours are as long: [5, 1, 5]."""
    place = torch.arange(5) * (constants.PIECE_FRAMES / FRAMES)
    return (1 - (torch.arange(5) - place[:, None]).abs()).clamp(min=0)[:, None]


class SpeechLayer(nn.Module):
    """Attention and feed-forward part, each after a layer norm and added to what came in."""

    def __init__(self, size: SpeechAcousticSize) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size.dim), nn.LayerNorm(size.dim)
        self.self_attn = SelfAttention(size.dim, size.heads)
        self.linear1 = nn.Linear(size.dim, size.feed_forward)
        self.linear2 = nn.Linear(size.feed_forward, size.dim)

    @torch.no_grad()
    def fold(self) -> None:
        """Put weights and biases of the norms into the layers that follow them."""
        inner = self.self_attn
        inner.in_proj_bias.add_(inner.in_proj_weight @ self.norm1.bias)
        inner.in_proj_weight.mul_(self.norm1.weight)
        self.linear1.bias.add_(self.linear1.weight @ self.norm2.bias)
        self.linear1.weight.mul_(self.norm2.weight)
        dim = len(self.norm1.weight)
        self.norm1, self.norm2 = (nn.LayerNorm(dim, elementwise_affine=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [P, 20, dim] -> the same shape."""
        x = x + self.self_attn(self.norm1(x), torch.zeros((), dtype=x.dtype))
        out: Tensor = x + self.linear2(nn.functional.gelu(self.linear1(self.norm2(x))))
        return out


class SpeechEncoder(nn.Module):
    """Pieces of the spectrum to means and deviations over their 20 tokens: [P, 4, 32, 32] -> [P, 2 * dim]."""

    bands: Tensor
    frames: Tensor

    def __init__(self, size: SpeechAcousticSize) -> None:
        super().__init__()
        self.register_buffer("bands", band_matrix(), persistent=False)
        self.register_buffer("frames", frame_kernels(), persistent=False)
        self.stem1 = nn.Conv1d(NUM_BANDS, size.dim, 3, padding=1)
        self.stem2 = nn.Conv1d(size.dim, size.dim, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.empty(TOKENS, size.dim))
        nn.init.trunc_normal_(self.positions, std=0.02)
        self.layers = nn.ModuleList(SpeechLayer(size) for _ in range(size.layers))

    def spectrum(self, pieces: Tensor) -> Tensor:
        """Power [P, 4, 32, 32] -> what Whisper takes, all pieces about equally loud: [P, 80, 40]."""
        power = pieces.reshape(-1, constants.NUM_MELS, constants.PIECE_FRAMES)  # [P, 128, 32]: mels in order
        logarithm = torch.log10(self.bands @ (power + POWER_FLOOR))  # [P, 80, 32]
        level = logarithm.amax(dim=(1, 2), keepdim=True).clamp(min=QUIET)
        scaled = (logarithm - level + LOUDEST + 4) / 4
        long = torch.cat([scaled, scaled[..., -1:]], dim=2).reshape(
            -1, 1, constants.PIECE_FRAMES + 1
        )  # [P * 80, 1, 33]
        parts = nn.functional.conv1d(long, self.frames, stride=4).transpose(1, 2)  # [P * 80, 8, 5]
        return parts.reshape(-1, NUM_BANDS, FRAMES)

    def tokens(self, pieces: Tensor) -> Tensor:
        """Power [P, 4, 32, 32] -> tokens after the stem and with their positions, before the layers: [P, 20, dim]."""
        x = nn.functional.gelu(self.stem1(self.spectrum(pieces)))  # [P, dim, 40]
        x = nn.functional.gelu(self.stem2(x)).transpose(1, 2)  # [P, 20, dim]
        return x + self.positions

    def forward(self, pieces: Tensor) -> Tensor:
        """Power [P, 4, 32, 32] float32 -> [P, 2 * dim]."""
        x = self.tokens(pieces)
        for layer in self.layers:
            x = layer(x)
        mean = x.mean(dim=1, keepdim=True)
        deviation = (x - mean).square().mean(dim=1).clamp(min=1e-6).sqrt()
        return torch.cat([mean.squeeze(1), deviation], dim=1)


def speech_trunk(size: SpeechAcousticSize) -> nn.Sequential:
    """The encoder: [P, 4, 32, 32] -> [P, 2 * dim]."""
    return nn.Sequential(SpeechEncoder(size))


class Centre(nn.Module):
    """Features minus what they are on average. A bias after the next layer would do, but so large a one that FP16 rounds it too far."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        """[P, dim] -> the same shape."""
        return features - self.mean


def speech_head(size: SpeechAcousticSize, dim: int) -> nn.Sequential:
    """The layers after it: [P, 2 * size.dim] -> [P, dim]."""
    return nn.Sequential(Centre(2 * size.dim), nn.Linear(2 * size.dim, dim))


class SpeechBranch(AcousticBranch):
    """Pieces of the spectrum to features. Shares its layers with the model it is made from."""

    def forward(self, pieces: Tensor) -> Tensor:
        """Features of each piece: power [P, 4, 32, 32] float32 -> [P, dim] float32."""
        features: Tensor = self.head(self.trunk(pieces))
        return features

    def folded(self) -> "SpeechBranch":
        """A copy for serving, see `SpeechLayer.fold`. The original stays as it is."""
        branch = copy.deepcopy(self).eval()
        for module in branch.modules():
            if isinstance(module, SpeechLayer):
                module.fold()
        return branch
