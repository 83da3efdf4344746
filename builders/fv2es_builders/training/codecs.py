"""Waves as lossy codecs leave them."""

import io
from collections.abc import Sequence
from typing import Final, cast

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from torch import Tensor

from fv2es_builders.training.sound_augment import mu_law
from fv2es_pipelines import constants

CODECS: Final[Sequence[tuple[str, str, int, int]]] = (
    ("aac", "adts", 16_000, 24_000),
    ("libmp3lame", "mp3", 16_000, 24_000),
    ("libopus", "ogg", 16_000, 12_000),
)
"""Encoder of FFmpeg, container, sample rate in Hz, bits per second: what films and calls sound like at their worst."""


def coded_variants(wave: Tensor) -> list[Tensor]:
    """The wave itself, then as each codec and a telephone line leave it: [n] each."""
    coded = [_coded(wave, *codec) for codec in CODECS]
    return [wave, *coded, mu_law(wave)]


def _coded(wave: Tensor, codec: str, container: str, rate_hz: int, bits_per_s: int) -> Tensor:
    """Encoded and decoded, cut to the length it had; encoders add silence at the start, which stays."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = cast(AudioStream, output.add_stream(codec, rate=rate_hz, layout="mono"))
        stream.bit_rate = bits_per_s
        resampler = AudioResampler(format=stream.format, layout="mono", rate=rate_hz, frame_size=stream.frame_size)
        frame = AudioFrame.from_ndarray(wave.numpy()[None], format="flt", layout="mono")
        frame.sample_rate = constants.SAMPLE_RATE_HZ
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            part.pts = None
            output.mux(stream.encode(part))
        output.mux(stream.encode(None))
    file.seek(0)
    back = AudioResampler(format="flt", layout="mono", rate=constants.SAMPLE_RATE_HZ)
    parts = []
    with av.open(file, "r") as source:
        for decoded in source.decode(audio=0):
            parts += [part.to_ndarray()[0] for part in back.resample(decoded)]
        parts += [part.to_ndarray()[0] for part in back.resample(None)]
    heard = torch.from_numpy(np.concatenate(parts))
    return torch.nn.functional.pad(heard, (0, max(0, len(wave) - len(heard))))[: len(wave)].contiguous()
