"""The recipe of `golden.npz`, from the test clip; needed only when that clip changes.

python -m fv2es_builders.golden.make tests/media/astronaut.mp4 builders/fv2es_builders/golden/golden.npz
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fv2es_pipelines import constants

if TYPE_CHECKING:
    from numpy.typing import NDArray

UTTERANCES = (
    (0.3, 1.9, "I am so happy that this flight went well."),
    (5.0, 6.6, "The suit is heavy, and it makes me angry."),
    (8.7, 10.3, "Still, I would go back up tomorrow."),
)
"""Start and end in seconds, and what is said (the first 1.6 s of each cue of the clip)."""

FACE_BOX_PX = (205, 80, 365, 240)
"""Where the face is in the first and last utterance: left, top, right, bottom."""


def mel_spectrum(wave: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Power of the mel spectrum in double precision.

    Args:
        wave: [T] mono samples in [-1, 1) at `constants.SAMPLE_RATE_HZ`.

    Returns:
        [128, 1 + T // 200]; see `fv2es_pipelines.constants` for what is computed.
    """
    length, hop = constants.FFT_LENGTH, constants.HOP_LENGTH
    padded = np.pad(wave, length // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]  # [frames, 400]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)  # periodic
    power: NDArray[np.float64] = np.abs(np.fft.rfft(windows * hann)) ** constants.MEL_POWER  # [frames, 201]
    top_mel = 2595 * np.log10(1 + constants.SAMPLE_RATE_HZ / 2 / 700)  # HTK
    corners_hz = 700 * (10 ** (np.linspace(0, top_mel, constants.NUM_MELS + 2) / 2595) - 1)  # [130]
    bins_hz = np.arange(length // 2 + 1) * constants.SAMPLE_RATE_HZ / length  # [201]
    rising = (bins_hz[None] - corners_hz[:-2, None]) / np.diff(corners_hz)[:-1, None]
    falling = (corners_hz[2:, None] - bins_hz[None]) / np.diff(corners_hz)[1:, None]
    mel: NDArray[np.float64] = np.clip(np.minimum(rising, falling), 0, None) @ power.T  # [128, frames]
    return mel


def pieces_of(wave: "NDArray[np.float64]") -> "NDArray[np.float32]":
    """One utterance's pieces: [T] samples -> [M, 4, 32, 32], the last filled with zeros."""
    mel = mel_spectrum(wave)
    frames = constants.PIECE_FRAMES
    mel = np.pad(mel, ((0, 0), (0, -mel.shape[1] % frames)))
    shape = (constants.PIECE_CHANNELS, constants.PIECE_MELS, -1, frames)
    return mel.reshape(shape).transpose(2, 0, 1, 3).astype(np.float32)  # [M, 4, 32, 32]


def _wave(source: Path) -> "NDArray[np.float64]":
    import av

    resampler = av.AudioResampler(format="flt", layout="mono", rate=constants.SAMPLE_RATE_HZ)
    with av.open(str(source)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    frames += resampler.resample(None)
    wave: NDArray[np.float64] = np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float64)
    return wave


def _face(source: Path, time_s: float) -> "NDArray[Any]":
    import av

    left, top, right, bottom = FACE_BOX_PX
    with av.open(str(source)) as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= time_s:
                crop = av.VideoFrame.from_ndarray(
                    np.ascontiguousarray(frame.to_ndarray(format="rgb24")[top:bottom, left:right]), format="rgb24"
                )
                side = constants.FACE_SIZE_PX
                return crop.reformat(side, side, interpolation="AREA").to_ndarray(format="rgb24")
    raise ValueError(f"{source} ends before {time_s:g} s; give the clip that this recipe was written for")


def main(arguments: Sequence[str]) -> None:
    """Write the archive: arguments are the clip and the target."""
    source, target = map(Path, arguments)
    wave = _wave(source)
    rate = constants.SAMPLE_RATE_HZ
    pieces = [pieces_of(wave[round(start_s * rate) : round(end_s * rate)]) for start_s, end_s, _ in UTTERANCES]
    faces = [
        _face(source, time_s) for start_s, _, _ in UTTERANCES for time_s in (start_s, start_s + constants.FRAME_STEP_S)
    ]
    np.savez_compressed(
        target,
        faces=np.stack(faces),
        pieces=np.concatenate(pieces),
        piece_counts=[len(part) for part in pieces],
        words=[words for _, _, words in UTTERANCES],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
