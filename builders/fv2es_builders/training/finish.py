"""From a branch's kept weights to those a build takes, with calibration and a report on data not calibrated by."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.torch import save_file
from torch import Tensor, nn

from fv2es_builders.errors import TrainingError
from fv2es_builders.presets import MODALITIES
from fv2es_builders.trained import BranchFacts, TrainedFacts
from fv2es_builders.training.calibrate import Calibration, calibrated
from fv2es_builders.training.pairs import PairFusion
from fv2es_builders.training.scores import (
    Matrix,
    accuracy,
    best_thresholds,
    f1_by_label,
    label_calibration_error,
    recalls,
    top_calibration_error,
    unweighted_recall,
)

WEIGHTS_FILE: Final = "weights.safetensors"
"""The branch's parameters under the model's names, calibration folded in."""
CALIBRATION_FILE: Final = "calibration.json"
REPORT_FILE: Final = "report.json"
CHOOSE_FILE: Final = "choose.npz"
"""Logits as trained and as served, and targets, of the data calibrated by: what the fusion of separately trained branches is found on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """Logits as trained and what holds, on some data."""

    logits: Matrix
    """[N, C]."""
    targets: Matrix
    """[N, C]."""


def judged_before(folder: Path) -> Judged:
    """What an earlier run was calibrated by, from its output folder.

    Raises:
        TrainingError: the folder holds no finished run.
    """
    try:
        with np.load(folder / CHOOSE_FILE) as kept:
            return Judged(logits=kept["logits"], targets=kept["targets"])
    except (OSError, KeyError) as error:
        raise TrainingError(f"{folder}: holds no finished run ({error}); give the output of one") from error


def facts_before(folder: Path) -> BranchFacts:
    """What an earlier run found out about its branch, from its output folder.

    Raises:
        TrainingError: the folder holds no finished run.
    """
    try:
        calibration = json.loads((folder / CALIBRATION_FILE).read_text(encoding="utf-8"))
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        return BranchFacts(
            known=tuple(calibration["known"]),
            base_rates=tuple(round(1 / (1 + weight), 6) for weight in calibration["pos_weight"]),
            thresholds=tuple(report["thresholds"]),
        )
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"{folder}: holds no finished run ({error}); give the output of one") from error


def fusion_before(folder: Path) -> PairFusion | None:
    """What an earlier run on the fusion of separately trained branches found; None: the folder is that of a branch.

    Raises:
        TrainingError: the folder holds no finished run.
    """
    try:
        calibration = json.loads((folder / CALIBRATION_FILE).read_text(encoding="utf-8"))
        if "weights" not in calibration:
            return None
        return PairFusion(
            weights=tuple(float(calibration["weights"][name]) for name in MODALITIES),
            pos_weight=tuple(map(float, calibration["pos_weight"])),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder}: holds no finished run ({error}); give the output of one") from error


def joined(parts: Sequence[Judged]) -> Judged:
    """Rows of several runs one after the other."""
    return Judged(
        logits=np.concatenate([part.logits for part in parts]), targets=np.concatenate([part.targets for part in parts])
    )


def finish(
    module: nn.Module,
    out: nn.Linear,
    folder: Path,
    *,
    labels: Sequence[str],
    known: Sequence[bool],
    choose: Judged,
    report: Mapping[str, Judged],
    dropped: Sequence[str] = ("probe.",),
) -> dict[str, Any]:
    """Calibrate on one part of the data, fold that into the weights, score on the others, write all of it down.

    Args:
        module: the branch, with its kept weights; changed in place.
        out: its layer that makes the logits.
        folder: gets `weights.safetensors`, `calibration.json`, `choose.npz` and `report.json`.
        labels: the preset's.
        known: [C], labels that the data have.
        choose: what thresholds and calibration are found on.
        report: what is scored, by name; nothing is found on it.
        dropped: beginnings of parameter names that only training has.

    Returns:
        The report.
    """
    calibration = calibrated(choose.logits, choose.targets, known=known)
    probabilities = calibration.probabilities(calibration.evidence(choose.logits))
    thresholds = best_thresholds(probabilities, choose.targets)
    np.savez(
        folder / CHOOSE_FILE,
        logits=choose.logits,
        evidence=calibration.evidence(choose.logits),
        targets=choose.targets,
        known=np.array(calibration.known),
    )
    scores = {
        name: branch_scores(calibration, own, thresholds, labels) for name, own in {"choose": choose, **report}.items()
    }
    calibration.fold(out)
    weights = {
        name: tensor.detach().float().contiguous().clone()
        for name, tensor in module.state_dict().items()
        if tensor.dtype.is_floating_point and not name.startswith(tuple(dropped))
    } | {name: tensor for name, tensor in module.state_dict().items() if name.endswith("num_batches_tracked")}
    save_weights(folder / WEIGHTS_FILE, weights)
    calibration.save(folder / CALIBRATION_FILE)
    result = {
        "labels": list(labels),
        "known": [bool(own) for own in known],
        "thresholds": np.round(thresholds, 2).tolist(),
        "scores": scores,
    }
    (folder / REPORT_FILE).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def save_weights(path: Path, weights: dict[str, Tensor], facts: TrainedFacts | None = None) -> None:
    """Write a safetensors file, whole or not at all, with what is known of the model."""
    part = path.with_suffix(".part")
    save_file(weights, part, metadata=facts.metadata() if facts is not None else None)
    part.replace(path)


def branch_scores(
    calibration: Calibration, judged: Judged, thresholds: Sequence[float] | Any, labels: Sequence[str]
) -> dict[str, Any]:
    """All scores of calibrated probabilities, over the labels that are known."""
    probabilities = calibration.probabilities(calibration.evidence(judged.logits))
    columns = np.flatnonzero(calibration.known)
    own, targets = probabilities[:, columns], judged.targets[:, columns]
    f1 = f1_by_label(own >= np.asarray(thresholds)[columns], targets)
    share = own / own.sum(axis=1, keepdims=True).clip(1e-9)  # as one choice among the labels
    return {
        "rows": len(targets),
        "accuracy": accuracy(own, targets),
        "accuracy_of_commonest": float(targets.mean(axis=0).max()),
        "uar": unweighted_recall(own, targets),
        "macro_f1": float(f1.mean()),
        "ece_top": top_calibration_error(own, targets),
        "ece_top_normalised": top_calibration_error(share.astype(np.float32), targets),
        "ece_labels": label_calibration_error(own, targets),
        "recall": dict(zip((labels[c] for c in columns), recalls(own, targets).round(4).tolist(), strict=True)),
        "f1": dict(zip((labels[c] for c in columns), f1.round(4).tolist(), strict=True)),
    }
