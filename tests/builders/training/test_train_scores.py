import numpy as np
import pytest

from fv2es_builders.training import scores

TARGETS = np.eye(3, dtype=np.float32)[[0, 0, 0, 1]]
"""Three rows of label 0, one of label 1, none of label 2."""
ANSWERS = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1]], np.float32)


def test_accuracy_and_recalls():
    assert scores.accuracy(ANSWERS, TARGETS) == 0.75
    assert scores.recalls(ANSWERS, TARGETS) == pytest.approx([2 / 3, 1, np.nan], nan_ok=True)
    assert scores.unweighted_recall(ANSWERS, TARGETS) == pytest.approx(5 / 6)


def test_f1_counts_both_kinds_of_errors():
    called = np.array([[True, True], [True, False], [False, False]])
    targets = np.array([[1, 0], [0, 0], [1, 0]], np.float32)
    assert scores.f1_by_label(called, targets) == pytest.approx([0.5, 0])


def test_thresholds_are_those_with_the_best_f1():
    probabilities = np.array([[0.1], [0.2], [0.3], [0.9]], np.float32)
    targets = np.array([[0], [0], [1], [1]], np.float32)
    threshold = scores.best_thresholds(probabilities, targets)
    assert 0.2 < threshold[0] <= 0.3
    assert scores.f1_by_label(probabilities >= threshold, targets) == pytest.approx([1])


def test_calibration_error_is_the_gap_weighted_by_rows():
    confidence = np.array([0.95, 0.95, 0.95, 0.95, 0.05], np.float32)
    right = np.array([True, True, True, False, False])
    assert scores.calibration_error(confidence, right) == pytest.approx(4 / 5 * 0.2 + 1 / 5 * 0.05)
    assert scores.calibration_error(np.array([1.0], np.float32), np.array([True])) == 0


def test_calibration_errors_of_top_and_of_labels():
    assert scores.top_calibration_error(TARGETS, TARGETS) == 0
    assert scores.top_calibration_error(ANSWERS, TARGETS) == pytest.approx((abs(0.7 + 0.7 - 1) + 0.4 + 0.2) / 4)
    assert scores.label_calibration_error(1 - TARGETS, TARGETS) == pytest.approx(1)
