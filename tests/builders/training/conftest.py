"""Small synthetic copies of the data sets, in their own layouts."""

import pickle
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from fv2es_builders.presets import PRESETS, Preset, SpeechAcousticSize

SIDE = 48


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors, and tests that run beside each other: more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def starter_tiny(tiny: Preset) -> Preset:
    """The starter's labels, and its kind of acoustic branch untrained, with the sizes of `tiny`."""
    acoustic = SpeechAcousticSize(dim=8, heads=2, layers=1, feed_forward=8)
    return replace(PRESETS["starter"], visual=tiny.visual, acoustic=acoustic, temporal=tiny.temporal, text=tiny.text)


@pytest.fixture(scope="session")
def iemocap_tiny(tiny: Preset) -> Preset:
    return replace(
        PRESETS["fv2es-iemocap"], visual=tiny.visual, acoustic=tiny.acoustic, temporal=tiny.temporal, text=tiny.text
    )


def write_wave(path: Path, samples: np.ndarray, rate_hz: int = 16_000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def tone(hz: float, duration_s: float = 0.5) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(int(duration_s * 16_000)) / 16_000)


def write_picture(path: Path, rgb: np.ndarray) -> None:
    with av.open(str(path), "w", format="image2") as output:
        stream = output.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = rgb.shape[1], rgb.shape[0], "yuvj420p"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        output.mux(stream.encode(None))


@pytest.fixture(scope="session")
def small_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FER2013 of striped pictures, EmoDB of tones, GoEmotions of a few words: each label can be told from the others."""
    folder = tmp_path_factory.mktemp("sets")
    chance = np.random.default_rng(0)
    (folder / "fer2013").mkdir()
    for name, num in (("training", 70), ("public_test", 28)):
        labels = np.arange(num) % 7
        columns = np.arange(SIDE) * np.pi / 24
        stripes = 128 + 60 * np.sin(columns[None, :] * (labels[:, None] + 1))  # [num, 48]
        images = np.repeat(stripes[:, None, :], SIDE, axis=1) + chance.normal(0, 10, (num, SIDE, SIDE))
        names = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
        np.savez(
            folder / "fer2013" / f"{name}.npz",
            images=images.clip(0, 255).astype(np.uint8),
            labels=labels,
            label_names=np.array(names),
        )
    (folder / "emodb").mkdir()
    for speaker in ("03", "08"):
        for index, letter in enumerate("WLEAFTN"):
            write_wave(folder / "emodb" / f"{speaker}a01{letter}a.wav", tone(200 * (index + 1)))
    comments = folder / "goemotions_ekman"
    comments.mkdir()
    names = ["anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"]
    (comments / "labels.txt").write_text("\n".join(names))
    for part, num in (("train", 42), ("dev", 28)):
        rows = [f"I feel [NAME]'s {names[n % 7]}, number {n}!\t{n % 7}\tid{n}" for n in range(num)]
        (comments / f"{part}.tsv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def iemocap_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sessions in MME2E's layout; one utterance without pictures, one without sound, one without words."""
    folder = tmp_path_factory.mktemp("iemocap")
    root, lists = folder / "IEMOCAP_RAW_PROCESSED", folder / "IEMOCAP_SPLIT"
    lists.mkdir()
    labels, meta, names = ("ang", "exc", "fru", "hap", "neu", "sad"), {}, []
    for session in range(1, 6):
        for turn in range(6):
            name = f"Ses0{session}F_impro01_{'FM'[turn % 2]}00{turn}"
            names.append(name)
            meta[name] = {"text": "" if turn == 2 else f"these are words {turn}", "label": labels[turn]}
            place, side = root / f"Ses0{session}F_impro01" / name, "LR"[turn % 2]
            place.mkdir(parents=True)
            for number in (0, 15, 30) if turn != 3 else ():
                picture = np.full((64, 64, 3), (20 * turn, 100, 150), np.uint8)
                write_picture(place / f"image_{side}_{number}.jpg", picture)
            if turn != 4:
                write_wave(place / f"audio_{side}.wav", tone(100 * (turn + 1)))
    (root / "meta.pkl").write_bytes(pickle.dumps(meta))
    for phase, own in (("train", names[::3]), ("valid", names[1::3]), ("test", names[2::3])):
        (lists / f"{phase}_split.txt").write_text("\n".join(own) + "\n")
    return folder
