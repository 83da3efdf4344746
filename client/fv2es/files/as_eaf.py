"""ELAN annotation files, EAF 3.0: utterances on tiers, their emotions on tiers that depend on these."""

import mimetypes
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from fv2es.files.as_json import source_path
from fv2es.files.as_subtitles import span_ms
from fv2es.files.lanes import lanes
from fv2es.plain import printable
from fv2es.result import LostUtterance, Result, UtteranceResult

_ROOT = {
    "AUTHOR": "fv2es",
    "FORMAT": "3.0",
    "VERSION": "3.0",
    "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "xsi:noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
}
_UTTERANCE_TYPE, _EMOTION_TYPE, _NOTE_TYPE = "utterance", "emotion", "note"
_VOCABULARY, _LANGUAGE = "emotions", "und"
UNCLEAR, LOST = "unclear", "not scored"
"""Values of the tier `emotion` beside the model's labels."""

_CONSTRAINTS = {
    "Time_Subdivision": "Time subdivision of parent annotation's time interval, no time gaps allowed within this interval",
    "Symbolic_Subdivision": "Symbolic subdivision of a parent annotation. Annotations refering to the same parent are ordered",
    "Symbolic_Association": "1-1 association with a parent annotation",
    "Included_In": "Time alignable annotations within the parent annotation's time interval, gaps are allowed",
}
"""The four of the format, with the format's own words."""


def eaf_bytes(results: Sequence[Result], target: Path) -> bytes:
    """An EAF document for one result.

    Tier `utterances` holds the words; on it depend `emotion` (label, "unclear" or "not scored"; a controlled vocabulary),
    `probabilities`, `contributions` (of the modalities to the likeliest label's logit) and, if there are any, `reasons` for
    what could not be scored. ELAN allows no overlaps on a tier: utterances that overlap go to further sets (`utterances 2` ...).

    Args:
        results: one.
        target: where the file will be; the media is linked relative to it as well.
    """
    (result,) = results
    root = ET.Element("ANNOTATION_DOCUMENT", _ROOT | {"DATE": datetime.now(UTC).isoformat(timespec="seconds")})
    _add_header(root, result, target)
    filled = lanes(result.items)
    slots = _add_time_order(root, [each for lane in filled for each in lane])
    numbers = count(1)
    for place, lane in enumerate(filled or [[]]):
        _add_tiers(root, lane, slots, "" if place == 0 else f" {place + 1}", numbers)
    _add_types(root, result.model.labels)
    last = next(numbers) - 1
    ET.SubElement(root[0], "PROPERTY", NAME="lastUsedAnnotationId").text = str(last)
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="UTF-8", xml_declaration=True)
    return document + b"\n"


def _add_header(root: ET.Element, result: Result, target: Path) -> None:
    header = ET.SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    media = source_path(result).absolute()
    ET.SubElement(
        header,
        "MEDIA_DESCRIPTOR",
        MEDIA_URL=media.as_uri(),
        MIME_TYPE=mimetypes.guess_type(media.name)[0] or "unknown",
        RELATIVE_MEDIA_URL=printable(os.path.join(".", os.path.relpath(media, target.absolute().parent))),  # noqa: PTH118 - pathlib drops the "./" of the format
    )
    model = result.model
    facts = {
        "model": f"{model.name} {model.sha256}{'' if model.trained else ' UNTRAINED WEIGHTS'}",
        "utterances": f"{result.utterance_source.kind}: {result.utterance_source.reason}",
    }
    for name, value in facts.items():
        ET.SubElement(header, "PROPERTY", NAME=f"fv2es:{name}").text = printable(value)


def _add_time_order(root: ET.Element, items: Sequence[UtteranceResult | LostUtterance]) -> dict[int, tuple[str, str]]:
    """The time slots in order; gives those of start and end by the utterance's index."""
    order = ET.SubElement(root, "TIME_ORDER")
    ends = sorted((time_ms, place, each.index) for each in items for place, time_ms in enumerate(span_ms(each)))
    names: dict[int, dict[int, str]] = {}
    for number, (time_ms, place, index) in enumerate(ends, start=1):
        ET.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=f"ts{number}", TIME_VALUE=str(time_ms))
        names.setdefault(index, {})[place] = f"ts{number}"
    return {index: (own[0], own[1]) for index, own in names.items()}


