"""Result files, written whole or not at all."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from fv2es.errors import UsageError
from fv2es.result import MODALITIES, Result


def json_text(results: Sequence[Result]) -> str:
    """One source gives an object, several an array."""
    values = [each.to_dict() for each in results]
    return json.dumps(values[0] if len(values) == 1 else values, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def csv_text(results: Sequence[Result]) -> str:
    """One row an utterance, one column a label; lost utterances have empty columns and their reason.

    Raises:
        UsageError: the results come from models of different labels.
    """
    labels = results[0].model.labels if results else ()
    if any(each.model.labels != labels for each in results):
        raise UsageError("results of models with different labels can't share one CSV file; write one file a model")
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        [
            "source",
            "start_s",
            "end_s",
            "text",
            *labels,
            "clear",
            *(f"{name}_present" for name in MODALITIES),
            "frames",
            "faces",
            "lost",
        ]
    )
    for result in results:
        path = result.source["path"]
        table = [
            (
                each.index,
                [
                    path,
                    each.start_s,
                    each.end_s,
                    each.text,
                    *(f"{each.probabilities[label]:.6f}" for label in labels),
                    int(each.is_clear),
                    *(int(each.modalities[name].present) for name in MODALITIES),
                    len(each.frames),
                    each.num_faces,
                    "",
                ],
            )
            for each in result.utterances
        ]
        empty = [""] * (len(labels) + 1 + len(MODALITIES) + 2)
        table += [
            (each.index, [path, each.start_s, each.end_s, each.text, *empty, f"{each.error}: {each.reason}"])
            for each in result.lost
        ]
        rows.writerows(row for _, row in sorted(table, key=lambda pair: pair[0]))
    return text.getvalue()


WRITERS: Mapping[str, Callable[[Sequence[Result]], str]] = {".json": json_text, ".csv": csv_text}
"""Text of a result file by the ending of its name."""


def check_writable(path: Path, endings: Collection[str]) -> None:
    """Refuse a file that could not be written, before work is done for it.

    Args:
        path: the file.
        endings: of names that are allowed, such as ".json".

    Raises:
        UsageError: the ending is unknown, or the folder is missing or can't be written to.
    """
    if path.suffix.lower() not in endings:
        raise UsageError(f"{path}: the name must end in one of {', '.join(endings)}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent}: no such folder; make it first")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path.parent}: no permission to write there; name another folder")


def check_output(path: Path) -> None:
    """Refuse a result file that could not be written; see `check_writable`."""
    check_writable(path, WRITERS)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; an old one is replaced only by a whole new one.

    Raises:
        OSError: the disk is full, or the like; an old file is untouched.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    unfinished = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.chmod(0o644)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write a result file in the form that its name's ending says; an old file is replaced only by a whole new one.

    Raises:
        UsageError: as `check_output`.
        OSError: as `write_whole`.
    """
    check_output(path)
    write_whole(path, WRITERS[path.suffix.lower()](results).encode())
