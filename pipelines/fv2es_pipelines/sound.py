"""From a clip to the stretches of sound under each piece of spectrum: the part of `mel` that comes before a device's graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fv2es_pipelines.audio import Wave, read_sound
from fv2es_pipelines.clip import ClipBytes, open_clip
from fv2es_pipelines.constants import FFT_LENGTH, HOP_LENGTH, MIN_WAVE_SAMPLES, PIECE_FRAMES
from fv2es_pipelines.limits import MediaLimits, checked_utterances
from fv2es_pipelines.pieces import piece_places

STRETCH_SAMPLES: Final = (PIECE_FRAMES - 1) * HOP_LENGTH + FFT_LENGTH
"""Samples under all windows of a piece: 6600, of which two neighbours share 200."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StretchBatch:
    """Sound under the pieces of U utterances: P pieces, sequences padded to M. No sound at all: one row of zeros."""

    waves: npt.NDArray[np.float32]
    """[P >= 1, 6600], 16 kHz mono in [-1, 1); the utterance's edges are mirrored, zeros follow its end."""
    wave_frames: npt.NDArray[np.int32]
    """[P], windows of each row that belong to the utterance, 1 to 32; the spectrum of the others is zero."""
    piece_index: npt.NDArray[np.int64]
    """[U, M >= 1], row of `waves` at each position of the sequence; 0 where there is none."""
    piece_mask: npt.NDArray[np.bool_]
    """[U, M], true where `piece_index` refers to a row."""
    audio_errors: int
    """Packets of sound that failed to decode and would have been heard in an utterance."""

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The outputs of the served model `sound`, by tensor name."""
        return {
            "WAVES": self.waves,
            "WAVE_FRAMES": self.wave_frames[:, None],
            "PIECE_INDEX": self.piece_index,
            "PIECE_MASK": self.piece_mask,
            "AUDIO_ERRORS": np.array([self.audio_errors], np.int32),
        }


def read_stretches(clip: ClipBytes, utterances_s: npt.ArrayLike, *, limits: MediaLimits | None = None) -> StretchBatch:
    """Sound under the pieces of a clip's utterances. Without sound, or with fewer than 201 samples, an utterance has none.

    Args:
        clip: encoded media.
        utterances_s: float64 [U, 2], start and end in seconds on the clip's clock, in any order; may overlap.
        limits: bounds on clips; None for the defaults.

    Raises:
        PipelineError: the clip or the utterances can't be used; the class says how.
    """
    limits = limits or MediaLimits()
    utterances = checked_utterances(utterances_s, limits)
    with open_clip(clip, limits=limits, pictures=False) as opened:
        sound = read_sound(opened, utterances)
    return stretch_batch(sound.waves, audio_errors=sound.audio_errors)


def stretch_batch(waves: Sequence[Wave | None], *, audio_errors: int = 0) -> StretchBatch:
    """Stretches of the waves of U utterances; None or fewer than 201 samples: no sound."""
    parts = [stretches(wave) if wave is not None and len(wave) >= MIN_WAVE_SAMPLES else _NOTHING for wave in waves]
    rows = np.concatenate([part for part, _ in parts])
    frames = np.concatenate([counts for _, counts in parts])
    if not len(rows):
        rows, frames = np.zeros((1, STRETCH_SAMPLES), np.float32), np.full(1, PIECE_FRAMES, np.int32)
    piece_index, piece_mask = piece_places(np.array([len(part) for part, _ in parts], np.int64))
    return StretchBatch(
        waves=rows, wave_frames=frames, piece_index=piece_index, piece_mask=piece_mask, audio_errors=audio_errors
    )


_NOTHING: Final = (np.zeros((0, STRETCH_SAMPLES), np.float32), np.zeros(0, np.int32))


def stretches(wave: Wave) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """The samples under each piece of a wave of n >= 201 samples, float32 [p, 6600], and its windows, int32 [p].

    There are 1 + n // 200 windows, centred on multiples of 200 samples, with the wave's edges mirrored.
    """
    num_frames = 1 + len(wave) // HOP_LENGTH
    num_pieces = -(-num_frames // PIECE_FRAMES)
    mirrored = np.pad(wave, FFT_LENGTH // 2, mode="reflect")
    step = PIECE_FRAMES * HOP_LENGTH
    padded = np.zeros((num_pieces - 1) * step + STRETCH_SAMPLES, np.float32)
    used = min(len(mirrored), len(padded))
    padded[:used] = mirrored[:used]
    rows = np.lib.stride_tricks.sliding_window_view(padded, STRETCH_SAMPLES)[::step]  # [p, 6600]
    frames = np.minimum(num_frames - PIECE_FRAMES * np.arange(num_pieces), PIECE_FRAMES)
    return rows, frames.astype(np.int32)
