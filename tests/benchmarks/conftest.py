"""Small labelled data in the forms of FER2013, EmoDB and GoEmotions."""

import socket
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fv2es_builders.golden import load_golden

FER_LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
LINES = (
    "I am so happy that this flight went well.\t3\ta1",
    "Get out of my house, now!\t0\ta2",
    "There is a hair in my soup, and I am furious.\t0,1\ta3",
    "The meeting starts at nine.\t4\ta4",
    "\t5\ta5",  # no words
)


def write_faces(path: Path, images: np.ndarray, labels: object, names: tuple[str, ...] = FER_LABELS) -> Path:
    np.savez(path, images=images, labels=labels, label_names=np.array(names))
    return path


def write_wave(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.astype("<i2").tobytes())


@pytest.fixture(scope="session")
def faces_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real faces in grey."""
    grey = load_golden().faces.mean(axis=-1).astype(np.uint8)  # [6, 48, 48, 3] -> [6, 48, 48]
    return write_faces(tmp_path_factory.mktemp("faces") / "test.npz", grey, np.array([0, 1, 3, 3, 4, 6]))


@pytest.fixture(scope="session")
def speech_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two speakers, three labels, one sentence of boredom; no multiple of a piece's length."""
    folder = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    for number, name in enumerate(("03a01Fa", "03a02Wa", "08a01Na", "08a02La")):
        times = np.arange(12_000 + 1_111 * number)
        tone = 6_000 * np.sin(times * 0.02 * (number + 1))
        write_wave(folder / f"{name}.wav", tone + rng.normal(0, 500, len(times)))
    return folder


@pytest.fixture(scope="session")
def comments_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four comments, one of them with two labels, and one without words."""
    path = tmp_path_factory.mktemp("comments") / "dev.tsv"
    path.write_text("\n".join(LINES) + "\n")
    (path.parent / "labels.txt").write_text("anger\ndisgust\nfear\njoy\nneutral\nsadness\nsurprise")
    return path


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens; its port stays bound during the test, so that nobody will."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{probe.getsockname()[1]}"
