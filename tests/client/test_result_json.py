"""JSON results: by the published schema, read back as they were, refused where they are spoiled."""

import dataclasses
import json
import os
from importlib import resources
from pathlib import Path

import jsonschema
import pytest

import fv2es
from fv2es.errors import ResultError
from fv2es.files.as_json import json_bytes, source_path
from fv2es.result import MODALITIES, Result
from fv2es.source import probe

SCHEMA = json.loads(resources.files("fv2es").joinpath("schema/result-1.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def described(value: object, schema: dict, place: str = "result") -> None:
    """Every key of a value is described in the schema, so that none is written that nobody knows."""
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if "oneOf" in schema and value is not None:
        schema = next(each for each in schema["oneOf"] if each.get("type") != "null")
    if isinstance(value, list):
        for each in value:
            described(each, schema["items"], place)
    elif isinstance(value, dict):
        for key, inner in value.items():
            known = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            assert known, f"{place}.{key} is not in the schema"
            described(inner, known, f"{place}.{key}")


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$defs"]["result"]["properties"]["schema_version"]["const"] == fv2es.result.SCHEMA_VERSION
    assert SCHEMA["$defs"]["utterance_source"]["properties"]["kind"]["enum"] == list(fv2es.result.UTTERANCE_KINDS)


def test_real_and_nasty_results_keep_to_it(real: Result, nasty: Result):
    for results in ([real], [nasty], [real, nasty], []):
        value = json.loads(json_bytes(results))
        VALIDATOR.validate(value)
        for each in value if isinstance(value, list) else [value]:
            described(each, SCHEMA["$defs"]["result"])


def test_what_is_written_is_read_back(real: Result, nasty: Result, tmp_path: Path):
    fv2es.write_results(tmp_path / "one.json", [real])
    assert fv2es.read_results(tmp_path / "one.json") == (real,)
    fv2es.write_results(tmp_path / "two.json", [real, nasty])
    one, two = fv2es.read_results(str(tmp_path / "two.json"))
    assert one == real
    assert two.to_dict() == json.loads(json.dumps(nasty.to_dict()).replace("\\ud800", "\\ufffd"))
    assert [each.index for each in two.items] == [0, 1, 2, 3]


def test_contributions_add_up_to_the_logits(real: Result):
    for each in real.utterances:
        assert set(each.contributions) == {name for name in MODALITIES if each.modalities[name].present}
        for label, logit in each.logits.items():
            parts = [own[label] for own in each.contributions.values() if label in own]
            assert sum(parts) == pytest.approx(logit, abs=1e-5)
    assert "surprise" not in real.utterances[0].contributions["acoustic"]


def test_long_utterances_count_more(real: Result):
    first, second, third = (each.probabilities["anger"] for each in real.utterances)
    assert real.overall["anger"] == pytest.approx((4.3 * first + 3.4 * second + 3.2 * third) / 10.9)
    assert real.overall_unweighted["anger"] == pytest.approx((first + second + third) / 3)


def test_shares_and_confidence(real: Result):
    first, second, _ = real.utterances
    assert (first.face_share, second.face_share) == (1.0, 0.0)
    assert first.speech_share is None
    assert first.confidence == first.probabilities["happiness"] == max(first.probabilities.values())


def _at(value: dict, path: str) -> tuple[dict, str]:
    *inner, last = path.split(".")
    for name in inner:
        value = value[int(name) if name.isdecimal() else name]
    return value, last


DROP = object()
BEYOND_SCHEMA = (
    r"start_s 5 must",
    "must be a finite",
    r"anger is missing",
    "'joy'",
    r"logits must be null",
    r"frames\[0\]",
)
"""Rules that join several fields: reading sees them, the schema can't."""


@pytest.mark.parametrize(
    ("path", "spoiled", "message"),
    [
        ("schema_version", 2, r"schema_version 2 is not 1; read it with the fv2es that wrote it"),
        ("schema_version", True, r"schema_version True must be a whole number"),
        ("source.path", DROP, r"\.source: path is missing"),
        ("source.duration_s", "12", r"duration_s '12' must be a finite number"),
        ("model.labels", [], r"labels must be different, and"),
        ("model.labels", ["anger", "anger"], r"labels must be different, and at least"),
        ("model.trained", 1, r"trained 1 must be true or false"),
        ("model.modality_weights.text", None, r"modality_weights: text None must be a finite number"),
        ("utterance_source.kind", "guess", r"kind 'guess' must be one of transcript, subtitles, speech, windows"),
        ("utterances.1", [], r"\.utterances\[1\]: \[\] must be an object"),
        ("utterances.1.index", -1, r"index -1 must be a whole number"),
        ("utterances.1.end_s", 5.0, r"start_s 5 must lie before end_s 5"),
        ("utterances.1.end_s", 10**400, r"must be a finite number"),
        ("utterances.1.text", None, r"text None must be a string"),
        ("utterances.1.probabilities.anger", 1.5, r"\.probabilities: anger 1.5 must be a finite number in \[0, 1\]"),
        ("utterances.1.probabilities.anger", DROP, r"anger is missing"),
        ("utterances.1.logits.joy", 0.0, r"'joy' is no label of the model \(anger, "),
        ("utterances.1.modalities.visual.present", True, r"logits must be null if and only if present is false"),
        ("utterances.0.contributions.text", {"joy": 1.0}, r"'joy' is no label"),
        ("utterances.0.frames", {}, r"frames \{\} must be an array"),
        ("utterances.0.frames.0.score", None, r"frames\[0\]: box_px and score must both be null or neither"),
        ("utterances.0.frames.0.box_px", [1, 2, 3], r"box_px holds 3 numbers; it must be null or hold 4"),
        ("utterances.0.speech_share", 2, r"speech_share 2 must be a finite number in \[0, 1\]"),
        ("notes", ["", 1], r"notes 1 must be a string"),
        ("timing.wall_s", -1, r"timing: wall_s -1 must be a finite number"),
    ],
)
def test_spoiled_fields_are_named(real_value: dict, tmp_path: Path, path: str, spoiled: object, message: str):
    inner, name = _at(real_value, path)
    if isinstance(inner, list):
        inner[int(name)] = spoiled
    elif spoiled is DROP:
        del inner[name]
    else:
        inner[name] = spoiled
    file = tmp_path / "a.json"
    file.write_text(json.dumps(real_value))
    with pytest.raises(ResultError, match=message) as caught:
        fv2es.read_results(file)
    assert str(caught.value).startswith(str(file))
    beyond_schema = message.startswith(BEYOND_SCHEMA)
    assert VALIDATOR.is_valid(real_value) is beyond_schema


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"schema_version": NaN}', "NaN is no JSON number"),
        (b"[1]", r"a.json: \[0\]: 1 must be an object"),
        (b'"text"', "'text' must be an object"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, data: bytes, message: str):
    file = tmp_path / "a.json"
    file.write_bytes(data)
    with pytest.raises(ResultError, match=message):
        fv2es.read_results(file)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ResultError, match=r"gone.json: can't be read \(No such file or directory\)"):
        fv2es.read_results(tmp_path / "gone.json")


def test_unknown_fields_are_for_later_versions(real_value: dict, real: Result):
    real_value["track"] = real_value["utterances"][0]["mood"] = {"later": 1}
    VALIDATOR.validate(real_value)
    assert Result.from_dict(real_value) == real


def test_paths_that_are_no_utf8_come_back(real: Result, astronaut: Path, tmp_path: Path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    Path(os.fsdecode(name)).symlink_to(astronaut)
    source = probe(os.fsdecode(name)).to_dict()
    assert source["path"].endswith("caf\\xe9.mp4")
    result = dataclasses.replace(real, source=source)
    VALIDATOR.validate(json.loads(json_bytes([result])))
    (back,) = [Result.from_dict(json.loads(json_bytes([result])))]
    assert os.fsencode(source_path(back)) == name
