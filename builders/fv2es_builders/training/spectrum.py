"""Pieces of mel-spectrogram in PyTorch, as `fv2es_pipelines.mel` computes them, with room for augmentation."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from fv2es_pipelines import constants


@cache
def mel_filters() -> Tensor:
    """Triangles of height 1 on the HTK mel scale: [128, 201]."""
    top = 2595.0 * torch.log10(torch.tensor(1 + constants.SAMPLE_RATE_HZ / 2 / 700, dtype=torch.float64))
    mels = torch.linspace(0, float(top), constants.NUM_MELS + 2, dtype=torch.float64)
    edges_hz = 700 * (10 ** (mels / 2595) - 1)  # [130]
    bins_hz = torch.linspace(0, constants.SAMPLE_RATE_HZ / 2, constants.FFT_LENGTH // 2 + 1, dtype=torch.float64)
    rising = (bins_hz - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]  # [128, 201]
    falling = (edges_hz[2:, None] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()


def mel_pieces(wave: Tensor, *, warp: float = 1.0) -> Tensor:
    """Power of the mel spectrum of a wave, cut into pieces.

    Args:
        wave: [n] float32, n >= `MIN_WAVE_SAMPLES`.
        warp: every frequency is multiplied by this, as of a voice from another throat; 1: none.

    Returns:
        [p, 4, 32, 32] float32, p = ceil((1 + n // 200) / 32).
    """
    window = torch.hann_window(constants.FFT_LENGTH, periodic=True)
    transform = torch.stft(
        wave,
        constants.FFT_LENGTH,
        constants.HOP_LENGTH,
        window=window,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    power = transform.abs().square()  # [201, T]
    if warp != 1.0:
        power = _warped(power, warp)
    mels = mel_filters() @ power  # [128, T]
    mels = functional.pad(mels, (0, -mels.shape[1] % constants.PIECE_FRAMES))  # [128, 32 p]
    split = mels.reshape(constants.PIECE_CHANNELS, constants.PIECE_MELS, -1, constants.PIECE_FRAMES)  # [4, 32, p, 32]
    return split.permute(2, 0, 1, 3).contiguous()


def _warped(power: Tensor, factor: float) -> Tensor:
    """Power [201, T] with every frequency multiplied; what would lie beyond the highest is lost, or silent."""
    place = torch.arange(len(power)) / factor
    low = place.floor().long().clamp(max=len(power) - 1)
    high = (low + 1).clamp(max=len(power) - 1)
    mixed = torch.lerp(power[low], power[high], (place - low)[:, None])
    return mixed * (place <= len(power) - 1)[:, None]
