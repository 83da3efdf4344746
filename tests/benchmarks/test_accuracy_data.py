"""Labelled data in their own forms, good and bad."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy.branch import Branch, branch_from_manifest
from benchmarks.accuracy.data import read_comments, read_faces, read_speech
from benchmarks.accuracy.errors import DataNotFound, EmptyData, RepeatedLabels, UnknownLabels, WrongFormat
from benchmarks.accuracy.labels import label_positions
from benchmarks.accuracy.measure import known_rows
from fv2es.errors import ModelUnavailable, UsageError

STARTER = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
GREY = np.zeros((2, 48, 48), np.uint8)


def save(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)
    return path


def test_faces(faces_file: Path):
    data = read_faces(faces_file)
    assert read_faces(faces_file.parent).path == faces_file  # the folder's only archive
    assert (len(data.rows), data.rows[0].shape, data.one_label) == (6, (48, 48), True)
    assert data.label_names[int(data.targets[2].argmax())] == "happy"
    assert data.targets.sum(axis=1).tolist() == [1] * 6
    assert data.sha256 == hashlib.sha256(faces_file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"images": GREY}, WrongFormat, "not an .npz with images, labels and label_names"),
        ({"images": GREY, "labels": np.array(["a", None], object), "label_names": ["a"]}, WrongFormat, "allow_pickle"),
        ({"images": GREY.astype(float), "labels": [0, 0], "label_names": ["a"]}, WrongFormat, "images are float64"),
        ({"images": GREY[:, 1:], "labels": [0, 0], "label_names": ["a"]}, WrongFormat, r"uint8 \[2, 47, 48\]"),
        ({"images": GREY, "labels": [0], "label_names": ["a"]}, WrongFormat, r"labels \[1\]"),
        ({"images": GREY, "labels": 0, "label_names": ["a"]}, WrongFormat, r"labels \[\]"),
        ({"images": GREY, "labels": [0, 1], "label_names": ["a"]}, WrongFormat, "from 0 to 1; expected whole numbers"),
        ({"images": GREY, "labels": [0, -1], "label_names": ["a"]}, WrongFormat, "from -1 to 0"),
        ({"images": GREY, "labels": [0.5, 0], "label_names": ["a"]}, WrongFormat, "labels are float64"),
        ({"images": GREY[:0], "labels": [], "label_names": ["a"]}, EmptyData, "no faces"),
    ],
)
def test_bad_faces(arrays: dict[str, object], error: type[Exception], message: str, tmp_path: Path):
    with pytest.raises(error, match=message):
        read_faces(save(tmp_path / "faces.npz", **arrays))


def test_no_archive(tmp_path: Path):
    with pytest.raises(DataNotFound, match="No such file"):
        read_faces(tmp_path / "gone.npz")
    with pytest.raises(WrongFormat, match=r"holds no \.npz"):
        read_faces(tmp_path)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(WrongFormat, match=r"not an .npz"):
        read_faces(tmp_path)
    (tmp_path / "text.npz").write_bytes(b"")
    with pytest.raises(WrongFormat, match=r"not an .npz"):
        read_faces(tmp_path)
    (tmp_path / "other.npz").touch()
    with pytest.raises(UsageError, match=r"several \.npz \(other.npz, text.npz\); name one"):
        read_faces(tmp_path)


def test_damaged_archive(faces_file: Path, tmp_path: Path):
    path = tmp_path / "faces.npz"
    with np.load(faces_file) as archive:
        np.savez_compressed(path, **archive)
    data = bytearray(path.read_bytes())
    data[100:140] = b"\xff" * 40  # inside the compressed pictures
    path.write_bytes(data)
    with pytest.raises(WrongFormat, match=r"not an .npz"):
        read_faces(path)


def test_speech(speech_folder: Path):
    data = read_speech(speech_folder)
    assert list(data.names) == ["03a01Fa.wav", "03a02Wa.wav", "08a01Na.wav"]
    assert [data.label_names[row.argmax()] for row in data.targets] == ["happiness", "anger", "neutral"]
    assert data.left_out == {"label boredom is none of ours": 1}
    sums = subprocess.run(["sha256sum", *data.names], cwd=speech_folder, capture_output=True, check=True).stdout
    assert data.sha256 == hashlib.sha256(sums).hexdigest()


def test_speakers(speech_folder: Path):
    data = read_speech(speech_folder, speakers=["03"])
    assert list(data.names) == ["03a01Fa.wav", "03a02Wa.wav"]
    assert not data.left_out
    with pytest.raises(UsageError, match=r"--speakers 99: no file of .* is theirs; it has 03, 08"):
        read_speech(speech_folder, speakers=["03", "99"])


def test_bad_speech(tmp_path: Path):
    with pytest.raises(DataNotFound, match="no such folder"):
        read_speech(tmp_path / "gone")
    with pytest.raises(WrongFormat, match=r"neither .flac nor .wav"):
        read_speech(tmp_path)
    (tmp_path / "03a01La.wav").touch()
    with pytest.raises(EmptyData, match="all 1 files are of boredom"):
        read_speech(tmp_path)
    (tmp_path / "hello.wav").touch()
    with pytest.raises(WrongFormat, match=r"hello\.wav: expected a name of seven characters"):
        read_speech(tmp_path)


def test_comments(comments_file: Path):
    data = read_comments(comments_file)
    assert (len(data.rows), data.one_label, data.names[2]) == (5, False, "line 3 (a3)")
    assert [name for name, holds in zip(data.label_names, data.targets[2], strict=True) if holds] == [
        "anger",
        "disgust",
    ]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b"", EmptyData, "holds no lines"),
        (b"no tabs\n", WrongFormat, "line 1 is 'no tabs'"),
        (b"a\t0\tx\nb\t7\ty\n", WrongFormat, "line 2 .* label numbers below 7"),
        (b"a\t-1\tx\n", WrongFormat, "line 1"),
        (b"a\t\tx\n", WrongFormat, "line 1"),
        (b"a\t0\tx\n\n", WrongFormat, "line 2 is ''"),
        (b"\xff\t0\tx\n", WrongFormat, "not UTF-8"),
    ],
)
def test_bad_comments(text: bytes, error: type[Exception], message: str, comments_file: Path, tmp_path: Path):
    (tmp_path / "labels.txt").write_bytes((comments_file.parent / "labels.txt").read_bytes())
    (tmp_path / "dev.tsv").write_bytes(text)
    with pytest.raises(error, match=message):
        read_comments(tmp_path / "dev.tsv")


def test_comments_without_names(tmp_path: Path):
    (tmp_path / "dev.tsv").write_text("a\t0\tx\n")
    with pytest.raises(DataNotFound, match=r"labels\.txt: can't be read"):
        read_comments(tmp_path / "dev.tsv")


@pytest.mark.parametrize(
    ("read", "path", "rows"),
    [
        (read_faces, "fer2013/public_test.npz", 3589),
        (read_speech, "emodb", 350),
        (read_comments, "goemotions_ekman/dev.tsv", 5426),
    ],
)
def test_real_data(read: Callable, path: str, rows: int, shared_data: Path):
    data = read(shared_data / path)
    assert len(data.rows) == rows
    assert data.targets.any(axis=1).all()
    assert len(label_positions(data.label_names, STARTER, path=shared_data)) == len(data.label_names)


def test_labels_by_other_names():
    path = Path("data")
    assert label_positions(("sad", "joy", "angry"), STARTER, path=path) == [4, 3, 0]
    assert label_positions(("happiness", "sadness"), ("ang", "exc", "fru", "hap", "neu", "sad"), path=path) == [3, 5]
    assert label_positions(("happy", "hap"), ("hap", "happy"), path=path) == [1, 0]  # its own name goes first
    with pytest.raises(UnknownLabels, match=r"no label for fear, boredom .it has: anger, sadness") as raised:
        label_positions(("fear", "angry", "boredom"), ("anger", "sadness"), path=path)
    assert raised.value.labels == ("fear", "boredom")


@pytest.mark.parametrize(
    ("names", "repeated"),
    [
        (("angry", "sad", "angry"), ("angry", "angry")),
        (("happy", "sad", "joy"), ("happy", "joy")),
        (("happiness", "sad", "hap", "sadness"), ("happiness", "sad", "hap", "sadness")),
    ],
)
def test_names_of_one_label_are_refused(names: tuple[str, ...], repeated: tuple[str, ...]):
    with pytest.raises(RepeatedLabels, match=f"its label names {', '.join(repeated)} each means the same") as raised:
        label_positions(names, STARTER, path=Path("data"))
    assert raised.value.labels == repeated


def test_probabilities_of_a_branch():
    own = {"known": [True, False, True], "base_rates": [0.2, 0.5, 0.5], "thresholds": [0.3, 0.5, 0.6]}
    manifest = {"labels": ["a", "b", "c"], "branches": {"visual": own}}
    branch = branch_from_manifest(manifest, "visual", address="here")
    assert branch.known_labels == ("a", "c")
    evidence = np.array([[0, 0, 0], [np.log(4), 0, -1000]], np.float32)
    # No evidence leaves the base rate; ln 4 makes odds of 1:4 even.
    np.testing.assert_allclose(branch.probabilities(evidence), [[0.2, 0.5, 0.5], [0.5, 0.5, 0]], rtol=1e-6)
    other = branch_from_manifest(manifest, "text", address="here")
    assert not other.from_manifest
    assert other.known_labels == ("a", "b", "c")
    assert (other.base_rates == 0.5).all()
    assert (other.thresholds == 0.5).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"known": [True]}, "of 2 labels"),
        ({"known": [1, 1]}, "of 2 labels"),
        ({"base_rates": [0.0, 0.5]}, "above 0 and below 1"),
        ({"thresholds": [0.5, 1.0]}, "above 0 and below 1"),
        ({"thresholds": None}, "expected known, base_rates and thresholds"),
        ({"known": [True, False]}, "knows 1 labels"),
    ],
)
def test_bad_branch(change: dict[str, object], message: str):
    own = {"known": [True, True], "base_rates": [0.5, 0.5], "thresholds": [0.5, 0.5]} | change
    with pytest.raises(ModelUnavailable, match=message):
        branch_from_manifest({"labels": ["a", "b"], "branches": {"text": own}}, "text", address="here")


def branch_that_knows(*names: str) -> Branch:
    own = {"known": [label in names for label in STARTER], "base_rates": [0.5] * 7, "thresholds": [0.5] * 7}
    return branch_from_manifest({"labels": STARTER, "branches": {"text": own}}, "text", address="here")


def test_rows_of_labels_that_the_branch_does_not_know(comments_file: Path):
    data = read_comments(comments_file)  # happiness; anger; anger and disgust; neutral; sadness
    known = known_rows(data, branch_that_knows("anger", "neutral", "fear"))
    assert known.rows.tolist() == [1, 2, 3]
    assert known.targets.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]  # anger, fear, neutral: the model's order
    assert (known.num_unknown, known.num_narrowed) == (2, 1)
    with pytest.raises(EmptyData, match=r"knows no label of any of its 5 rows .it knows: fear, surprise"):
        known_rows(data, branch_that_knows("fear", "surprise"))
