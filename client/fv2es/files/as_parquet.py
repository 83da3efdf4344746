"""Parquet: one row an utterance, for data frames and databases."""

import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fv2es.files.as_csv import common_labels
from fv2es.files.as_json import without_surrogates
from fv2es.result import MODALITIES, SCHEMA_VERSION, LostUtterance, Result, UtteranceResult


def parquet_bytes(results: Sequence[Result]) -> bytes:
    """The rows, with the columns of CSV and `index`, `logits`, `contributions` and `pictures` as in JSON.

    What is unknown or absent is null; text is kept as it is. The file's metadata hold under `fv2es` the JSON of
    `schema_version` and of the model of each result.

    Raises:
        UsageError: as `common_labels`.
    """
    labels = common_labels(results, kind="Parquet")
    about = {"schema_version": SCHEMA_VERSION, "models": [each.model.to_dict() for each in results]}
    schema = _schema(labels).with_metadata({"fv2es": without_surrogates(json.dumps(about, ensure_ascii=False))})
    rows = [_row(result, each) for result in results for each in result.items]
    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), target, compression="zstd")
    return target.getvalue()


def _schema(labels: Sequence[str]) -> "pa.Schema":
    by_label = pa.struct([(label, pa.float64()) for label in labels])
    picture = pa.struct([("time_s", pa.float64()), ("box_px", pa.list_(pa.float64())), ("score", pa.float64())])
    return pa.schema(
        [
            ("source", pa.string()),
            ("index", pa.int64()),
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("text", pa.string()),
            *((label, pa.float64()) for label in labels),
            ("clear", pa.bool_()),
            *((f"{name}_present", pa.bool_()) for name in MODALITIES),
            ("frames", pa.int64()),
            ("faces", pa.int64()),
            ("lost", pa.string()),
            ("top_label", pa.string()),
            *((name, pa.float64()) for name in ("confidence", "face_share", "speech_share")),
            ("logits", by_label),
            ("contributions", pa.struct([(name, by_label) for name in MODALITIES])),
            ("pictures", pa.list_(picture)),
        ]
    )


def _row(result: Result, each: UtteranceResult | LostUtterance) -> dict[str, Any]:
    row = {
        "source": without_surrogates(str(result.source["path"])),
        "index": each.index,
        "start_s": each.start_s,
        "end_s": each.end_s,
        "text": without_surrogates(each.text),
    }
    if isinstance(each, LostUtterance):
        return row | {"lost": without_surrogates(f"{each.error}: {each.reason}")}
    return (
        row
        | dict(each.probabilities)
        | {f"{name}_present": each.modalities[name].present for name in MODALITIES}
        | {
            "clear": each.is_clear,
            "frames": len(each.frames),
            "faces": each.num_faces,
            "top_label": each.top_label,
            "confidence": each.confidence,
            "face_share": each.face_share,
            "speech_share": each.speech_share,
            "logits": dict(each.logits),
            "contributions": {name: dict(own) for name, own in each.contributions.items()},
            "pictures": [frame.to_dict() for frame in each.frames],
        }
    )
