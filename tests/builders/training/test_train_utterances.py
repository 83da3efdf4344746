import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from fv2es_builders.errors import TrainingDataError
from fv2es_builders.presets import PRESETS
from fv2es_builders.training.utterances import load_iemocap, load_mosei, video_of

IEMOCAP, MOSEI = PRESETS["fv2es-iemocap"].labels, PRESETS["fv2es-mosei"].labels


def test_iemocap_speakers_are_in_one_phase_each(iemocap_folder):
    split = load_iemocap(iemocap_folder, IEMOCAP)
    sessions = {phase: {own.name[:5] for own in rows} for phase, rows in split.items()}
    assert sessions == {"train": {"Ses01", "Ses02", "Ses03"}, "valid": {"Ses04"}, "test": {"Ses05"}}
    assert sum(len(rows) for rows in split.values()) == 30


def test_the_published_split_is_there_for_comparisons(iemocap_folder):
    split = load_iemocap(iemocap_folder, IEMOCAP, published_split=True)
    assert {phase: len(rows) for phase, rows in split.items()} == {"train": 10, "valid": 10, "test": 10}
    assert {own.name[:5] for own in split["train"]} & {own.name[:5] for own in split["test"]}


def test_pictures_and_sound_are_the_speakers_own(iemocap_folder):
    rows = {own.name: own for own in load_iemocap(iemocap_folder, IEMOCAP)["train"]}
    left, right = rows["Ses01F_impro01_F000"], rows["Ses01F_impro01_M001"]
    assert [path.name for path in left.pictures] == ["image_L_0.jpg", "image_L_15.jpg", "image_L_30.jpg"]
    assert right.sound is not None
    assert right.sound.name == "audio_R.wav"
    assert right.targets == (0, 1, 0, 0, 0, 0)
    assert rows["Ses01F_impro01_M003"].pictures == ()
    assert rows["Ses01F_impro01_F004"].sound is None


@pytest.fixture
def mosei_folder(tmp_path: Path) -> Path:
    root, lists = tmp_path / "MOSEI_RAW_PROCESSED", tmp_path / "MOSEI_SPLIT"
    lists.mkdir()
    meta = {}
    for phase, names in (("train", ["a_0", "a_1"]), ("valid", ["b[0]"]), ("test", ["c_0"])):
        (lists / f"{phase}_split.txt").write_text("\n".join(names))
        for name in names:
            meta[name] = {"text": "words", "label": np.array([1, 0, 0, 1, 0, 0])}
            (root / name).mkdir(parents=True)
            for number in range(12):
                (root / name / f"image_{number}.jpg").touch()
    (root / "meta.pkl").write_bytes(pickle.dumps(meta))
    return tmp_path


def test_every_picture_of_mosei_is_taken(mosei_folder):
    (utterance, *_) = load_mosei(mosei_folder, MOSEI)["train"]
    assert [path.name for path in utterance.pictures] == [f"image_{number}.jpg" for number in range(12)]
    assert utterance.targets == (1, 0, 0, 1, 0, 0)


def test_a_video_in_two_phases_is_refused(mosei_folder):
    (mosei_folder / "MOSEI_SPLIT" / "test_split.txt").write_text("c_0\na_9\n")
    with pytest.raises(TrainingDataError, match="video 'a' is in train and in test"):
        load_mosei(mosei_folder, MOSEI)


def test_names_of_videos():
    assert [video_of(name) for name in ("-3g5yACwYnA[12]", "-3g5_yACwYnA_3", "plain")] == [
        "-3g5yACwYnA", "-3g5_yACwYnA", "plain",
    ]  # fmt: skip


class Harmful:
    """What a pickle can do."""

    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_a_pickle_that_runs_code_is_refused(mosei_folder, monkeypatch):
    monkeypatch.chdir(mosei_folder)
    (mosei_folder / "MOSEI_RAW_PROCESSED" / "meta.pkl").write_bytes(pickle.dumps({"a_0": Harmful()}))
    with pytest.raises(TrainingDataError, match="which is not plain data"):
        load_mosei(mosei_folder, MOSEI)
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"text": "words", "label": "bored"}, "has label 'bored'"),
        ({"text": "words"}, "holds no text and label of 'Ses01F_impro01_F000'"),
    ],
)
def test_entries_of_another_kind_are_refused(iemocap_folder, tmp_path, entry, said):
    shutil.copytree(iemocap_folder, tmp_path / "copy")
    path = tmp_path / "copy" / "IEMOCAP_RAW_PROCESSED" / "meta.pkl"
    meta = pickle.loads(path.read_bytes())  # noqa: S301 - written by the fixture
    path.write_bytes(pickle.dumps({**meta, "Ses01F_impro01_F000": entry}))
    with pytest.raises(TrainingDataError, match=said):
        load_iemocap(tmp_path / "copy", IEMOCAP)


def test_an_absent_folder_or_list_is_named(iemocap_folder, tmp_path):
    with pytest.raises(TrainingDataError, match=r"meta\.pkl: can't be read"):
        load_iemocap(tmp_path, IEMOCAP)
    shutil.copytree(iemocap_folder, tmp_path / "copy")
    (tmp_path / "copy" / "IEMOCAP_SPLIT" / "valid_split.txt").unlink()
    with pytest.raises(TrainingDataError, match=r"valid_split\.txt: can't be read"):
        load_iemocap(tmp_path / "copy", IEMOCAP)
