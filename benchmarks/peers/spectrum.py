"""The sound as the acoustic branch takes it, in PyTorch: what torchaudio's MelSpectrogram gives with the original's arguments."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.peers.media import Wave
from fv2es_pipelines.constants import (
    FFT_LENGTH,
    HOP_LENGTH,
    MIN_WAVE_SAMPLES,
    NUM_MELS,
    PIECE_CHANNELS,
    PIECE_FRAMES,
    PIECE_MELS,
    SAMPLE_RATE_HZ,
)


@cache
def _filters() -> Tensor:
    """Triangles of height 1 on the HTK mel scale, 0 to 8 kHz: float32 [128, 201]."""
    top_hz = SAMPLE_RATE_HZ / 2
    bins_hz = torch.linspace(0, top_hz, FFT_LENGTH // 2 + 1, dtype=torch.float64)
    top_mel = 2595 * torch.log10(torch.tensor(1 + top_hz / 700, dtype=torch.float64)).item()
    corners_hz = 700 * (10 ** (torch.linspace(0, top_mel, NUM_MELS + 2, dtype=torch.float64) / 2595) - 1)  # [130]
    left_hz, centre_hz, right_hz = (corners_hz[first : first + NUM_MELS, None] for first in range(3))
    slopes = torch.minimum((bins_hz - left_hz) / (centre_hz - left_hz), (right_hz - bins_hz) / (right_hz - centre_hz))
    return slopes.clamp(min=0).float()


def pieces_of(wave: Wave | None) -> Tensor | None:
    """Pieces of an utterance's sound: float32 [p, 4, 32, 32], the last one filled with zeros; None: no or too little sound."""
    if wave is None or len(wave) < MIN_WAVE_SAMPLES:
        return None
    spectrum = torch.stft(
        torch.from_numpy(wave),
        FFT_LENGTH,
        HOP_LENGTH,
        window=torch.hann_window(FFT_LENGTH),
        pad_mode="reflect",
        return_complex=True,
    )
    mels = _filters() @ spectrum.abs().pow(2)  # [128, T]
    mels = functional.pad(mels, (0, -mels.shape[1] % PIECE_FRAMES))  # [128, 32 p]
    parts = mels.reshape(NUM_MELS, -1, PIECE_FRAMES).transpose(0, 1)  # [p, 128, 32]
    return parts.reshape(-1, PIECE_CHANNELS, PIECE_MELS, PIECE_FRAMES)
