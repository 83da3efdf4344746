"""Fusion of branches that were trained on sets of their own: no set has all three, so utterances are put together.

An utterance with label c gets, for each modality, an answer of that branch to a validation sample with label c. Real ones agree
less: faces rest while words rage. So a share of the answers, larger for branches whose data are further from films, is taken from
samples of any label, and a share is absent. What is found is how much to trust each branch, three numbers, and base rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from fv2es_builders.errors import TrainingError
from fv2es_builders.presets import MODALITIES
from fv2es_builders.training.scores import (
    Matrix,
    accuracy,
    label_calibration_error,
    top_calibration_error,
    unweighted_recall,
)

LIKELIEST_SHARE: Final = 2.0
"""Weight of the likeliest label's cross-entropy beside the sum over all labels: it is the one that people are shown. Without it that
label's probabilities were 0.05 too low on average, as the largest of seven that are each right on their own."""

_ROUNDS: Final = 6
"""Searches with the likeliest labels of the one before; the weights moved by less than 0.001 in the last of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one branch says about validation data."""

    evidence: Matrix
    """[N, C] logits as served."""
    targets: Matrix
    """[N, C]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSettings:
    """How utterances are put together. Shares lie in [0, 1)."""

    num: int = 40_000
    stray: Mapping[str, float] = field(default_factory=lambda: {"text": 0.35, "visual": 0.25, "acoustic": 0.45})
    """Share of answers that belong to a sample of any label. Assumed, not measured: no set here has all three modalities;
    comments are not speech, and acted German sentences are furthest from films."""
    absent: float = 0.2
    """Share of answers that are absent."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PairFusion:
    """What fusion needs."""

    weights: tuple[float, ...]
    """One for each modality, in the model's order; >= 0."""
    pos_weight: tuple[float, ...]
    """One for each label: the fused sigmoid s becomes the probability s / (s + w (1 - s))."""


def fused_from_pairs(
    answers: Mapping[str, Answers], *, num_labels: int, settings: PairSettings | None = None
) -> PairFusion:
    """Weights and base rates with the least cross-entropy on utterances that are put together.

    Raises:
        TrainingError: a modality's answers are missing.
    """
    stacked, targets = _put_together(answers, num_labels, settings or PairSettings())
    weights, shift = _least(torch.from_numpy(stacked).double(), torch.from_numpy(targets).double())
    return PairFusion(weights=tuple(weights.tolist()), pos_weight=tuple(shift.exp().tolist()))


def pair_scores(
    fusion: PairFusion, answers: Mapping[str, Answers], *, settings: PairSettings | None = None
) -> Mapping[str, float]:
    """What a fusion is worth on utterances that are put together: how well that stands for films is not known.

    Args:
        fusion: to be judged.
        answers: best to data that it was not found on.
        settings: best with another seed than it was found with.

    Raises:
        TrainingError: a modality's answers are missing.
    """
    own = settings or PairSettings()
    stacked, targets = _put_together(answers, len(fusion.pos_weight), own)
    logits = np.einsum("m,umc->uc", np.array(fusion.weights), stacked) - np.log(fusion.pos_weight)
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return {
        "rows": len(targets),
        "accuracy": accuracy(probabilities, targets),
        "uar": unweighted_recall(probabilities, targets),
        "ece_top": top_calibration_error(probabilities, targets),
        "ece_labels": label_calibration_error(probabilities, targets),
    }


def _put_together(answers: Mapping[str, Answers], num_labels: int, settings: PairSettings) -> tuple[Matrix, Matrix]:
    """Logits [U, 3, C] and targets [U, C] of utterances, as many of each label."""
    missing = [name for name in MODALITIES if name not in answers]
    if missing:
        raise TrainingError(f"no answers of {', '.join(missing)}; train these branches first")
    chance = np.random.default_rng(settings.seed)
    labels = np.arange(settings.num) % num_labels
    drawn = [_drawn(answers[name], labels, settings.stray[name], settings.absent, chance) for name in MODALITIES]
    return np.stack(drawn, 1), np.eye(num_labels, dtype=np.float32)[labels]


def _drawn(
    answers: Answers, labels: npt.NDArray[np.intp], stray: float, absent: float, chance: np.random.Generator
) -> Matrix:
    """An answer to a sample of each label: float32 [U, C]. Any sample where the branch's data lack the label."""
    rows = chance.integers(len(answers.targets), size=len(labels))
    for label in np.unique(labels):
        having = np.flatnonzero(answers.targets[:, label] > 0)
        places = np.flatnonzero((labels == label) & (chance.random(len(labels)) >= stray))
        if len(having):
            rows[places] = having[chance.integers(len(having), size=len(places))]
    present = chance.random(len(labels)) >= absent
    drawn: Matrix = answers.evidence[rows] * present[:, None].astype(np.float32)
    return drawn


def _least(stacked: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [3] and shifts [C] for logits [U, 3, C]."""
    raw = torch.zeros(len(MODALITIES), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(targets.shape[1], dtype=torch.float64, requires_grad=True)
    for _ in range(_ROUNDS):
        likeliest = _fused(raw, shift, stacked).detach().argmax(dim=1, keepdim=True)
        _search(raw, shift, stacked, targets, likeliest)
    return functional.softplus(raw).detach(), shift.detach()


def _fused(raw: Tensor, shift: Tensor, stacked: Tensor) -> Tensor:
    return (functional.softplus(raw)[:, None] * stacked).sum(dim=1) - shift


def _search(raw: Tensor, shift: Tensor, stacked: Tensor, targets: Tensor, likeliest: Tensor) -> None:
    """Move weights and shifts to where the loss is least, while the likeliest labels [U, 1] stay what they are."""
    search = torch.optim.LBFGS([raw, shift], max_iter=200, line_search_fn="strong_wolfe")
    loss_of = functional.binary_cross_entropy_with_logits

    def closure() -> Tensor:
        search.zero_grad()
        fused = _fused(raw, shift, stacked)
        loss = targets.shape[1] * loss_of(fused, targets)
        loss = loss + LIKELIEST_SHARE * loss_of(fused.gather(1, likeliest), targets.gather(1, likeliest))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    search.step(closure)  # type: ignore[no-untyped-call]
