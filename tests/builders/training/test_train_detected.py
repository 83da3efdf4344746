import av
import numpy as np
import torch

from fv2es_builders.training.detected import as_detected, built_detector
from fv2es_builders.training.faces import Faces


def test_a_face_is_found_and_framed_and_what_is_none_is_left_out(astronaut):
    with av.open(str(astronaut)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="gray")
    face = frame[60:252, 192:384]  # a little more than the face, see golden/make.py
    small = face.reshape(48, 4, 48, 4).mean(axis=(1, 3)).astype(np.uint8)
    faces = Faces(images=torch.from_numpy(np.stack([np.zeros_like(small), small])), labels=torch.tensor([3, 5]))
    found = as_detected(faces, built_detector())
    assert found.labels.tolist() == [5]
    assert found.images.shape == (1, 48, 48)
    assert found.images.dtype == torch.uint8
    assert not torch.equal(found.images[0], faces.images[1])
