"""Each form of result file, read back by a program that has nothing to do with the one that wrote it."""

import base64
import csv
import dataclasses
import io
import json
import os
import re
import sys
from pathlib import Path

import av
import duckdb
import html5lib
import numpy as np
import pympi
import pytest
import srt
import webvtt

import fv2es
from fv2es.errors import MissingPackage, UsageError
from fv2es.files import FORMATS, check_output, write_results
from fv2es.files.key_frames import KeyFrame, key_frames
from fv2es.files.lanes import lanes
from fv2es.plain import printable
from fv2es.result import MODALITIES, LostUtterance, Result, UtteranceResult
from fv2es.source import probe
from fv2es.transcript import read_transcript

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def written(path: Path, *results: Result, key_frames: bool = False) -> str:
    write_results(path, results, key_frames=key_frames)
    text = path.read_bytes().decode()
    assert not CONTROL.search(text)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    return text


def test_csv(real: Result, nasty: Result, tmp_path: Path):
    rows = list(csv.DictReader(io.StringIO(written(tmp_path / "a.csv", real, nasty), newline="")))
    assert len(rows) == 3 + 4
    for row, each in zip(rows, (*real.items, *nasty.items), strict=True):
        assert float(row["start_s"]) == each.start_s
        assert float(row["end_s"]) == each.end_s
        text = row["text"]
        assert not text.startswith(("=", "+", "-", "@"))
        assert text.removeprefix("'") == printable(each.text)
        if isinstance(each, LostUtterance):
            assert row["lost"] == "NoMedia: =nothing <there>"
            assert row["anger"] == row["clear"] == row["confidence"] == ""
        else:
            assert {label: float(row[label]) for label in each.probabilities} == pytest.approx(
                each.probabilities, abs=1e-6
            )
            assert row["top_label"] == each.top_label
            assert row["clear"] == str(int(each.is_clear))
            assert [row[f"{name}_present"] for name in MODALITIES] == [
                str(int(each.modalities[name].present)) for name in MODALITIES
            ]
            assert float(row["face_share"]) == each.face_share
            assert row["speech_share"] == ""
    assert rows[3]["source"] == "'-dir/my \"film\" 'ü' <x>.mp4"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("'=1", "''=1"),
        ("''@x", "'''@x"),
        ("'tis", "'tis"),
        ("a=1", "a=1"),
        ("\uff1d1", "'\uff1d1"),
        ("", ""),
    ],
)
def test_formulas_are_defused_and_come_back(real: Result, tmp_path: Path, text: str, cell: str):
    utterance = dataclasses.replace(real.utterances[0], text=text)
    (row,) = csv.DictReader(
        written(tmp_path / "a.csv", dataclasses.replace(real, utterances=(utterance,))).splitlines()
    )
    assert row["text"] == cell
    assert re.sub("^'('*[=+\\-@\uff1d\uff0b\uff0d\uff20])", r"\1", cell) == text  # the rule in docs/results.md


def test_parquet(real: Result, nasty: Result, tmp_path: Path):
    path = tmp_path / "a.parquet"
    write_results(path, [real, nasty])
    with duckdb.connect() as database:
        table = database.read_parquet(str(path))
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.order("source, index").fetchall()]
        (about,) = database.execute(
            "SELECT value FROM parquet_kv_metadata(?) WHERE key = 'fv2es'", [str(path)]
        ).fetchone()
    both = sorted(
        ((result, each) for result in (real, nasty) for each in result.items),
        key=lambda pair: (pair[0].source["path"], pair[1].index),
    )
    for row, (result, each) in zip(rows, both, strict=True):
        assert row["source"] == result.source["path"]
        assert (row["index"], row["start_s"], row["end_s"]) == (each.index, each.start_s, each.end_s)
        assert row["text"] == each.text.replace("\ud800", "\ufffd")
        if isinstance(each, LostUtterance):
            assert row["lost"] == "NoMedia: =nothing <there>"
            assert row["anger"] is row["logits"] is row["pictures"] is row["clear"] is None
            continue
        assert row["lost"] is None
        assert {label: row[label] for label in each.probabilities} == each.probabilities
        assert row["logits"] == each.logits
        for name in MODALITIES:
            assert row[f"{name}_present"] is each.modalities[name].present
            own = each.contributions.get(name)
            assert row["contributions"][name] == (own and dict.fromkeys(real.model.labels) | dict(own))
        assert [picture["time_s"] for picture in row["pictures"]] == [frame.time_s for frame in each.frames]
        assert row["face_share"] == each.face_share
        assert row["speech_share"] is None
    assert json.loads(about) == {"schema_version": 1, "models": [real.model.to_dict()] * 2}


