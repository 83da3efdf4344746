"""CSV: one row an utterance, for spreadsheets and scripts."""

import csv
import io
import re
from collections.abc import Iterator, Sequence

from fv2es.errors import UsageError
from fv2es.plain import printable
from fv2es.result import MODALITIES, LostUtterance, Result, UtteranceResult

FIRST = ("source", "start_s", "end_s", "text")
LAST = (
    "clear",
    *(f"{name}_present" for name in MODALITIES),
    *("frames", "faces", "lost", "top_label", "confidence", "face_share", "speech_share"),
)
"""Columns before and after those of the labels."""

_FORMULA = re.compile("'*[=+\\-@\uff1d\uff0b\uff0d\uff20]")
"""What a spreadsheet may take for a formula (also in full-width characters), and what is defused already."""


def csv_bytes(results: Sequence[Result]) -> bytes:
    """The rows, UTF-8, lines that end in LF. Lost utterances have empty columns and their reason.

    Text that begins with =, +, - or @ (or with apostrophes before one of them) gets an apostrophe in front, so that no
    spreadsheet computes it; taking that one away gives the text back. Control characters are replaced as `printable` does.

    Raises:
        UsageError: as `common_labels`.
    """
    labels = common_labels(results, kind="CSV")
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*FIRST, *(_cell(label) for label in labels), *LAST])
    for result in results:
        for each in result.items:
            rows.writerow(_row(result, each, labels))
    return text.getvalue().encode()


def common_labels(results: Sequence[Result], *, kind: str) -> tuple[str, ...]:
    """The labels that all results have.

    Raises:
        UsageError: the results come from models of different labels, or a label has a column's name.
    """
    labels = results[0].model.labels if results else ()
    if any(each.model.labels != labels for each in results):
        raise UsageError(
            f"results of models with different labels can't share one {kind} file; write one file a model, or JSON"
        )
    if taken := [label for label in labels if label in (*FIRST, *LAST)]:
        raise UsageError(f"the model's label {taken[0]!r} is the name of a column in {kind}; write JSON instead")
    return labels


def _row(result: Result, each: UtteranceResult | LostUtterance, labels: Sequence[str]) -> Iterator[str | int | float]:
    yield from (_cell(str(result.source["path"])), each.start_s, each.end_s, _cell(each.text))
    if isinstance(each, LostUtterance):
        yield from ("" if name != "lost" else _cell(f"{each.error}: {each.reason}") for name in (*labels, *LAST))
        return
    yield from (f"{each.probabilities[label]:.6f}" for label in labels)
    yield int(each.is_clear)
    yield from (int(each.modalities[name].present) for name in MODALITIES)
    yield from (len(each.frames), each.num_faces, "", _cell(each.top_label), f"{each.confidence:.6f}")
    yield from ("" if share is None else f"{share:.6f}" for share in (each.face_share, each.speech_share))


def _cell(text: str) -> str:
    text = printable(text)
    return f"'{text}" if _FORMULA.match(text) else text
