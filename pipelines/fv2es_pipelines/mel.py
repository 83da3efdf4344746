"""From waves to pieces of mel-spectrogram through one DALI graph, the same on CPU and GPU."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from fv2es_pipelines.audio import Wave, read_sound
from fv2es_pipelines.clip import ClipBytes, open_clip
from fv2es_pipelines.constants import (
    FFT_LENGTH,
    HOP_LENGTH,
    MEL_POWER,
    MIN_WAVE_SAMPLES,
    NUM_MELS,
    PIECE_CHANNELS,
    PIECE_FRAMES,
    PIECE_MELS,
    SAMPLE_RATE_HZ,
)
from fv2es_pipelines.dali_pipeline import empty_pipeline
from fv2es_pipelines.frame_index import Device
from fv2es_pipelines.limits import MediaLimits, checked_utterances
from fv2es_pipelines.pieces import piece_places


@dataclass(frozen=True, kw_only=True, slots=True)
class PieceBatch:
    """Pieces of the sound of U utterances: P pieces, sequences padded to M. No sound at all: one row of zeros."""

    pieces: npt.NDArray[np.float32]
    """[P >= 1, 4, 32, 32]: channel c holds mel bands 32 c to 32 c + 31; bands, then spectrum frames."""
    piece_index: npt.NDArray[np.int64]
    """[U, M >= 1], row of `pieces` at each position of the sequence; 0 where there is none."""
    piece_mask: npt.NDArray[np.bool_]
    """[U, M], true where `piece_index` refers to a piece."""
    audio_errors: int
    """Packets of sound that failed to decode and would have been heard in an utterance."""

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The outputs of the served model `mel`, by tensor name."""
        return {
            "PIECES": self.pieces,
            "PIECE_INDEX": self.piece_index,
            "PIECE_MASK": self.piece_mask,
            "AUDIO_ERRORS": np.array([self.audio_errors], np.int32),
        }


class MelGraph:
    """The spectrum as the original defines it, on waves of any length and any number of them. One call at a time."""

    def __init__(
        self,
        *,
        device: Device = "cpu",
        device_id: int | None = None,
        max_batch: int = 32,
        threads: int = 1,
    ) -> None:
        """Build the graph.

        Args:
            device: where it runs.
            device_id: number of the GPU; None for the CPU.
            max_batch: waves per pass; more are taken in several passes.
            threads: DALI's CPU threads.
        """
        self._device, self._max_batch = device, max_batch
        self._pipeline = empty_pipeline(max_batch=max_batch, device_id=device_id, threads=threads)
        with self._pipeline:
            waves = fn.external_source(name="waves", device="cpu", dtype=types.FLOAT, ndim=1)
            self._pipeline.set_outputs(pieces_graph(waves.gpu() if device == "gpu" else waves))
        self._pipeline.build()

    def __call__(self, waves: Sequence[Wave]) -> list[npt.NDArray[np.float32]]:
        """Pieces of each wave: float32 [p, 4, 32, 32] with p = ceil((1 + n // 200) / 32) for n samples.

        Args:
            waves: float32 [n] each, n >= `MIN_WAVE_SAMPLES`, 16 kHz.
        """
        pieces: list[npt.NDArray[np.float32]] = []
        for start in range(0, len(waves), self._max_batch):
            self._pipeline.feed_input("waves", list(waves[start : start + self._max_batch]))
            (output,) = self._pipeline.run()
            on_host = output.as_cpu() if self._device == "gpu" else output
            pieces += [np.array(on_host.at(index)) for index in range(len(on_host))]
        return pieces


def mels_graph(waves: Any, *, centred: bool = True) -> Any:
    """DALI operators from waves (float [n]) to mel bands over time (float [128, T]), on the device the waves are on.

    Args:
        waves: what DALI's graph gives.
        centred: windows are centred and the edges mirrored, T = 1 + n // 200; else only whole windows inside the wave count.
    """
    turns = 2 * np.pi * np.arange(FFT_LENGTH) / FFT_LENGTH
    spectrum = fn.spectrogram(
        waves,
        nfft=FFT_LENGTH,
        window_length=FFT_LENGTH,
        window_step=HOP_LENGTH,
        window_fn=(0.5 - 0.5 * np.cos(turns)).tolist(),
        center_windows=centred,
        reflect_padding=True,
        power=int(MEL_POWER),
        layout="ft",
    )  # [201, T]
    return fn.mel_filter_bank(
        spectrum,
        sample_rate=float(SAMPLE_RATE_HZ),
        nfilter=NUM_MELS,
        freq_low=0.0,
        freq_high=SAMPLE_RATE_HZ / 2,
        mel_formula="htk",
        normalize=False,
    )