def expected_head(each: UtteranceResult | LostUtterance) -> str:
    if isinstance(each, LostUtterance):
        return "not scored (NoMedia)"
    best = f"{each.top_label} {each.confidence:.0%}"
    return best if each.is_clear else f"unclear ({best})"


def test_srt(nasty: Result, tmp_path: Path):
    cues = list(srt.parse(written(tmp_path / "a.srt", nasty)))
    assert [each.index for each in cues] == [1, 2, 3, 4]
    for cue, each in zip(cues, nasty.items, strict=True):
        assert cue.start.total_seconds() == pytest.approx(each.start_s, abs=5e-4)
        assert cue.end.total_seconds() == pytest.approx(max(each.end_s, each.start_s + 1e-3), abs=5e-4)
        assert cue.end > cue.start
        assert cue.content == f"{expected_head(each)}\n{printable(each.text).replace('-->', '->')}"


def test_vtt(nasty: Result, tmp_path: Path):
    text = written(tmp_path / "a.vtt", nasty)
    captions = webvtt.from_string(text)
    assert len(captions) == 4
    for caption, each in zip(captions, nasty.items, strict=True):
        assert caption.start_in_seconds + caption.start_time.milliseconds / 1000 == pytest.approx(
            each.start_s, abs=5e-4
        )
        told, words = caption.raw_text.split("\n")
        bare = re.sub("</?c[^>]*>", "", told)
        assert bare == expected_head(each)
        (only,) = html5lib.parseFragment(words).itertext() if words else ("",)  # WebVTT escapes as HTML does
        assert only == printable(each.text)
    (style,) = captions.styles
    assert "::cue(.emotion0) { color: #d1495b; }" in style.text


def test_own_subtitles_are_read_as_transcripts(real: Result, tmp_path: Path):
    for ending in (".srt", ".vtt"):
        write_results(tmp_path / f"a{ending}", [real])
        cues = read_transcript(tmp_path / f"a{ending}").cues
        assert [(cue.start_s, cue.end_s) for cue in cues] == [(each.start_s, each.end_s) for each in real.utterances]
        assert cues[0].text == f"happiness 96% {real.utterances[0].text}"


def test_eaf(nasty: Result, tmp_path: Path):
    path = tmp_path / "a.eaf"
    written(path, nasty)
    document = pympi.Eaf(str(path))
    assert set(document.get_tier_names()) == {
        *(
            f"{name}{suffix}"
            for name in ("utterances", "emotion", "probabilities", "contributions")
            for suffix in ("", " 2")
        ),
        "reasons",
    }
    filled = lanes(nasty.items)
    assert [[each.index for each in lane] for lane in filled] == [[0, 1, 2], [3]]
    for lane, suffix in zip(filled, ("", " 2"), strict=True):
        words = sorted(document.get_annotation_data_for_tier(f"utterances{suffix}"))
        labels = sorted(document.get_ref_annotation_data_for_tier(f"emotion{suffix}"))
        for each, (start_ms, end_ms, text), label in zip(lane, words, labels, strict=True):
            assert (start_ms, end_ms) == (
                round(each.start_s * 1000),
                max(round(each.end_s * 1000), round(each.start_s * 1000) + 1),
            )
            assert text == printable(each.text)
            lost = isinstance(each, LostUtterance)
            assert label[:3] == (
                start_ms,
                end_ms,
                "not scored" if lost else each.top_label if each.is_clear else "unclear",
            )
            assert label[3] == text
    assert document.get_ref_annotation_data_for_tier("reasons")[0][2] == "NoMedia: =nothing <there>"
    assert list(document.get_controlled_vocabulary_names()) == ["emotions"]
    values = {entry[0][0][0] for entry in document.get_cv_entries("emotions").values()}
    assert values == {*nasty.model.labels, "unclear", "not scored"}
    (media,) = document.get_linked_files()
    assert media["MEDIA_URL"].startswith("file:///")
    assert media["MEDIA_URL"].endswith("/-dir/my%20%22film%22%20%27%C3%BC%27%20%3Cx%3E.mp4")
    assert os.path.normpath(tmp_path / media["RELATIVE_MEDIA_URL"]) == str(Path.cwd() / nasty.source["path"])


