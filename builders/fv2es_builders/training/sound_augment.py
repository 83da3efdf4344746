"""Studio speech made to sound like the sound of films: rooms, noise, other voices, microphones, codecs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from fv2es_builders.training.random_choice import Chance
from fv2es_builders.training.spectrum import mel_pieces
from fv2es_pipelines import constants


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundAugmentSettings:
    """Strengths. Shares lie in [0, 1]."""

    plain: float = 0.25
    """Share left as recorded, but for its start and level."""
    speed: float = 0.12
    """Greatest relative change of speed, pitch with it."""
    warp: float = 0.1
    """Greatest relative change of all frequencies at the same speed."""
    gain_db: float = 6.0
    """Deviation of the level in dB."""
    room: float = 0.2
    """Share heard in a room."""
    noisy: float = 0.4
    """Share with noise."""
    noise_db: tuple[float, float] = (10.0, 40.0)
    """Least and greatest ratio of speech to noise in dB."""
    filtered: float = 0.3
    """Share heard through a microphone with a frequency response of its own, or a narrow line."""
    masked: float = 0.4
    """Share that loses a band of mels and a stretch of time."""
    cut: float = 0.2
    """Share of which only a part is heard, half of it or more."""
    start_s: float = 0.4
    """Longest piece cut off, or silence put, before the first sample: moves the borders between pieces."""


class SoundAugment:
    """Augments waves one by one. One generator decides everything."""

    def __init__(self, generator: Generator, settings: SoundAugmentSettings | None = None) -> None:
        self._chance, self._settings = Chance(generator), settings or SoundAugmentSettings()

    def __call__(self, variants: Sequence[Tensor]) -> Tensor:
        """Pieces [p, 4, 32, 32] of one of the variants of a wave: the recording first, then as codecs leave it."""
        own = self._settings
        if self._chance.happens(own.plain):
            return mel_pieces(self._level(self._moved(variants[0])))
        wave = variants[self._chance.below(len(variants))]
        wave = self._respeeded(self._moved(wave))
        if self._chance.happens(own.cut):
            wave = self._cut(wave)
        if self._chance.happens(own.room):
            wave = self._in_room(wave)
        if self._chance.happens(own.filtered):
            wave = self._filtered(wave)
        if self._chance.happens(own.noisy):
            wave = self._noisy(wave)
        pieces = mel_pieces(self._level(wave).clamp(-1, 1), warp=1 + self._chance.uniform(-own.warp, own.warp))
        return self._masked(pieces) if self._chance.happens(own.masked) else pieces

    def _moved(self, wave: Tensor) -> Tensor:
        """Some silence before the first sample, or some samples lost."""
        num = int(self._chance.uniform(-self._settings.start_s, self._settings.start_s) * constants.SAMPLE_RATE_HZ)
        if num >= 0:
            return functional.pad(wave, (num, 0))
        return wave[-num:] if len(wave) + num >= constants.SAMPLE_RATE_HZ else wave

    def _cut(self, wave: Tensor) -> Tensor:
        """A part of at least a second, or all of a shorter wave."""
        num = max(int(self._chance.uniform(0.5, 1) * len(wave)), min(len(wave), constants.SAMPLE_RATE_HZ))
        first = self._chance.below(len(wave) - num + 1)
        return wave[first : first + num]

    def _level(self, wave: Tensor) -> Tensor:
        return wave * float(10 ** (float(self._chance.normal(1)) * self._settings.gain_db / 20))

    def _respeeded(self, wave: Tensor) -> Tensor:
        factor = 1 + self._chance.uniform(-self._settings.speed, self._settings.speed)
        return functional.interpolate(wave[None, None], size=int(len(wave) / factor), mode="linear")[0, 0]

    def _in_room(self, wave: Tensor) -> Tensor:
        """Convolved with noise that decays by 60 dB in 0.15 s to 0.8 s."""
        decay_s, rate = self._chance.uniform(0.15, 0.8), constants.SAMPLE_RATE_HZ
        time_s = torch.arange(int(decay_s * rate)) / rate
        echo = self._chance.normal(len(time_s)) * torch.exp(-6.9 * time_s / decay_s)
        echo = echo * self._chance.uniform(0.1, 0.7) / echo.norm()
        echo[0] += 1
        size = len(wave) + len(echo)
        wet = torch.fft.irfft(torch.fft.rfft(wave, size) * torch.fft.rfft(echo, size), size)
        heard: Tensor = wet[: len(wave)]
        return heard

    def _filtered(self, wave: Tensor) -> Tensor:
        """A smooth response of some dB up and down; sometimes nothing above 3.4 kHz to 7 kHz or below 80 Hz to 300 Hz."""
        spectrum = torch.fft.rfft(wave)
        response_db = functional.interpolate(
            self._chance.normal(1, 1, 8) * 4, size=len(spectrum), mode="linear", align_corners=True
        )[0, 0]
        frequency_hz = torch.linspace(0, constants.SAMPLE_RATE_HZ / 2, len(spectrum))
        if self._chance.happens(0.4):
            response_db = response_db - 60 * (frequency_hz > self._chance.uniform(3400, 7000))
        if self._chance.happens(0.4):
            response_db = response_db - 40 * (frequency_hz < self._chance.uniform(80, 300))
        heard: Tensor = torch.fft.irfft(spectrum * torch.pow(10.0, response_db / 20), len(wave))
        return heard

    def _noisy(self, wave: Tensor) -> Tensor:
        """Noise between white and brown, at a ratio to the speech's mean power."""
        spectrum = torch.fft.rfft(self._chance.normal(len(wave)))
        slope = self._chance.uniform(0, 1)
        spectrum = spectrum / torch.arange(1, len(spectrum) + 1).float() ** slope
        noise = torch.fft.irfft(spectrum, len(wave))
        ratio = 10 ** (-self._chance.uniform(*self._settings.noise_db) / 20)
        heard: Tensor = wave + noise * (wave.norm() * ratio / noise.norm().clamp(min=1e-9))
        return heard

    def _masked(self, pieces: Tensor) -> Tensor:
        """A band of up to 20 mels becomes silent in all pieces, and up to 12 frames in one: [p, 4, 32, 32]."""
        mels = pieces.reshape(len(pieces), constants.NUM_MELS, constants.PIECE_FRAMES).clone()
        band, first = int(self._chance.uniform(0, 20)), int(self._chance.uniform(0, constants.NUM_MELS - 20))
        mels[:, first : first + band] = 0
        piece, start = (
            int(self._chance.uniform(0, len(pieces))),
            int(self._chance.uniform(0, constants.PIECE_FRAMES - 12)),
        )
        mels[piece, :, start : start + int(self._chance.uniform(0, 12))] = 0
        return mels.reshape(pieces.shape)


def mu_law(wave: Tensor) -> Tensor:
    """As a telephone line with 8-bit logarithmic samples leaves it (G.711, continuous form): [n] -> [n]."""
    level = wave.sign() * torch.log1p(255 * wave.abs().clamp(max=1)) / math.log(256)
    level = torch.round(level * 127) / 127
    return level.sign() * (torch.exp(level.abs() * math.log(256)) - 1) / 255
