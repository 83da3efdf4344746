import numpy as np
import pytest
import torch

from fv2es_builders.errors import TrainingDataError
from fv2es_builders.presets import PRESETS
from fv2es_builders.training.face_augment import FaceAugment, FaceAugmentSettings, normalised
from fv2es_builders.training.faces import Faces, halves, load_faces, without_copies

LABELS = PRESETS["starter"].labels


def test_labels_are_matched_by_name(small_sets):
    faces = load_faces(small_sets / "fer2013" / "public_test.npz", LABELS)
    assert [LABELS[label] for label in faces.labels[:7]] == [
        "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise",
    ]  # fmt: skip


def test_a_file_that_is_something_else_is_refused(tmp_path):
    path = tmp_path / "faces.npz"
    with pytest.raises(TrainingDataError, match=r"not an \.npz"):
        load_faces(path, LABELS)
    np.savez(path, images=np.zeros((2, 40, 48), np.uint8), labels=np.zeros(2, int), label_names=np.array(["angry"]))
    with pytest.raises(TrainingDataError, match=r"uint8 \[2, 40, 48\]; expected uint8 \[2, 48, 48\]"):
        load_faces(path, LABELS)
    np.savez(path, images=np.zeros((2, 48, 48), np.uint8), labels=np.zeros(2, int), label_names=np.array(["bored"]))
    with pytest.raises(TrainingDataError, match="label 'bored' is none of the preset's"):
        load_faces(path, LABELS)


def test_copies_of_held_out_pictures_are_left_out():
    images = torch.arange(4, dtype=torch.uint8)[:, None, None].expand(4, 48, 48).contiguous()
    train = Faces(images=images, labels=torch.arange(4))
    left = without_copies(train, train.rows(torch.tensor([1, 3])))
    assert left.labels.tolist() == [0, 2]


def test_halves_are_disjoint_and_split_every_label(small_sets):
    faces = load_faces(small_sets / "fer2013" / "public_test.npz", LABELS)
    first, second = halves(faces, seed=0)
    assert torch.bincount(first.labels).tolist() == torch.bincount(second.labels).tolist() == [2] * 7
    known = {image.numpy().tobytes() for image in first.images}
    assert not known & {image.numpy().tobytes() for image in second.images}


def test_augmentation_follows_its_generator():
    images = torch.randint(256, (6, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    first, same, other = (FaceAugment(torch.Generator().manual_seed(seed))(images) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    low, high = normalised(torch.zeros(1, 1, 48, 48)), normalised(torch.full((1, 1, 48, 48), 255.0))
    assert first.shape == (6, 3, 48, 48)
    assert (first >= low - 1e-5).all()
    assert (first <= high + 1e-5).all()


def test_with_all_strengths_at_zero_a_face_is_at_most_mirrored():
    settings = FaceAugmentSettings(
        as_detected=0, plain_size=(1, 1), shift=0, rotation_deg=0, shear=0, tilt=0, contrast=0, brightness=0, light=0,
        blurred=0, compressed=0, noise=0, coloured=0, erased=0,
    )  # fmt: skip
    images = torch.randint(256, (8, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    augmented = FaceAugment(torch.Generator().manual_seed(0), settings)(images)
    plain = normalised(images[:, None].float())
    same = (augmented - plain).abs().amax(dim=(1, 2, 3)) < 1e-3
    mirrored = (augmented - plain.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-3
    assert (same | mirrored).all()
    assert same.any()
    assert mirrored.any()


def test_a_face_framed_as_detected_loses_its_sides():
    settings = FaceAugmentSettings(
        as_detected=1, detected_width=(0.5, 0), detected_height=(1, 0), shift=0, rotation_deg=0, shear=0, tilt=0,
        contrast=0, brightness=0, light=0, blurred=0, compressed=0, noise=0, coloured=0, erased=0,
    )  # fmt: skip
    image = torch.zeros(1, 48, 48, dtype=torch.uint8)
    image[:, :, :10] = image[:, :, -10:] = 255
    augmented = FaceAugment(torch.Generator().manual_seed(0), settings)(image)
    assert torch.allclose(augmented, normalised(torch.zeros(1, 1, 48, 48)), atol=1e-4)