def _add_tiers(
    root: ET.Element,
    lane: Sequence[UtteranceResult | LostUtterance],
    slots: Mapping[int, tuple[str, str]],
    suffix: str,
    numbers: Iterator[int],
) -> None:
    """The tier of a lane's utterances and those that depend on it.

    Args:
        root: of the document.
        lane: in order, without overlaps.
        slots: names of start and end by the utterance's index.
        suffix: of the tiers' names.
        numbers: of annotations, each to be used once.
    """
    parent_name = f"utterances{suffix}"
    parent = ET.SubElement(root, "TIER", TIER_ID=parent_name, LINGUISTIC_TYPE_REF=_UTTERANCE_TYPE)
    owners: list[tuple[str, UtteranceResult | LostUtterance]] = []
    for each in lane:
        start, end = slots[each.index]
        owners.append((f"a{next(numbers)}", each))
        _add_annotation(
            parent,
            "ALIGNABLE_ANNOTATION",
            printable(each.text),
            {"ANNOTATION_ID": owners[-1][0], "TIME_SLOT_REF1": start, "TIME_SLOT_REF2": end},
        )
    for name, kind, value in (
        ("emotion", _EMOTION_TYPE, _emotion),
        ("probabilities", _NOTE_TYPE, _probabilities),
        ("contributions", _NOTE_TYPE, _contributions),
        ("reasons", _NOTE_TYPE, _reason),
    ):
        told = [(owner, text) for owner, each in owners if (text := value(each))]
        if not told and name == "reasons":
            continue
        tier = ET.SubElement(root, "TIER", TIER_ID=f"{name}{suffix}", LINGUISTIC_TYPE_REF=kind, PARENT_REF=parent_name)
        for owner, text in told:
            _add_annotation(
                tier,
                "REF_ANNOTATION",
                printable(text),
                {"ANNOTATION_ID": f"a{next(numbers)}", "ANNOTATION_REF": owner},
            )


def _add_annotation(tier: ET.Element, kind: str, text: str, attributes: dict[str, str]) -> None:
    annotation = ET.SubElement(ET.SubElement(tier, "ANNOTATION"), kind, attributes)
    ET.SubElement(annotation, "ANNOTATION_VALUE").text = text


def _emotion(each: UtteranceResult | LostUtterance) -> str:
    if isinstance(each, LostUtterance):
        return LOST
    return each.top_label if each.is_clear else UNCLEAR


def _probabilities(each: UtteranceResult | LostUtterance) -> str:
    if isinstance(each, LostUtterance):
        return ""
    ordered = sorted(each.probabilities.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{label} {value:.3f}" for label, value in ordered)


def _contributions(each: UtteranceResult | LostUtterance) -> str:
    if isinstance(each, LostUtterance):
        return ""
    added = {name: own[each.top_label] for name, own in each.contributions.items() if each.top_label in own}
    parts = ", ".join(f"{name} {value:+.2f}" for name, value in added.items())
    return f"{each.top_label}: {parts}" if parts else ""


def _reason(each: UtteranceResult | LostUtterance) -> str:
    return f"{each.error}: {each.reason}" if isinstance(each, LostUtterance) else ""


def _add_types(root: ET.Element, labels: Sequence[str]) -> None:
    """What the tiers refer to, in the order of the format: types, language, constraints, vocabulary."""
    common = {"GRAPHIC_REFERENCES": "false"}
    ET.SubElement(root, "LINGUISTIC_TYPE", common, LINGUISTIC_TYPE_ID=_UTTERANCE_TYPE, TIME_ALIGNABLE="true")
    depends = common | {"TIME_ALIGNABLE": "false", "CONSTRAINTS": "Symbolic_Association"}
    ET.SubElement(
        root,
        "LINGUISTIC_TYPE",
        depends,
        LINGUISTIC_TYPE_ID=_EMOTION_TYPE,
        CONTROLLED_VOCABULARY_REF=_VOCABULARY,
    )
    ET.SubElement(root, "LINGUISTIC_TYPE", depends, LINGUISTIC_TYPE_ID=_NOTE_TYPE)
    ET.SubElement(root, "LANGUAGE", LANG_ID=_LANGUAGE, LANG_LABEL="undetermined (und)")
    for name, description in _CONSTRAINTS.items():
        ET.SubElement(root, "CONSTRAINT", STEREOTYPE=name, DESCRIPTION=description)
    vocabulary = ET.SubElement(root, "CONTROLLED_VOCABULARY", CV_ID=_VOCABULARY)
    ET.SubElement(vocabulary, "DESCRIPTION", LANG_REF=_LANGUAGE)
    for number, label in enumerate(dict.fromkeys((*labels, UNCLEAR, LOST)), start=1):
        entry = ET.SubElement(vocabulary, "CV_ENTRY_ML", CVE_ID=f"cve{number}")
        ET.SubElement(entry, "CVE_VALUE", DESCRIPTION="", LANG_REF=_LANGUAGE).text = printable(label)