def test_rttm(real: Result, nasty: Result, tmp_path: Path):
    lines = written(tmp_path / "a.rttm", real, nasty).splitlines()
    for line, each in zip(lines, (*real.items, *nasty.items), strict=True):
        kind, _, channel, start, duration, _, _, label, confidence, last = line.split(" ")
        assert (channel, last) == ("1", "<NA>")
        assert (float(start), float(duration)) == pytest.approx((each.start_s, each.end_s - each.start_s), abs=1e-3)
        if isinstance(each, LostUtterance):
            assert (kind, label, confidence) == ("NOSCORE", "<NA>", "<NA>")
        else:
            assert (kind, label) == ("SPEAKER", each.top_label if each.is_clear else "unclear")
            assert float(confidence) == pytest.approx(each.confidence, abs=1e-6)
    assert [line.split(" ")[1] for line in lines[2:4]] == ["astronaut", "my_\"film\"_'ü'_<x>"]


def test_rttm_names_files_apart(real: Result, tmp_path: Path):
    other = dataclasses.replace(real, source=dict(real.source) | {"path": "other/astronaut.mp4"})
    lines = written(tmp_path / "a.rttm", real, other).splitlines()
    assert {line.split(" ")[1] for line in lines} == {"tests/media/astronaut.mp4", "other/astronaut.mp4"}


def parsed(text: str):
    parser = html5lib.HTMLParser(namespaceHTMLElements=False, strict=False)
    page = parser.parse(text)
    assert [error for error in parser.errors if error[1] != "unknown"] == []
    return page


def test_html(real: Result, nasty: Result, tmp_path: Path):
    page = parsed(written(tmp_path / "a.html", real, nasty))
    assert not list(page.iter("script"))
    loading = [
        value
        for element in page.iter()
        for name, value in element.attrib.items()
        if name in ("src", "href", "{http://www.w3.org/1999/xlink}href", "srcset", "action", "data", "poster")
    ]
    assert loading
    assert all(value.startswith("#") for value in loading)
    assert "url(" not in "".join(page.find(".//style").itertext()).replace("url(#lost)", "")
    rows = list(page.iter("tr"))
    ids = {row.get("id") for row in rows}
    assert {value[1:] for value in loading} <= ids  # each part of the timeline leads to its row
    words = ["".join(row.findall("td")[1].itertext()) for row in rows if row.findall("td")]
    assert words == [printable(each.text) for each in (*real.items, *nasty.items)]
    assert [h1.text for h1 in page.iter("h1")] == [real.source["path"], nasty.source["path"]]
    pictures = [each for each in page.iter("{http://www.w3.org/2000/svg}svg") if each.get("role") == "img"] or [
        each for each in page.iter("svg") if each.get("role") == "img"
    ]
    for picture, result in zip(pictures, (real, nasty), strict=True):
        bars = [each for each in picture.iter() if str(each.get("class", "")).startswith("bar e")]
        assert len(bars) == len(result.utterances) * len(result.model.labels)
        heights = [float(each.get("height")) for each in bars[: len(result.model.labels)]]
        shares = list(result.utterances[0].probabilities.values())
        assert heights == pytest.approx([150 * share / result.stack_top for share in shares], abs=0.01)
    (policy,) = [each.get("content") for each in page.iter("meta") if each.get("http-equiv")]
    assert policy.startswith("default-src 'none'")


def test_html_with_key_frames(real: Result, astronaut: Path, tmp_path: Path):
    here = dataclasses.replace(real, source=dict(real.source) | {"path": str(astronaut)})
    page = parsed(written(tmp_path / "a.html", here, key_frames=True))
    pictures = list(page.iter("img"))
    assert len(pictures) == 3
    for picture in pictures:
        kind, _, data = picture.get("src").partition(",")
        assert kind == "data:image/jpeg;base64"
        with av.open(io.BytesIO(base64.b64decode(data))) as container:
            frame = next(container.decode(video=0))
        assert (frame.width, frame.height) == (180, 101)
        assert frame.to_ndarray(format="gray").std() > 30  # a picture, not a grey area
    faces = [each for each in page.iter() if each.get("class") == "face"]
    assert len(faces) == 2  # the second utterance shows the suit
    box = real.utterances[0].frames[4].box_px
    assert float(faces[0].get("x")) == pytest.approx(box[0] * 180 / 640, abs=0.06)


