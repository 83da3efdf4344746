import random

import pytest
import torch

from fv2es_builders.errors import TrainingDataError
from fv2es_builders.presets import PRESETS
from fv2es_builders.training.comments import comment_halves, load_comments
from fv2es_builders.training.text import padded
from fv2es_builders.training.text_augment import augmented, spoken

LABELS = PRESETS["starter"].labels


def test_labels_are_matched_by_name_and_may_be_several(tmp_path):
    (tmp_path / "labels.txt").write_text("joy\nsadness\n")
    (tmp_path / "train.tsv").write_text("so it goes\t0,1\tx1\nhurray\t0\tx2\n")
    comments = load_comments(tmp_path / "train.tsv", LABELS)
    assert comments.texts == ("so it goes", "hurray")
    held = [[LABELS[label] for label in torch.nonzero(row)[:, 0]] for row in comments.targets]
    assert held == [["happiness", "sadness"], ["happiness"]]


@pytest.mark.parametrize("line", ["no tabs", "text\t2\tid", "text\tjoy\tid", "text\t0\tid\tmore"])
def test_lines_of_another_kind_are_refused(tmp_path, line):
    (tmp_path / "labels.txt").write_text("joy\nsadness\n")
    (tmp_path / "train.tsv").write_text(f"fine\t0\tx\n{line}\n")
    with pytest.raises(TrainingDataError, match="line 2 is"):
        load_comments(tmp_path / "train.tsv", LABELS)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(TrainingDataError, match=r"train\.tsv: can't be read"):
        load_comments(tmp_path / "train.tsv", LABELS)


def test_halves_are_disjoint_and_whole(small_sets):
    comments = load_comments(small_sets / "goemotions_ekman" / "dev.tsv", LABELS)
    first, second = comment_halves(comments, seed=0)
    assert sorted(first.texts + second.texts) == sorted(comments.texts)
    assert len(first) == len(second) == 14


def test_speech_recognition_writes_no_signs():
    assert spoken("WOW!! It's 5 o'clock, [NAME]... :)") == "wow it's 5 o'clock"
    assert spoken("?!") == "?!"


def test_augmented_words_follow_their_generator_and_lose_placeholders():
    text = "Well, [NAME] isn't here!"
    runs = [[augmented(text, random.Random(seed)) for seed in range(40)] for _ in range(2)]  # noqa: S311 - no secrets
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 10
    assert all(len(run.split()) >= 2 for run in runs[0])
    assert sum("[NAME]" in run for run in runs[0]) < 20


def test_padding_is_masked():
    ids, mask = padded([(5, 6, 7), (8,)])
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
