"""What a result says of itself: clear or not, which weights, and what they don't know."""

import csv
import dataclasses
import io

import pytest
from rich.console import Console

from fv2es.console import plain_lines, show_result
from fv2es.errors import ModelUnavailable
from fv2es.files.as_csv import csv_bytes
from fv2es.result import LEAST_EVIDENCE, Modality, ModelInfo, Result, Timing, UtteranceResult, UtteranceSource

MANIFEST = {"name": "m", "sha256": "0" * 64, "labels": ["glad", "sad"], "trained": True, "precision": "fp32"}
KNOWN = {"acoustic": {"known": [True, False]}, "text": {"known": [True, True]}}
ABSENT = {name: Modality(present=False, logits=None) for name in ("text", "visual", "acoustic")}


def info(**changed: object) -> ModelInfo:
    return ModelInfo.from_manifest(MANIFEST | changed, server_version="2.51.0", address="here:1")


def utterance(*, logits: tuple[float, float], probabilities: tuple[float, float] = (0.5, 0.5)) -> UtteranceResult:
    return UtteranceResult(
        index=0,
        start_s=0.0,
        end_s=1.0,
        text="",
        probabilities=dict(zip(("glad", "sad"), probabilities, strict=True)),
        logits=dict(zip(("glad", "sad"), logits, strict=True)),
        modalities=ABSENT,
        frames=(),
    )


def result(each: UtteranceResult) -> Result:
    timing = Timing(wall_s=1.0, first_utterance_s=0.5, media_s=1.0)
    source = {"path": "a.mp4", "duration_s": 1.0}
    return Result(
        source=source,
        model=info(),
        utterances=(each,),
        lost=(),
        notes=(),
        timing=timing,
        utterance_source=UtteranceSource(kind="windows", reason="no transcript was given"),
    )


@pytest.mark.parametrize(
    ("logits", "clear"),
    [((0.0, 0.0), False), ((LEAST_EVIDENCE - 0.01, -3.0), False), ((LEAST_EVIDENCE, -3.0), True), ((-2.0, 5.0), True)],
)
def test_evidence_makes_clear_whatever_the_probabilities(logits, clear):
    each = utterance(logits=logits, probabilities=(0.9, 0.1))
    assert each.is_clear is clear
    assert each.to_dict()["clear"] is clear
    line = list(plain_lines(result(each)))[1]
    assert line.startswith("  0:00.00-0:01.00  " + ("glad 0.90" if clear else "unclear: glad 0.90"))
    (row,) = csv.DictReader(io.StringIO(csv_bytes([result(each)]).decode()))
    assert row["clear"] == str(int(clear))


@pytest.mark.parametrize(("width", "label"), [(80, 1), (120, 2), (160, 3)])
def test_the_table_leaves_room_for_words(width, label):
    each = dataclasses.replace(utterance(logits=(2.0, 1.0), probabilities=(0.9, 0.2)), text="words that want some room")
    target = io.StringIO()
    show_result(result(each), Console(file=target, width=width, force_terminal=True, color_system=None))
    lines = target.getvalue().splitlines()
    assert all(line.endswith(("┓", "┃", "┩", "│", "┤", "┘", " ")) for line in lines)  # nothing is cut off
    assert any("words that" in line for line in lines)
    assert any("glad 0.90" in line for line in lines)
    assert any("sad 0.20" in line for line in lines) is (label > 1)


def test_a_manifest_says_what_a_modality_has_never_learnt():
    assert info().unknown == info(branches={}).unknown == {}
    model = info(branches=KNOWN)
    assert model.unknown == {"acoustic": ("sad",), "text": ()}
    assert model.to_dict()["unknown"] == {"acoustic": ["sad"]}


@pytest.mark.parametrize(
    "changed",
    [{"branches": {"text": {"known": [True]}}}, {"branches": {"text": {}}}, {"branches": None}, {"labels": None}],
)
def test_a_manifest_of_another_form_is_said(changed):
    with pytest.raises(ModelUnavailable, match=r"here:1: its manifest is not of a form that this client knows \("):
        info(**changed)
