"""FER2013 as arrays: grey faces and their labels."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fv2es_builders.errors import TrainingDataError
from fv2es_builders.training.labels import label_positions
from fv2es_pipelines import constants


@dataclass(frozen=True, kw_only=True, slots=True)
class Faces:
    """Grey faces with one label each."""

    images: Tensor
    """[N, 48, 48] uint8."""
    labels: Tensor
    """[N] int64, positions among the preset's labels."""

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Tensor) -> "Faces":
        """Some of them: index [n] int64."""
        return Faces(images=self.images[index], labels=self.labels[index])


def load_faces(path: Path, labels: Sequence[str]) -> Faces:
    """Faces of an .npz with `images` uint8 [N, 48, 48], `labels` [N] and `label_names`.

    Raises:
        TrainingDataError: the file can't be read, or does not hold that.
    """
    try:
        with np.load(path) as archive:
            images, own, names = archive["images"], archive["labels"], archive["label_names"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise TrainingDataError(path, f"not an .npz with images, labels, label_names ({error})") from error
    side = constants.FACE_SIZE_PX
    if images.dtype != np.uint8 or images.shape != (len(own), side, side):
        raise TrainingDataError(
            path, f"images are {images.dtype} {list(images.shape)}; expected uint8 [{len(own)}, {side}, {side}]"
        )
    positions = label_positions([str(name) for name in names], labels, source=path)
    return Faces(images=torch.from_numpy(images), labels=torch.from_numpy(positions[own.astype(np.int64)]))


def without_copies(faces: Faces, held_out: Faces) -> Faces:
    """Those faces whose picture is not also, byte for byte, among the held-out ones: FER2013 repeats pictures."""
    known = {image.tobytes() for image in held_out.images.numpy()}
    keep = [index for index, image in enumerate(faces.images.numpy()) if image.tobytes() not in known]
    return faces.rows(torch.tensor(keep))


def halves(faces: Faces, *, seed: int) -> tuple[Faces, Faces]:
    """Two disjoint halves, every label split evenly: one to choose and calibrate by, one to report."""
    generator = torch.Generator().manual_seed(seed)
    first, second = [], []
    for label in range(int(faces.labels.max()) + 1):
        rows = torch.nonzero(faces.labels == label)[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)]
        first.append(rows[::2])
        second.append(rows[1::2])
    return faces.rows(torch.cat(first)), faces.rows(torch.cat(second))
