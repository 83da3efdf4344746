"""What a branch is judged by. Probabilities and targets are float32 [N, C]; a target is 1 where the label holds."""

from typing import Final

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

NUM_BINS: Final = 15
"""Bins of the calibration error. Source: Guo et al. 2017, On Calibration of Modern Neural Networks."""


def accuracy(probabilities: Matrix, targets: Matrix) -> float:
    """Share of rows whose likeliest label holds."""
    likeliest = probabilities.argmax(axis=1)
    return float(targets[np.arange(len(targets)), likeliest].mean())


def recalls(probabilities: Matrix, targets: Matrix) -> npt.NDArray[np.float64]:
    """Of each label the share of its rows that are called by it, NaN where it has no row: float64 [C]."""
    called = probabilities.argmax(axis=1)[:, None] == np.arange(targets.shape[1])  # [N, C]
    rows = targets.sum(axis=0)
    right = (called & (targets > 0)).sum(axis=0)
    return np.divide(right, rows, out=np.full(len(rows), np.nan), where=rows > 0)


def unweighted_recall(probabilities: Matrix, targets: Matrix) -> float:
    """Mean of the recalls of the labels that occur (UAR): chance is one over their number."""
    return float(np.nanmean(recalls(probabilities, targets)))


def f1_by_label(called: npt.NDArray[np.bool_], targets: Matrix) -> npt.NDArray[np.float64]:
    """F1 of each label from yes/no answers [N, C]: float64 [C]; 0 where a label is never right."""
    holds = targets > 0
    right = (called & holds).sum(axis=0)
    scores: npt.NDArray[np.float64] = 2 * right / np.maximum(called.sum(axis=0) + holds.sum(axis=0), 1)
    return scores


def best_thresholds(probabilities: Matrix, targets: Matrix) -> npt.NDArray[np.float64]:
    """For each label the threshold in 0.05, 0.06 ... 0.95 with the best F1; to be found on validation data: float64 [C]."""
    grid = np.arange(5, 96) / 100
    scores = np.stack([f1_by_label(probabilities >= threshold, targets) for threshold in grid])  # [91, C]
    best: npt.NDArray[np.float64] = grid[scores.argmax(axis=0)]
    return best


def calibration_error(confidence: npt.NDArray[np.float32], right: npt.NDArray[np.bool_]) -> float:
    """Expected calibration error (ECE): mean gap between confidence and share that is right, over bins of equal width.

    Args:
        confidence: [N] in [0, 1].
        right: [N], what came true.
    """
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def top_calibration_error(probabilities: Matrix, targets: Matrix) -> float:
    """`calibration_error` of each row's likeliest label."""
    likeliest = probabilities.argmax(axis=1)
    rows = np.arange(len(targets))
    return calibration_error(probabilities[rows, likeliest], targets[rows, likeliest] > 0)


def label_calibration_error(probabilities: Matrix, targets: Matrix) -> float:
    """Mean over labels of `calibration_error` of "this label holds"."""
    errors = [calibration_error(probabilities[:, c], targets[:, c] > 0) for c in range(targets.shape[1])]
    return float(np.mean(errors))
