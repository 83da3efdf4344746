"""Pictures of reports."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.plot import write_plot


def report(**changes: object) -> dict[str, Any]:
    return {
        "branch": "text",
        "n": 3,
        "model": {"name": "tiny", "sha256": "0" * 64, "precision": "fp32", "trained": False},
        "data": {"file": "dev.tsv"},
        "lost": [{"row": "line 4 (x)", "reason": "no words"}],
        "accuracy": 2 / 3,
        "uar": 0.75,
        "macro_f1": 2 / 3,
        "ece": 0.1,
        "ece_by_chance": 0.2,
        "baseline": {"always": "a<b", "accuracy": 2 / 3, "uar": 0.5, "macro_f1": 0.4},
        "confusion": {"labels": ["a<b", "$c$", "d"], "rows_true_columns_predicted": [[1, 1, 0], [0, 1, 0], [0, 0, 0]]},
        "labels": {
            "a<b": {"rows": 2, "recall": 0.5, "f1": 2 / 3},
            "c": {"rows": 1, "recall": 1.0, "f1": 0.0},
            "d": {"rows": 0, "recall": None, "f1": None},
        },
        "reliability": [
            {"start": 0.0, "end": 0.5, "num_rows": 0, "confidence": None, "right": None},
            {"start": 0.5, "end": 1.0, "num_rows": 3, "confidence": 0.9, "right": 2 / 3},
        ],
        **changes,
    }


def test_picture_of_points(tmp_path: Path):
    write_plot(tmp_path / "report.png", report())
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_picture_of_lines_says_what_matters(tmp_path: Path):
    write_plot(tmp_path / "report.svg", report())
    text = (tmp_path / "report.svg").read_text()
    for words in ("UNTRAINED WEIGHTS", "dev.tsv: 3 rows, 1 lost", "ECE 0.100 (by chance 0.200)", "no rows"):
        assert words in text


def test_old_picture_stays_where_a_new_one_fails(tmp_path: Path):
    path = tmp_path / "report.png"
    path.write_text("old")
    with pytest.raises(KeyError):
        write_plot(path, {})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