def grey(picture: KeyFrame) -> np.ndarray:
    with av.open(io.BytesIO(picture.jpeg)) as container:
        return next(container.decode(video=0)).to_ndarray(format="gray").astype(float)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_key_frames_stand_upright(real: Result, astronaut: Path, tmp_path: Path, degrees: int):
    turned = tmp_path / "turned.mp4"
    with av.open(str(astronaut)) as source, av.open(str(turned), "w") as target:
        pictures = target.add_stream_from_template(source.streams.video[0], opaque=True)
        pictures.set_display_rotation(degrees)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = pictures
                target.mux(packet)
    assert probe(turned).video.rotation_deg == degrees

    def pictures_of(path: Path) -> list[KeyFrame]:
        return [each for _, each in key_frames(dataclasses.replace(real, source=probe(path).to_dict()))]

    for plain, upright in zip(pictures_of(astronaut), pictures_of(turned), strict=True):
        expected = np.rot90(grey(plain), degrees // 90)  # anticlockwise
        assert (upright.width, upright.height) == expected.shape[::-1]
        assert abs(grey(upright) - expected).mean() < 4  # JPEG and scaling; turned the wrong way it is above 50


def test_key_frames_of_a_file_that_is_gone_are_said(real: Result, tmp_path: Path):
    gone = dataclasses.replace(real, source=dict(real.source) | {"path": str(tmp_path / "gone.mp4")})
    (tmp_path / "out").mkdir()
    text = written(tmp_path / "out" / "a.html", gone, key_frames=True)
    assert text.count("no picture: ") == 3
    assert "there is no such file" in text


def test_untrained_weights_are_said(real: Result, tmp_path: Path):
    untrained = dataclasses.replace(real, model=dataclasses.replace(real.model, trained=False))
    for ending in (".html", ".vtt", ".eaf"):
        path = tmp_path / f"a{ending}"
        write_results(path, [untrained])
        assert "UNTRAINED WEIGHTS" in path.read_text()


@pytest.mark.parametrize("ending", FORMATS)
def test_a_result_without_utterances(real: Result, tmp_path: Path, ending: str):
    nothing = dataclasses.replace(real, utterances=(), lost=())
    write_results(tmp_path / f"a{ending}", [nothing])
    assert (tmp_path / f"a{ending}").exists()


@pytest.mark.parametrize("ending", [".parquet", ".html"])
def test_a_missing_package_is_named_with_its_remedy(real: Result, tmp_path: Path, monkeypatch, ending: str):
    package = FORMATS[ending].package
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingPackage, match=rf"a {ending} file needs the package {package}; run: pip install 'fv2es\[files\]'"
    ):
        check_output(tmp_path / f"a{ending}")
    for other in (".json", ".csv", ".srt", ".vtt", ".eaf", ".rttm"):
        write_results(tmp_path / f"a{other}", [real])


@pytest.mark.parametrize("ending", [".srt", ".vtt", ".eaf"])
def test_forms_for_one_source_say_so(real: Result, tmp_path: Path, ending: str):
    with pytest.raises(UsageError, match=rf"a {ending} file belongs to one source, but 2 are given; .*\.json, \.csv"):
        write_results(tmp_path / f"a{ending}", [real, real])


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_labels_that_do_not_fit_a_table(real: Result, tmp_path: Path, ending: str):
    def with_labels(*labels: str) -> Result:
        return dataclasses.replace(real, model=dataclasses.replace(real.model, labels=labels), utterances=())

    with pytest.raises(UsageError, match="different labels can't share one"):
        write_results(tmp_path / f"a{ending}", [real, with_labels("glad")])
    with pytest.raises(UsageError, match="label 'clear' is the name of a column"):
        write_results(tmp_path / f"a{ending}", [with_labels("glad", "clear")])
    assert not list(tmp_path.iterdir())


def test_the_package_offers_both_ways():
    assert fv2es.write_results is write_results
