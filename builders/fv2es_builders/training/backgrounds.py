"""Sounds without a voice, from which a branch learns that it hears nothing of an emotion: silence, noise, hum, music."""

import math
from typing import Final

import torch
from torch import Generator, Tensor

from fv2es_builders.training.random_choice import Chance
from fv2es_pipelines import constants

_SCALES: Final = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9))
"""Semitones of the major, the minor and the pentatonic scale."""


class Backgrounds:
    """Makes one wave after the other. One generator decides everything."""

    def __init__(self, generator: Generator) -> None:
        self._chance = Chance(generator)

    def __call__(self) -> Tensor:
        """[n] float32 in [-1, 1], 16 kHz, 0.6 s to 3 s: one in six silent, the others noise, hum, or music."""
        num = int(self._chance.uniform(0.6, 3.0) * constants.SAMPLE_RATE_HZ)
        kind = self._chance.uniform(0, 6)
        if kind < 1:
            return torch.zeros(num)
        sounds = self._music(num) if kind < 3.5 else self._noise(num) + (self._hum(num) if kind > 5 else 0)
        level = 10 ** (self._chance.uniform(-50, -6) / 20)
        heard: Tensor = sounds * (level / sounds.abs().max().clamp(min=1e-9))
        return heard

    def _noise(self, num: int) -> Tensor:
        """Noise between white and brown whose level may rise and fall, as wind and traffic do: [n]."""
        spectrum = torch.fft.rfft(self._chance.normal(num))
        spectrum = spectrum / torch.arange(1, len(spectrum) + 1).float() ** self._chance.uniform(0, 1.2)
        noise = torch.fft.irfft(spectrum, num)
        beat_hz, depth, time_s = self._chance.uniform(0.1, 4), self._chance.uniform(0, 1), _time_s(num)
        waves: Tensor = (
            noise / noise.abs().max() * (1 - depth * (0.5 + 0.5 * torch.sin(2 * math.pi * beat_hz * time_s)))
        )
        return waves

    def _hum(self, num: int) -> Tensor:
        """A machine's tone and its multiples: [n]."""
        base_hz = 50.0 if self._chance.happens(0.5) else self._chance.uniform(40, 400)
        return self._tone(base_hz, num, decay_s=1e9)

    def _music(self, num: int) -> Tensor:
        """Chords, a tune and beats in one tempo and key: [n]."""
        chance, rate = self._chance, constants.SAMPLE_RATE_HZ
        beat = int(60 / chance.uniform(60, 160) * rate)
        scale = _SCALES[chance.below(len(_SCALES))]
        key_hz, played = 110 * 2 ** chance.uniform(0, 1), torch.zeros(num + 8 * beat)
        decay_s, drums = chance.uniform(0.1, 2.0), chance.uniform(0, 0.8) * chance.happens(0.6)
        first = -chance.below(4 * beat)
        for number, start in enumerate(range(first, num, beat)):
            notes = [(scale[chance.below(len(scale))] + 12 * chance.below(3), 1)]
            if number % 4 == 0:
                root = chance.below(len(scale))
                notes += [(scale[(root + step) % len(scale)], 4) for step in (0, 2, 4)]
            for semitones, beats in notes:
                own = self._tone(key_hz * 2 ** (semitones / 12), beats * beat, decay_s=decay_s)
                _add(played, own, start)
            if drums:
                _add(played, self._noise(beat) * torch.exp(-_time_s(beat) / 0.05) * 3 * drums, start)
        return played[:num]

    def _tone(self, base_hz: float, num: int, *, decay_s: float) -> Tensor:
        """A tone and its multiples, each weaker than the one before, with a soft start: [n]."""
        time_s = _time_s(num)
        falls, multiples = self._chance.uniform(0.6, 2.5), range(1, 1 + min(12, int(7600 / base_hz)))
        sound = sum(
            (
                torch.sin(2 * math.pi * base_hz * k * time_s + self._chance.uniform(0, 6.28)) / k**falls
                for k in multiples
            ),
            start=torch.zeros(num),
        )
        envelope = (
            torch.exp(-time_s / decay_s) * (time_s / 0.02).clamp(max=1) * ((time_s[-1] - time_s) / 0.02).clamp(max=1)
        )
        tone: Tensor = sound * envelope
        return tone


def _time_s(num: int) -> Tensor:
    return torch.arange(num) / constants.SAMPLE_RATE_HZ


def _add(played: Tensor, sound: Tensor, start: int) -> None:
    """Put a sound at a sample of a longer one, in place; what lies before its first sample is lost."""
    sound = sound[max(0, -start) :]
    start = max(0, start)
    played[start : start + len(sound)] += sound[: len(played) - start]
