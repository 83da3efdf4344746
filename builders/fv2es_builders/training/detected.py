"""Faces of a data set as the served detector would have cropped them from a film."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch

from fv2es_builders.detector import NETS, onnx_from_detector
from fv2es_builders.training.faces import Faces
from fv2es_pipelines.faces import face_crop
from fv2es_pipelines.mtcnn import ArrayPicture, Detector

_MARGIN_PX: Final = 12
"""Mirrored edge put round each picture: the box of a face reaches beyond pictures that are cut closely."""
_ENLARGED: Final = 3
"""Factor by which pictures are enlarged: the detector looks for faces of 20 px and more, and the box is in whole pixels."""


@cache
def built_detector() -> Detector:
    """The detector that is served, built once for this process alone."""
    with tempfile.TemporaryDirectory() as folder:
        for net in NETS:
            onnx_from_detector(net, Path(folder) / f"{net}.onnx")
        return Detector(Path(folder))


def as_detected(faces: Faces, detector: Detector) -> Faces:
    """The faces that the detector finds, cropped as it crops them; the others are left out."""
    block = np.ones((_ENLARGED, _ENLARGED), np.uint8)
    pictures = [
        ArrayPicture(np.repeat(np.kron(np.pad(image, _MARGIN_PX, mode="reflect"), block)[..., None], 3, axis=2))
        for image in faces.images.numpy()
    ]
    found = detector.largest_faces(pictures)
    rows = [row for row, face in enumerate(found) if face is not None]
    crops = [face_crop(pictures[row], face)[..., 0] for row, face in enumerate(found) if face is not None]
    images = torch.from_numpy(np.stack(crops)) if crops else faces.images[:0]
    return Faces(images=images, labels=faces.labels[rows])
