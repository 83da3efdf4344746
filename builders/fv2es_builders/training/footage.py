"""Utterances made ready for the model: face pictures, waves, tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from fv2es_builders.errors import TrainingDataError
from fv2es_builders.training.speech import read_wave
from fv2es_builders.training.text import token_rows
from fv2es_builders.training.utterances import Utterance
from fv2es_pipelines import constants
from fv2es_pipelines.faces import centre_crop, face_crop
from fv2es_pipelines.mtcnn import ArrayPicture, Detector


@dataclass(frozen=True, kw_only=True, slots=True)
class Footage:
    """One utterance as the model takes it."""

    faces: Tensor
    """[n, 48, 48, 3] uint8 RGB, n >= 0."""
    wave: Tensor | None
    """[n] float32, 16 kHz; None: no sound."""
    tokens: tuple[int, ...]
    """Token numbers, special ones included; empty: no words."""
    targets: Tensor
    """[C] float32."""


def read_footage(
    utterances: Sequence[Utterance], *, detector: Detector, tokenizer: Tokenizer, cache: Path
) -> list[Footage]:
    """Read, detect, tokenise. Faces are kept in `cache`, one file for each utterance, and not looked for twice.

    Raises:
        TrainingDataError: a picture or a wave can't be decoded.
    """
    cache.mkdir(parents=True, exist_ok=True)
    tokens = token_rows(tokenizer, [own.words for own in utterances], constants.MAX_TOKENS)
    return [
        Footage(
            faces=torch.from_numpy(_faces(own, detector, cache / f"{own.name}.npy")),
            wave=None if own.sound is None else torch.from_numpy(read_wave(own.sound)),
            tokens=tuple(row) if own.words.strip() else (),
            targets=torch.tensor(own.targets),
        )
        for own, row in zip(utterances, tokens, strict=True)
    ]


def _faces(utterance: Utterance, detector: Detector, path: Path) -> npt.NDArray[np.uint8]:
    """The largest face of each picture, its true centre where there is none: uint8 [n, 48, 48, 3]."""
    if path.is_file():
        known: npt.NDArray[np.uint8] = np.load(path)
        return known
    side = constants.FACE_SIZE_PX
    pictures = [ArrayPicture(_rgb(own)) for own in utterance.pictures]
    crops = [
        centre_crop(picture) if face is None else face_crop(picture, face)
        for picture, face in zip(pictures, detector.largest_faces(pictures), strict=True)
    ]
    faces = np.stack(crops) if crops else np.zeros((0, side, side, 3), np.uint8)
    np.save(path, faces)
    return faces


def _rgb(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            picture = frame.to_ndarray(format="rgb24").astype(np.uint8)
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise TrainingDataError(path, f"not a picture that can be decoded ({error})") from error
    return picture
