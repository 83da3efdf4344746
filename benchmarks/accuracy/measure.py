"""From labelled data and a running server to the report."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.accuracy.branch import Branch, BranchName, branch_from_manifest
from benchmarks.accuracy.data import Labelled
from benchmarks.accuracy.errors import AllLost, EmptyData
from benchmarks.accuracy.labels import label_positions
from benchmarks.accuracy.scores import (
    CallScores,
    Flags,
    Probabilities,
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
from benchmarks.accuracy.served import Answers, Served, ask_all

SCHEMA_VERSION: Final = 1

ROWS_AT_ONCE: Final[dict[BranchName, int]] = {"visual": 64, "acoustic": 1, "text": 32}
"""Rows of one request: some 450 KB of faces, one sound file, texts of much the same length."""

OnRows = Callable[[int, int], None]
"""Called with how many rows are done, and of how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownRows:
    """The rows that can be judged, and what is true of them."""

    rows: npt.NDArray[np.int64]
    """[n], positions among the data's rows."""
    targets: Flags
    """[n, L], of the labels that the branch knows."""
    num_unknown: int
    """Rows that are left out because the branch knows none of their labels."""
    num_narrowed: int
    """Rows that are kept without one of their labels, which the branch does not know."""


def known_rows(data: Labelled[Any], branch: Branch) -> KnownRows:
    """The rows with a label that the branch knows.

    Raises:
        UnknownLabels: the model lacks a label of the data.
        RepeatedLabels: two of the data's label names mean the same.
        EmptyData: there is no such row.
    """
    targets = np.zeros((len(data.rows), len(branch.labels)), np.bool_)  # [N, C]
    for column, position in enumerate(label_positions(data.label_names, branch.labels, path=data.path)):
        targets[:, position] = data.targets[:, column]
    own, others = targets[:, branch.known], targets[:, ~branch.known]
    kept = own.any(axis=1)
    if not kept.any():
        raise EmptyData(
            data.path,
            f"branch {branch.name} knows no label of any of its {len(kept)} rows (it knows: {', '.join(branch.known_labels)})",
        )
    return KnownRows(
        rows=np.flatnonzero(kept),
        targets=own[kept],
        num_unknown=int((~kept).sum()),
        num_narrowed=int((kept & others.any(axis=1)).sum()),
    )


def _batches(rows: Sequence[Any], branch: BranchName) -> list[npt.NDArray[np.int64]]:
    """Positions of rows by request. Texts by length: all of a request are padded to its longest."""
    order = np.argsort([len(text) for text in rows], kind="stable") if branch == "text" else np.arange(len(rows))
    return np.array_split(order, range(ROWS_AT_ONCE[branch], len(rows), ROWS_AT_ONCE[branch]))


def measure(data: Labelled[Any], branch_name: BranchName, served: Served, *, on_rows: OnRows) -> dict[str, Any]:
    """The report on one branch: plain data, see benchmarks/README.md.

    Raises:
        DataError: the data and the model don't go together, or no row was answered.
        ServerError: no answer can be had.
    """
    started_s = time.monotonic()
    manifest, model = served.manifest()
    branch = branch_from_manifest(manifest, branch_name, address=served.address)
    known = known_rows(data, branch)
    rows, num_done = [data.rows[row] for row in known.rows], 0

    def ask(batch: Sequence[Any]) -> Answers:
        ways: dict[BranchName, Callable[..., Answers]] = {
            "visual": served.faces,
            "acoustic": served.sounds,
            "text": served.comments,
        }
        return ways[branch_name](batch, num_labels=len(branch.labels))

    def on_batch(num_rows: int) -> None:
        nonlocal num_done
        num_done += num_rows
        on_rows(num_done, len(rows))

    answers = ask_all(rows, _batches(rows, branch_name), ask, on_rows=on_batch)
    lost = [{"row": data.names[row], "reason": why} for row, why in zip(known.rows, answers.lost, strict=True) if why]
    if len(lost) == len(rows):
        raise AllLost(data.path, num_rows=len(lost), reason=lost[0]["reason"])
    scored = np.array([not why for why in answers.lost])
    return {
        "schema_version": SCHEMA_VERSION,
        "branch": branch_name,
        "model": model.to_dict(),
        "data": _data_facts(data, known),
        "lost": lost,
        "calibration": _branch_facts(branch),
        **scores_of_answers(
            branch,
            evidence=answers.evidence[scored],
            fused=answers.fused[scored],
            targets=known.targets[scored],
            one_label=data.one_label,
        ),
        "timing": {"wall_s": round(time.monotonic() - started_s, 3)},
    }


