"""What answers are judged by. Probabilities are float64 [N, C]; targets bool [N, C], true where the label holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, f1_score, recall_score

Probabilities = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

NUM_BINS: Final = 15
"""Bins of the calibration error. Source: Guo et al. 2017, On Calibration of Modern Neural Networks."""
CHANCE_DRAWS: Final = 1000
"""Simulated data sets from which the calibration error by chance is averaged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallScores:
    """How good yes/no answers are. Labels without a row have no recall and no F1: NaN; they are in no mean."""

    recall: npt.NDArray[np.float64]
    """[C], share of a label's rows that are called by it."""
    f1: npt.NDArray[np.float64]
    """[C]."""

    @property
    def unweighted_recall(self) -> float:
        """Mean of the recalls (UAR)."""
        return float(np.nanmean(self.recall))

    @property
    def macro_f1(self) -> float:
        """Mean of the F1."""
        return float(np.nanmean(self.f1))


def call_scores(called: Flags, targets: Flags) -> CallScores:
    """Scores of the answers `called` [N, C]; C >= 2, at least one target holds."""
    occurs = targets.any(axis=0)  # [C]
    recall = recall_score(targets, called, average=None, zero_division=np.nan)
    f1 = f1_score(targets, called, average=None, zero_division=0.0)
    return CallScores(recall=np.where(occurs, recall, np.nan), f1=np.where(occurs, f1, np.nan))


def likeliest(probabilities: Probabilities) -> Flags:
    """[N, C], true at each row's likeliest label, or the one with the most evidence; of equal ones at the first."""
    called: Flags = probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])
    return called


def accuracy(called: Flags, targets: Flags) -> float:
    """Share of rows whose one called label holds."""
    return float((called & targets).any(axis=1).mean())


def always_commonest(targets: Flags) -> Flags:
    """[N, C], the trivial answers: the label of the most rows, whatever the row; of equal ones the first."""
    called = np.zeros_like(targets)
    called[:, targets.sum(axis=0).argmax()] = True
    return called


def confusion(probabilities: Probabilities, targets: Flags) -> npt.NDArray[np.int64]:
    """[C, C] counts of the rows with just one label: row the true one, column the likeliest."""
    single, num_labels = targets.sum(axis=1) == 1, targets.shape[1]
    if not single.any():
        return np.zeros((num_labels, num_labels), np.int64)
    true, called = targets[single].argmax(axis=1), probabilities[single].argmax(axis=1)
    counts: npt.NDArray[np.int64] = confusion_matrix(true, called, labels=range(num_labels))
    return counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Rows whose confidence lies in [start, end)."""

    start: float
    end: float
    num_rows: int
    confidence: float | None
    """Mean; None without rows."""
    right: float | None
    """Share that came true."""


def _bin_numbers(confidence: Probabilities) -> npt.NDArray[np.int64]:
    """[N], of equal width over [0, 1]; 1 falls into the last."""
    return np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)


def reliability(confidence: Probabilities, right: Flags) -> list[Bin]:
    """What was claimed and what came true, for each bin: confidence [N] in [0, 1], right [N]."""
    numbers = _bin_numbers(confidence)
    bins = []
    for number in range(NUM_BINS):
        own = numbers == number
        filled = bool(own.any())
        bins.append(
            Bin(
                start=number / NUM_BINS,
                end=(number + 1) / NUM_BINS,
                num_rows=int(own.sum()),
                confidence=float(confidence[own].mean()) if filled else None,
                right=float(right[own].mean()) if filled else None,
            )
        )
    return bins


def calibration_error(confidence: Probabilities, right: Flags) -> float:
    """Expected calibration error (ECE): mean gap between confidence [N] and share of right [N], over the bins."""
    gaps = np.bincount(_bin_numbers(confidence), weights=confidence - right, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def calibration_error_by_chance(confidence: Probabilities, *, seed: int = 0) -> float:
    """The mean calibration error where each confidence [N] is exactly the chance of being right: above 0 in small sets."""
    numbers, rng = _bin_numbers(confidence), np.random.default_rng(seed)
    errors = []
    for _ in range(CHANCE_DRAWS):
        right = rng.random(len(confidence)) < confidence
        gaps = np.bincount(numbers, weights=confidence - right, minlength=NUM_BINS)
        errors.append(np.abs(gaps).sum() / len(confidence))
    return float(np.mean(errors))


def label_calibration_error(probabilities: Probabilities, targets: Flags) -> float:
    """Mean over labels of the calibration error of "this label holds"."""
    return float(np.mean([calibration_error(probabilities[:, c], targets[:, c]) for c in range(targets.shape[1])]))


def as_numbers(values: npt.NDArray[np.float64]) -> Sequence[float | None]:
    """For JSON, which has no NaN: None instead."""
    return [None if np.isnan(value) else float(value) for value in values]
