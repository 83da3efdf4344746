"""EmoDB as waves, labels and speakers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt
import torch
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from torch import Tensor

from fv2es_builders.errors import TrainingDataError
from fv2es_builders.training.labels import label_positions
from fv2es_pipelines import constants

EMODB_LABELS: Final = {
    "W": "anger",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
"""The sixth character of a file's name. L, boredom, is left out: no preset has it. Source: EmoDB (Burkhardt et al. 2005)."""
EMODB_LEFT_OUT: Final = "L"


@dataclass(frozen=True, kw_only=True, slots=True)
class Speech:
    """Spoken sentences with one label each."""

    waves: tuple[Tensor, ...]
    """[n] float32 each, 16 kHz mono in [-1, 1]."""
    labels: Tensor
    """[N] int64, positions among the preset's labels."""
    speakers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.waves)

    def rows(self, index: Sequence[int]) -> "Speech":
        """Some of them."""
        return Speech(
            waves=tuple(self.waves[row] for row in index),
            labels=self.labels[list(index)],
            speakers=tuple(self.speakers[row] for row in index),
        )

    def parted(self, speakers: Sequence[str]) -> tuple["Speech", "Speech"]:
        """All other speakers, and the named ones."""
        named = [row for row, speaker in enumerate(self.speakers) if speaker in speakers]
        return self.rows([row for row in range(len(self)) if row not in set(named)]), self.rows(named)


def load_emodb(folder: Path, labels: Sequence[str]) -> Speech:
    """EmoDB without boredom.

    Raises:
        TrainingDataError: the folder holds no EmoDB, or a file is not named or encoded as it should be.
    """
    names = dict(zip(EMODB_LABELS, label_positions(tuple(EMODB_LABELS.values()), labels, source=folder), strict=True))
    waves, own, speakers = [], [], []
    for path in sorted(folder.glob("*.flac")) or sorted(folder.glob("*.wav")):
        if len(path.stem) != 7 or path.stem[5] not in {*EMODB_LABELS, EMODB_LEFT_OUT}:
            raise TrainingDataError(path, "expected a name of seven characters, the sixth one of WLEAFTN; see EmoDB")
        if path.stem[5] == EMODB_LEFT_OUT:
            continue
        waves.append(torch.from_numpy(read_wave(path)))
        own.append(int(names[path.stem[5]]))
        speakers.append(path.stem[:2])
    if not waves:
        raise TrainingDataError(folder, "holds neither .flac nor .wav files of EmoDB; name the folder that does")
    return Speech(waves=tuple(waves), labels=torch.tensor(own), speakers=tuple(speakers))


def read_wave(path: Path) -> npt.NDArray[np.float32]:
    """The whole sound of a file: float32 [n], 16 kHz, mono.

    Raises:
        TrainingDataError: it can't be decoded, or is too short for a spectrum.
    """
    resampler = AudioResampler(format="flt", layout="mono", rate=constants.SAMPLE_RATE_HZ)
    frames: list[AudioFrame] = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(audio=0):
                frames += resampler.resample(frame)
            frames += resampler.resample(None)
    except (av.FFmpegError, IndexError, OSError) as error:
        raise TrainingDataError(path, f"its sound can't be decoded ({error})") from error
    wave = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames] or [np.zeros(0, np.float32)])
    if len(wave) < constants.MIN_WAVE_SAMPLES:
        raise TrainingDataError(path, f"has {len(wave)} samples; a spectrum needs {constants.MIN_WAVE_SAMPLES}")
    result: npt.NDArray[np.float32] = wave.astype(np.float32)
    return result
