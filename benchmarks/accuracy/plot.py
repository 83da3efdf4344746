"""A report as a picture: confusion matrix, reliability diagram, F1 by label."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fv2es.files import write_whole

ENDINGS: Final = (".png", ".svg")
"""Of file names; they say the format."""

_BLUE, _GREY, _RED = "#3b6ea5", "#b8b8b8", "#b5403a"
_ROOM_FOR_TEXT = 0.12
"""F1 whose bar is long enough to be written in."""


def write_plot(path: Path, report: Mapping[str, Any]) -> None:
    """Draw a report of `measure` into a .png or .svg; an old file is replaced only by a whole new one.

    Raises:
        OSError: it can't be written.
    """
    figure = Figure(figsize=(17, 5.8), layout="constrained")
    ((left, middle, right),) = figure.subfigures(1, 3, squeeze=False, width_ratios=(6, 5, 5))
    _draw_confusion(left.subplots(), report)
    above, below = middle.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _draw_reliability(above, below, report)
    middle.legend(loc="outside lower center", ncols=3, fontsize=9)
    _draw_f1(right.subplots(), report)
    figure.suptitle(_title(report), parse_math=False)
    target = io.BytesIO()
    figure.savefig(target, format=path.suffix[1:].lower(), dpi=110)
    write_whole(path, target.getvalue())


def _title(report: Mapping[str, Any]) -> str:
    model, data = report["model"], report["data"]
    trained = "" if model["trained"] else ", UNTRAINED WEIGHTS"
    lost = f", {len(report['lost'])} lost" if report["lost"] else ""
    return (
        f"{report['branch']} branch of {model['name']} {model['sha256'][:12]} ({model['precision']}{trained}), "
        f"{data['file']}: {report['n']} rows{lost}\n"
        f"accuracy {report['accuracy']:.3f}, UAR {report['uar']:.3f}, macro-F1 {report['macro_f1']:.3f}   "
        f"(always {report['baseline']['always']}: {report['baseline']['accuracy']:.3f}, {report['baseline']['uar']:.3f}, "
        f"{report['baseline']['macro_f1']:.3f})"
    )


def _draw_confusion(axes: Axes, report: Mapping[str, Any]) -> None:
    labels = report["confusion"]["labels"]
    counts = np.array(report["confusion"]["rows_true_columns_predicted"])  # [C, C]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        axes.text(
            column,
            row,
            f"{count}\n{share:.0%}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if share > 0.6 else "black",
        )
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("likeliest label")
    axes.set_ylabel("true label")
    rows = "all rows" if counts.sum() == report["n"] else f"the {counts.sum()} rows with one label"
    axes.set_title(f"Confusion of {rows}: count, share of the true label")


def _draw_reliability(above: Axes, below: Axes, report: Mapping[str, Any]) -> None:
    bins = report["reliability"]
    width = bins[0]["end"] - bins[0]["start"]
    starts = [each["start"] for each in bins]
    filled = [each for each in bins if each["num_rows"]]
    above.bar(
        [each["start"] for each in filled],
        [each["right"] for each in filled],
        width,
        align="edge",
        color=_BLUE,
        edgecolor="white",
        label="share that is right",
    )
    above.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="perfectly calibrated")
    above.plot(
        [each["confidence"] for each in filled],
        [each["right"] for each in filled],
        "o",
        color=_RED,
        markersize=4,
        label="at the mean confidence",
    )
    above.set_ylim(0, 1.03)
    above.set_ylabel("right")
    above.set_title(f"Reliability: ECE {report['ece']:.3f} (by chance {report['ece_by_chance']:.3f})")
    below.bar(starts, [each["num_rows"] for each in bins], width, align="edge", color=_GREY, edgecolor="white")
    below.set_xlim(0, 1)
    below.set_ylabel("rows")
    below.set_xlabel("confidence of the likeliest label")


def _draw_f1(axes: Axes, report: Mapping[str, Any]) -> None:
    labels = report["labels"]
    names = [f"{label}\n({own['rows']})" for label, own in labels.items()]
    axes.barh(names, [own["f1"] or 0.0 for own in labels.values()], color=_BLUE)
    for place, own in enumerate(labels.values()):
        f1 = own["f1"]
        axes.text(
            0.02,
            place,
            "no rows" if f1 is None else f"{f1:.2f}",
            va="center",
            color="white" if f1 and f1 > _ROOM_FOR_TEXT else "black",
        )
    axes.axvline(report["macro_f1"], color=_RED, linestyle="--")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("F1")
    axes.set_title(f"F1 by label (rows); dashed: mean {report['macro_f1']:.3f}")
