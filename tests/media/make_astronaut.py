"""The recipe of `astronaut.mp4`, the clip that the demo and the tests run on.

A 12 s, 640x360, 25 fps H.264 + AAC film: the camera moves over NASA's public-domain portrait of Eileen Collins (as
scikit-image ships it) from the face (0-5 s) down to the suit (no face, 5-8 s) and back, while espeak-ng reads the three
cues of `astronaut.srt`. Needs scikit-image and espeak-ng (Debian), which nothing else here does:

    python tests/media/make_astronaut.py tests/media/astronaut.mp4
"""

import io
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from skimage import data

from fv2es.transcript import Cue, read_transcript

WIDTH_PX, HEIGHT_PX, RATE_HZ = 640, 360, 25
SPEECH_RATE_HZ = 16_000


def speech(text: str) -> np.ndarray:
    """The words as mono int16 [T] at 16 kHz, spoken by espeak-ng."""
    wave = subprocess.run(["espeak-ng", "-s", "150", "--stdout", text], check=True, capture_output=True).stdout
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SPEECH_RATE_HZ)
    with av.open(io.BytesIO(wave)) as container:
        parts = [out.to_ndarray()[0] for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    parts += [out.to_ndarray()[0] for out in resampler.resample(None)]
    return np.concatenate(parts)


def sound(cues: Sequence[Cue], length_s: float) -> np.ndarray:
    """All cues at their times over faint room noise, int16 [T]."""
    noise = np.random.default_rng(0).normal(0, 20, int(length_s * SPEECH_RATE_HZ))
    for cue in cues:
        words = speech(cue.text)
        at = round(cue.start_s * SPEECH_RATE_HZ)
        room = min(len(words), len(noise) - at)
        noise[at : at + room] += words[:room]
    return np.clip(noise, -32768, 32767).astype(np.int16)


def picture(portrait: np.ndarray, time_s: float) -> np.ndarray:
    """The camera's view at a time, uint8 [360, 640, 3]: full width of the portrait, moving down and up again."""
    down = np.interp(time_s, [0, 4, 5.5, 7.5, 9, 12], [0, 10, 224, 224, 20, 0])
    sway = 4 * np.sin(2 * np.pi * time_s / 6)
    top, left = round(down), round(6 + sway)
    return portrait[top : top + 281, left : left + 500]  # [281, 500, 3], 16:9


def main(target: Path) -> None:
    """Write the film."""
    cues = read_transcript(target.with_suffix(".srt")).cues
    length_s = 12.0
    portrait = data.astronaut()
    with av.open(str(target), "w", options={"movflags": "+faststart"}) as film:
        video = film.add_stream("libx264", rate=RATE_HZ)
        video.width, video.height, video.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        video.time_base = Fraction(1, RATE_HZ)
        video.options = {"crf": "27", "preset": "slow", "x264-params": "keyint=50:scenecut=0:threads=1"}
        audio = film.add_stream("aac", rate=SPEECH_RATE_HZ, layout="mono")
        audio.bit_rate = 48_000
        wave = sound(cues, length_s)
        for index in range(int(length_s * RATE_HZ)):
            frame = av.VideoFrame.from_ndarray(picture(portrait, index / RATE_HZ), format="rgb24")
            frame = frame.reformat(WIDTH_PX, HEIGHT_PX, "yuv420p", interpolation="BICUBIC")
            frame.pts, frame.time_base = index, Fraction(1, RATE_HZ)
            film.mux(video.encode(frame))
        film.mux(video.encode(None))
        for start in range(0, len(wave), 1024):
            block = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="s16", layout="mono")
            block.pts, block.sample_rate = start, SPEECH_RATE_HZ
            block.time_base = Fraction(1, SPEECH_RATE_HZ)
            film.mux(audio.encode(block))
        film.mux(audio.encode(None))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