def pieces_graph(waves: Any) -> Any:
    """DALI operators from waves (float [n]) to pieces (float [p, 4, 32, 32]), on the device the waves are on.

    The power spectrum under a periodic Hann window, centred, edges mirrored; triangular filters on the HTK mel scale, not
    normalised; no logarithm; zeros on the right up to whole pieces.
    """
    mels = mels_graph(waves)  # [128, T]
    length = mels.shape(dtype=types.INT32)[1:2]  # given, or all are padded to the longest of the batch
    padded = fn.pad(mels, axes=[1], shape=length, align=[PIECE_FRAMES], fill_value=0.0)  # [128, 32 p]
    split = fn.reshape(padded, shape=[PIECE_CHANNELS, PIECE_MELS, -1, PIECE_FRAMES], layout="CMPT")  # [4, 32, p, 32]
    return fn.transpose(split, perm=[2, 0, 1, 3])  # [p, 4, 32, 32]


def mel_pipeline(device: Device, *, device_id: int | None = None, max_batch: int = 32, threads: int = 1) -> Pipeline:
    """WAVES, WAVE_FRAMES -> pieces, any number of rows up to `max_batch`: the graph of the served model `mel` of the gpu profile.

    WAVES float32 [6600] and WAVE_FRAMES int32 [1] as in `fv2es_pipelines.sound`; output float32 [4, 32, 32].

    Args:
        device: where it runs.
        device_id: number of the GPU; None: none is needed to write the graph to a file.
        max_batch: most rows at once.
        threads: DALI's CPU threads.
    """
    pipeline = empty_pipeline(max_batch=max_batch, device_id=device_id, threads=threads)
    with pipeline:
        waves = fn.external_source(name="WAVES", device="cpu", dtype=types.FLOAT, ndim=1)
        frames = fn.external_source(name="WAVE_FRAMES", device="cpu", dtype=types.INT32, ndim=1)
        mels = mels_graph(waves.gpu() if device == "gpu" else waves, centred=False)  # [128, 32]
        own = fn.slice(mels, start=0, shape=frames, axes=[1])  # [128, T], what follows the utterance's end left out
        padded = fn.pad(own, axes=[1], shape=[PIECE_FRAMES], fill_value=0.0)  # [128, 32]
        pipeline.set_outputs(fn.reshape(padded, shape=[PIECE_CHANNELS, PIECE_MELS, PIECE_FRAMES], layout="CMT"))
    return pipeline


class MelPipeline:
    """From a clip and its utterances to pieces, flat and indexed: what the acoustic branch takes. One call at a time."""

    def __init__(self, graph: MelGraph | None = None, *, limits: MediaLimits | None = None) -> None:
        """Set up with a graph (None: one on the CPU) and bounds on clips (None: the defaults)."""
        self._graph, self._limits = graph or MelGraph(), limits or MediaLimits()

    def __call__(self, clip: ClipBytes, utterances_s: npt.ArrayLike) -> PieceBatch:
        """Pieces of a clip's utterances. Without sound, or with fewer than 201 samples, an utterance has none.

        Args:
            clip: encoded media.
            utterances_s: float64 [U, 2], start and end in seconds on the clip's clock, in any order; may overlap.

        Raises:
            PipelineError: the clip or the utterances can't be used; the class says how.
        """
        utterances = checked_utterances(utterances_s, self._limits)
        with open_clip(clip, limits=self._limits, pictures=False) as opened:
            sound = read_sound(opened, utterances)
        return piece_batch(self._graph, sound.waves, audio_errors=sound.audio_errors)


def piece_batch(graph: MelGraph, waves: Sequence[Wave | None], *, audio_errors: int = 0) -> PieceBatch:
    """Pieces of the waves of U utterances; None or fewer than 201 samples: no sound."""
    present = [row for row, wave in enumerate(waves) if wave is not None and len(wave) >= MIN_WAVE_SAMPLES]
    parts = graph([wave for row, wave in enumerate(waves) if wave is not None and row in set(present)])
    counts = np.zeros(len(waves), np.int64)
    counts[present] = [len(part) for part in parts]
    piece_index, piece_mask = piece_places(counts)
    blank = np.zeros((1, PIECE_CHANNELS, PIECE_MELS, PIECE_FRAMES), np.float32)
    return PieceBatch(
        pieces=np.concatenate(parts) if parts else blank,
        piece_index=piece_index,
        piece_mask=piece_mask,
        audio_errors=audio_errors,
    )