def _data_facts(data: Labelled[Any], known: KnownRows) -> dict[str, Any]:
    left_out = [{"reason": reason, "rows": rows} for reason, rows in data.left_out.items()]
    if known.num_unknown:
        left_out.append({"reason": "the branch knows none of its labels", "rows": known.num_unknown})
    return {
        "file": data.path.resolve().name,
        "sha256": data.sha256,
        "rows": len(data.rows) + sum(data.left_out.values()),
        "labels": list(data.label_names),
        "left_out": left_out,
        "rows_narrowed": known.num_narrowed,
    }


def _branch_facts(branch: Branch) -> dict[str, Any]:
    columns = zip(
        branch.labels, branch.known.tolist(), branch.base_rates.tolist(), branch.thresholds.tolist(), strict=True
    )
    return {
        "from_manifest": branch.from_manifest,
        "labels": {
            label: {"known": known, "base_rate": rate, "threshold": threshold}
            for label, known, rate, threshold in columns
        },
    }


def scores_of_answers(
    branch: Branch,
    *,
    evidence: npt.NDArray[np.float32],
    fused: npt.NDArray[np.float32],
    targets: Flags,
    one_label: bool,
) -> dict[str, Any]:
    """All figures, over n scored rows and the L labels that the branch knows; see benchmarks/README.md.

    Args:
        branch: of C labels, L of which it knows.
        evidence: [n, C], its logits as served.
        fused: [n, C], probabilities as the ensemble serves them.
        targets: [n, L], true where the label holds.
        one_label: true where just one label holds for each row by the nature of the data.
    """
    labels = branch.known_labels
    probabilities = branch.probabilities(evidence)[:, branch.known]  # [n, L]
    called = likeliest(probabilities)
    by_likeliest = call_scores(called, targets)
    by_threshold = call_scores(probabilities >= branch.thresholds[branch.known], targets)
    decisive = by_likeliest if one_label else by_threshold
    confidence, right = probabilities.max(axis=1), (called & targets).any(axis=1)
    report: dict[str, Any] = {
        "n": len(targets),
        "accuracy": accuracy(called, targets),
        "uar": by_likeliest.unweighted_recall,
        "macro_f1": decisive.macro_f1,
    }
    if not one_label:
        report["macro_f1_likeliest"] = by_likeliest.macro_f1
    return report | {
        "ece": calibration_error(confidence, right),
        "ece_by_chance": calibration_error_by_chance(confidence),
        "ece_labels": label_calibration_error(probabilities, targets),
        "labels": _by_label(labels, targets, recall=by_likeliest, f1=decisive),
        "labels_unknown_to_branch": [label for label in branch.labels if label not in labels],
        "labels_without_rows": [label for label, rows in zip(labels, targets.sum(axis=0), strict=True) if not rows],
        "even": _called_scores(likeliest(evidence[:, branch.known].astype(np.float64)), targets),
        "baseline": _baseline(labels, targets),
        "fused": _fused(fused[:, branch.known].astype(np.float64), targets),
        "confusion": {
            "labels": list(labels),
            "rows_true_columns_predicted": confusion(probabilities, targets).tolist(),
        },
        "reliability": [asdict(each) for each in reliability(confidence, right)],
    }


def _by_label(labels: Sequence[str], targets: Flags, *, recall: CallScores, f1: CallScores) -> dict[str, Any]:
    columns = zip(labels, targets.sum(axis=0).tolist(), as_numbers(recall.recall), as_numbers(f1.f1), strict=True)
    return {label: {"rows": rows, "recall": own_recall, "f1": own_f1} for label, rows, own_recall, own_f1 in columns}


def _baseline(labels: Sequence[str], targets: Flags) -> dict[str, Any]:
    called = always_commonest(targets)
    return {"always": labels[int(called[0].argmax())], **_called_scores(called, targets)}


def _called_scores(called: Flags, targets: Flags) -> dict[str, float]:
    scores = call_scores(called, targets)
    return {
        "accuracy": accuracy(called, targets),
        "uar": scores.unweighted_recall,
        "macro_f1": scores.macro_f1,
    }


def _fused(fused: Probabilities, targets: Flags) -> dict[str, Any]:
    called = likeliest(fused)
    right = (called & targets).any(axis=1)
    return {
        "accuracy": accuracy(called, targets),
        "uar": call_scores(called, targets).unweighted_recall,
        "ece": calibration_error(fused.max(axis=1), right),
    }
