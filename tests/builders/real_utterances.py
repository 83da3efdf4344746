"""Utterances put together from FER2013, EmoDB and GoEmotions."""

from pathlib import Path

import av
import numpy as np

from fv2es_builders.utterances import Utterance
from fv2es_pipelines.mel import MelGraph

LABELS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
EMODB = dict(zip("WEAFTN", ("anger", "disgust", "fear", "happiness", "sadness", "neutral"), strict=True))
OTHER_NAMES = {"angry": "anger", "happy": "happiness", "sad": "sadness", "joy": "happiness"}
SOUND_S = 0.78
"""Two pieces."""


def compose(data: Path, count: int) -> list[Utterance]:
    """`count` utterances whose modalities agree in their label."""
    waves, faces, words = _waves(data / "emodb"), _faces(data / "fer2013"), _words(data / "goemotions_ekman")
    chosen, sounds = [], []
    rng = np.random.default_rng(0)
    for number in range(count):
        label, turn = LABELS[number % len(LABELS)], number // len(LABELS)
        files = waves.get(label) or waves["neutral"][::-1]  # nobody is surprised in EmoDB
        sounds.append(_wave(files[turn % len(files)]))
        num_faces = int(rng.integers(1, 5))
        absent = int(rng.integers(12))  # one in twelve lacks faces, sound, or words
        pictures = faces[label][turn * 4 : turn * 4 + num_faces]
        chosen.append(
            Utterance(
                name=f"{label} {turn}",
                faces=pictures[:0] if absent == 0 else pictures,
                pieces=np.zeros((0 if absent == 1 else 1, 4, 32, 32), np.float32),
                words="" if absent == 2 else words[label][turn],
            )
        )
    pieces = MelGraph()(sounds)
    return [_with_pieces(each, spectrum) for each, spectrum in zip(chosen, pieces, strict=True)]


def _with_pieces(utterance: Utterance, pieces: np.ndarray) -> Utterance:
    return Utterance(
        name=utterance.name,
        faces=utterance.faces,
        pieces=pieces if len(utterance.pieces) else utterance.pieces,
        words=utterance.words,
    )


def _waves(folder: Path) -> dict[str, list[Path]]:
    """Files by label, speakers mixed."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.flac"), key=lambda path: path.stem[::-1]):
        if path.stem[5] in EMODB:
            found.setdefault(EMODB[path.stem[5]], []).append(path)
    return found


def _wave(path: Path) -> np.ndarray:
    """[n] float32 at 16 kHz, from the loudest half of the file on."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
        frames = [part.to_ndarray()[0] for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    wave = np.concatenate(frames)
    length = int(SOUND_S * 16000)
    start = max(0, (len(wave) - length) // 2)
    return wave[start : start + length].astype(np.float32)


def _faces(folder: Path) -> dict[str, np.ndarray]:
    """[n, 48, 48, 3] by label."""
    with np.load(folder / "public_test.npz") as archive:
        images, labels = archive["images"], archive["labels"]
        names = [OTHER_NAMES.get(str(name), str(name)) for name in archive["label_names"]]
    return {name: np.repeat(images[labels == place][..., None], 3, axis=3) for place, name in enumerate(names)}


def _words(folder: Path) -> dict[str, list[str]]:
    names = [OTHER_NAMES.get(name, name) for name in (folder / "labels.txt").read_text().split()]
    found: dict[str, list[str]] = {name: [] for name in names}
    for line in (folder / "dev.tsv").read_text().splitlines():
        text, labels, _ = line.split("\t")
        if "," not in labels:
            found[names[int(labels)]].append(text)
    return found
