"""Fusion of branches that were trained on sets of their own: no set has all three, so utterances are put together.

An utterance with label c gets, for each modality, an answer of that branch to a validation sample with label c. Real ones agree
less: faces rest while words rage. So a share of the answers, larger for branches whose data are further from films, is taken from
samples of any label, and a share is absent. What is found is how much to trust each branch, three numbers, and base rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from fv2es_builders.errors import TrainingError
from fv2es_builders.presets import MODALITIES
from fv2es_builders.training.scores import Matrix


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
    own = settings or PairSettings()
    missing = [name for name in MODALITIES if name not in answers]
    if missing:
        raise TrainingError(f"no answers of {', '.join(missing)}; train these branches first")
    chance = np.random.default_rng(own.seed)
    labels = np.arange(own.num) % num_labels
    stacked = np.stack([_drawn(answers[name], labels, own.stray[name], own.absent, chance) for name in MODALITIES], 1)
    targets = np.eye(num_labels, dtype=np.float32)[labels]
    weights, shift = _least(torch.from_numpy(stacked).double(), torch.from_numpy(targets).double())
    return PairFusion(weights=tuple(weights.tolist()), pos_weight=tuple(shift.exp().tolist()))


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
    search = torch.optim.LBFGS([raw, shift], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        fused = (functional.softplus(raw)[:, None] * stacked).sum(dim=1) - shift
        loss = functional.binary_cross_entropy_with_logits(fused, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    search.step(closure)  # type: ignore[no-untyped-call]
    return functional.softplus(raw).detach(), shift.detach()
