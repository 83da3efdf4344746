"""Scores against values found by hand."""

import numpy as np
import pytest

from benchmarks.accuracy.branch import Branch
from benchmarks.accuracy.measure import scores_of_answers
from benchmarks.accuracy.scores import (
    accuracy,
    always_commonest,
    as_numbers,
    calibration_error,
    calibration_error_by_chance,
    call_scores,
    confusion,
    label_calibration_error,
    likeliest,
    reliability,
)


def one_hot(numbers: list[int], num_labels: int = 3) -> np.ndarray:
    return np.eye(num_labels, dtype=bool)[numbers]


TARGETS = one_hot([0, 0, 0, 1])
PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.6, 0.7, 0.0], [0.5, 0.1, 0.8], [0.2, 0.3, 0.1]])
"""Called 0, 1, 2, 1: right, wrong, wrong (by a label without rows), right."""


def test_one_label_a_row():
    called = likeliest(PROBABILITIES)
    scores = call_scores(called, TARGETS)
    assert accuracy(called, TARGETS) == 0.5
    # Label 0: one of three rows, one call. Label 1: its one row, two calls. Label 2 has no row and is in no mean.
    assert as_numbers(scores.recall) == [pytest.approx(1 / 3), 1.0, None]
    assert as_numbers(scores.f1) == [pytest.approx(2 / 4), pytest.approx(2 / 3), None]
    assert scores.unweighted_recall == pytest.approx(2 / 3)
    assert scores.macro_f1 == pytest.approx(7 / 12)
    assert confusion(PROBABILITIES, TARGETS).tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]


def test_several_labels_a_row():
    targets = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], bool)
    probabilities = np.array([[0.3, 0.6, 0.1], [0.8, 0.4, 0.2], [0.1, 0.2, 0.9]])
    called = likeliest(probabilities)
    assert accuracy(called, targets) == pytest.approx(2 / 3)  # 1 is one of the first row's labels
    assert call_scores(called, targets).recall.tolist() == [0.0, 0.5, 1.0]
    by_threshold = call_scores(probabilities >= np.array([0.25, 0.35, 0.95]), targets)
    assert by_threshold.f1.tolist() == [pytest.approx(2 / 3), 1.0, 0.0]
    assert confusion(probabilities, targets).tolist() == [
        [0, 0, 0],
        [1, 0, 0],
        [0, 0, 1],
    ]  # the first row has two labels


def test_only_rows_with_two_labels():
    assert not confusion(np.array([[0.9, 0.1]]), np.array([[True, True]])).any()


def test_one_row():
    targets = one_hot([2])
    called = likeliest(np.array([[0.1, 0.2, 0.3]]))
    scores = call_scores(called, targets)
    assert (accuracy(called, targets), scores.unweighted_recall, scores.macro_f1) == (1.0, 1.0, 1.0)


def test_of_equal_ones_the_first():
    assert likeliest(np.array([[0.2, 0.5, 0.5], [0.0, 0.0, 0.0]])).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert always_commonest(one_hot([2, 1])).tolist() == [[0, 1, 0], [0, 1, 0]]


def test_trivial_baseline():
    called = always_commonest(TARGETS)
    scores = call_scores(called, TARGETS)
    assert accuracy(called, TARGETS) == 0.75
    assert scores.unweighted_recall == 0.5
    assert scores.macro_f1 == pytest.approx((2 * 3 / 7 + 0) / 2)


def test_calibration_error():
    confidence = np.array([0.95, 0.95, 0.51, 1.0])
    right = np.array([True, False, True, True])
    # Bins of 1/15: 0.95, 0.95 and 1.0 share the last one.
    assert calibration_error(confidence, right) == pytest.approx((abs(2.9 - 2) + abs(0.51 - 1)) / 4)
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0
    bins = reliability(confidence, right)
    assert len(bins) == 15
    assert (bins[-1].num_rows, bins[-1].end) == (3, 1.0)
    assert (bins[-1].confidence, bins[-1].right) == (pytest.approx(2.9 / 3), pytest.approx(2 / 3))
    assert (bins[0].num_rows, bins[0].confidence, bins[0].right) == (0, None, None)


def test_calibration_error_of_labels():
    probabilities = np.array([[0.9, 0.0], [0.9, 0.0]])
    targets = np.array([[True, False], [True, False]])
    assert label_calibration_error(probabilities, targets) == pytest.approx((0.1 + 0) / 2)


def test_calibration_error_by_chance():
    # One row of confidence p errs by 1 - p with chance p, else by p: 2 p (1 - p) in the mean.
    assert calibration_error_by_chance(np.array([0.8])) == pytest.approx(0.32, abs=0.03)
    # n rows in one bin: the mean distance of a binomial share from its expectation, sqrt(2 p (1 - p) / (pi n)).
    many = calibration_error_by_chance(np.full(400, 0.5))
    assert many == pytest.approx(np.sqrt(0.5 / (np.pi * 400)), rel=0.1)
    assert calibration_error_by_chance(np.ones(5)) == 0


def test_even_takes_base_rates_out():
    branch = Branch(
        name="text",
        labels=("common", "unknown", "rare"),
        known=np.array([True, False, True]),
        base_rates=np.array([0.9, 0.5, 0.1]),
        thresholds=np.array([0.5, 0.5, 0.5]),
        from_manifest=True,
    )
    evidence = np.array([[1, 9, 0], [1, 9, 0], [0, 9, 1], [0, 9, 1], [0, 9, 1]], np.float32)
    targets = one_hot([0, 0, 0, 0, 1], 2)
    report = scores_of_answers(branch, evidence=evidence, fused=evidence / 10, targets=targets, one_label=True)
    # The base rates' ln 81 between the two outweighs all evidence: always common.
    assert (report["accuracy"], report["uar"], report["macro_f1"]) == (0.8, 0.5, pytest.approx((8 / 9 + 0) / 2))
    # Without them the last three rows are called rare.
    assert report["even"] == {"accuracy": 0.6, "uar": 0.75, "macro_f1": pytest.approx((2 / 3 + 1 / 2) / 2)}
