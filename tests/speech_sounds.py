"""Sounds without words, made by rule, and what is said in the real ones."""

from pathlib import Path

import av
import numpy as np

RATE_HZ = 16_000
KATIE_HILL = (
    "congressional district and I'm currently in DC for my second week of new member orientation "
    "in addition to learning where things are and how to use the tunnels"
)
"""What is said in WDA_KatieHill_000.mp4, 28 words: the same by greedy search, by beams of 5, with and without voice detection, and with
noise added at 20 dB."""

ASTRONAUT = (
    "I am so happy that this flight went well the suit is heavy and it makes me angry still I would go back up tomorrow"
)
"""The words of astronaut.srt."""


def sound(path: Path, wave: np.ndarray) -> Path:
    """A WAV file of float32 [T] at 16 kHz."""
    with av.open(path, "w") as output:
        stream = output.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            (np.clip(wave, -1, 0.999) * 32768).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate = RATE_HZ
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    return path


def wordless(length_s: float = 20.0) -> dict[str, np.ndarray]:
    """Waves in which nobody speaks."""
    rng = np.random.default_rng(0)
    time_s = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
    chord = sum(
        0.1 * np.sin(2 * np.pi * hz * time_s) * np.clip(np.sin(np.pi * ((time_s * beats) % 1)), 0, 1)
        for hz, beats in ((220, 1), (277.2, 1), (329.6, 2), (440, 4), (110, 0.5))
    )
    tune = np.zeros_like(time_s)
    for begin_s in np.arange(0, length_s, 0.25):
        hz = 220 * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
        here = (time_s >= begin_s) & (time_s < begin_s + 0.3)
        since_s = time_s[here] - begin_s
        tune[here] += 0.3 * np.exp(-since_s * 6) * sum(np.sin(2 * np.pi * hz * n * since_s) / n for n in range(1, 6))
    return {
        "silence": np.zeros_like(time_s),
        "white noise": 0.1 * rng.standard_normal(len(time_s)),
        "brown noise": 0.3 * np.cumsum(rng.standard_normal(len(time_s))) / 400,
        "chord": chord,
        "tune": tune,
        "hum": 0.3 * np.sin(2 * np.pi * 50 * time_s),
    }


def bare(text: str) -> list[str]:
    """Words for comparison: small letters, no punctuation but apostrophes."""
    return "".join(each for each in text.lower() if each.isalnum() or each in " '").split()


def word_errors(said: list[str], heard: list[str]) -> int:
    """Words put in, left out or exchanged: Levenshtein's distance."""
    row = list(range(len(heard) + 1))
    for i, one in enumerate(said, start=1):
        last, row[0] = row[0], i
        for j, two in enumerate(heard, start=1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (one != two))
    return row[-1]
