"""Logits made to mean something: log-odds after calibration, evidence for or against each label after removing its base rate.

A branch's logit l is replaced by a * l + b[label], with a and b from validation data, so that sigmoid(a * l + b) is the
probability that the label holds in such data (Platt 1999, one slope for all labels). Then ln w is added, w = (1 - base rate) /
base rate: zero now means "nothing learnt", which is what an absent branch adds to the fusion, and the base rates of one data
set don't leak into another's films. The probability is again sigmoid(logit - ln w), as with pos_weight = w in training.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from fv2es_builders.training.scores import Matrix

_RIDGE = 1e-3
"""Pull of offsets towards 0, per row: keeps them finite for labels with few rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What one branch's logits go through."""

    slope: float
    offsets: tuple[float, ...]
    """b, one for each label."""
    pos_weight: tuple[float, ...]
    """w, one for each label: what its base rate in the validation data gives; 1 for a label that is not known."""
    known: tuple[bool, ...]
    """Labels that the data have. The others' logits are 0: the branch says nothing about them."""

    def evidence(self, logits: Matrix) -> Matrix:
        """Logits as trained -> logits as served: float32 [N, C] both."""
        shift = np.array(self.offsets) + np.log(self.pos_weight)
        served: Matrix = np.where(self.known, self.slope * logits + shift, 0.0).astype(np.float32)
        return served

    def probabilities(self, evidence: Matrix) -> Matrix:
        """Logits as served -> probabilities in data with the same base rates; 0 for labels that are not known."""
        odds = 1 / (1 + np.exp(np.log(self.pos_weight) - evidence))
        result: Matrix = np.where(self.known, odds, 0.0).astype(np.float32)
        return result

    @torch.no_grad()
    def fold(self, layer: nn.Linear) -> None:
        """Change the layer that makes the logits so that it makes them as served."""
        known = torch.tensor(self.known)
        shift = torch.tensor(self.offsets) + torch.tensor(self.pos_weight).log()
        layer.weight.copy_(torch.where(known[:, None], layer.weight * self.slope, 0.0))
        layer.bias.copy_(torch.where(known, layer.bias * self.slope + shift, 0.0))

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")


def calibrated(logits: Matrix, targets: Matrix, *, known: Sequence[bool]) -> Calibration:
    """The slope and offsets with the least cross-entropy on validation data.

    Args:
        logits: [N, C] as trained.
        targets: [N, C], 1 where the label holds.
        known: [C], labels that the data have.
    """
    columns = np.flatnonzero(known)
    own_logits, own_targets = (
        torch.from_numpy(logits[:, columns]).double(),
        torch.from_numpy(targets[:, columns]).double(),
    )
    slope, offsets = _least(own_logits, own_targets)
    rates = (targets.sum(axis=0) + 0.5) / (len(targets) + 1)
    all_offsets: npt.NDArray[np.float64] = np.zeros(len(known))
    all_offsets[columns] = offsets.numpy()
    weights = np.where(known, (1 - rates) / rates, 1.0)
    return Calibration(
        slope=float(slope),
        offsets=tuple(all_offsets.tolist()),
        pos_weight=tuple(weights.tolist()),
        known=tuple(bool(own) for own in known),
    )


def _least(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    log_slope = torch.zeros((), dtype=torch.float64, requires_grad=True)
    offsets = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([log_slope, offsets], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(log_slope.exp() * logits + offsets, targets)
        loss = loss + _RIDGE * offsets.square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    search.step(closure)  # type: ignore[no-untyped-call]
    return log_slope.detach().exp(), offsets.detach()
