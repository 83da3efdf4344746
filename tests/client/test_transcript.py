import json

import pytest

from fv2es.errors import TranscriptError
from fv2es.transcript import read_transcript

SRT = """\ufeff1
00:00:01,000 --> 00:00:02,500
<font color="#fff">Hi</font> {\\an8}there &amp; <b>you</b>
3 < 4

2
00:00:03,000 --> 00:00:03,000

3
01:00:09.500 --> 01:00:12
dot and no fraction
4
01:00:13,000 --> 01:00:14,250
no empty line before
"""
VTT = """WEBVTT - title
Kind: captions

STYLE
::cue { color: red }

NOTE a note

name of the cue
00:01.000 --> 00:04.000 align:start position:0%
<v Roger Bingham>We are in <i>New York</i> &amp; <c.yellow>up</c>

1:00:05.000 --> 1:00:07.000
- two
- lines <00:00:05.500>sung
"""
TSV = "# a remark\n0.5\t2\tHello there\n\n1:02.5\t0:01:03.25\twith clocks\n70\t71\ttab\tin the words\n"


def written(tmp_path, data, name="words.txt"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def rows(transcript):
    return [(cue.start_s, cue.end_s, cue.text, cue.line) for cue in transcript.cues]


def test_srt(tmp_path):
    transcript = read_transcript(written(tmp_path, SRT))
    assert rows(transcript) == [
        (1.0, 2.5, "Hi there & you 3 < 4", 2),
        (3.0, 3.0, "", 7),
        (3609.5, 3612.0, "dot and no fraction", 10),
        (3613.0, 3614.25, "no empty line before", 13),
    ]
    assert transcript.notes == ()


def test_webvtt(tmp_path):
    assert rows(read_transcript(written(tmp_path, VTT))) == [
        (1.0, 4.0, "We are in New York & up", 10),
        (3605.0, 3607.0, "- two - lines sung", 13),
    ]


def test_tab_separated(tmp_path):
    assert rows(read_transcript(written(tmp_path, TSV))) == [
        (0.5, 2.0, "Hello there", 2),
        (62.5, 63.25, "with clocks", 4),
        (70.0, 71.0, "tab in the words", 5),
    ]


def test_milliseconds_under_a_heading_are_named(tmp_path):
    transcript = read_transcript(written(tmp_path, "start\tend\ttext\n0\t2500\thello\n"))
    assert rows(transcript) == [(0.0, 2.5, "hello", 2)]
    assert "milliseconds" in transcript.notes[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings_give_the_same_words(tmp_path, encoding):
    data = "0\t1\tgrüße, 你好\n".encode(encoding)
    if encoding == "utf-16-le":
        data = b"\xff\xfe" + data
    transcript = read_transcript(written(tmp_path, data))
    assert rows(transcript) == [(0.0, 1.0, "grüße, 你好", 1)]
    assert transcript.notes == ()


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "Die Grüße an die schöne Frau, die über den Fluß fährt."),
        ("cp1252", "Où est passé le garçon ? Il a été arrêté à la frontière."),
        ("cp1251", "Завтра весь день будет идти дождь, возьмите зонт."),
        ("shift_jis", "明日は一日中雨が降りますから、傘を持って行ってください。"),
    ],
)
def test_other_encodings_are_guessed_and_named(tmp_path, encoding, text):
    transcript = read_transcript(written(tmp_path, f"0\t1\t{text}\n".encode(encoding)))
    assert rows(transcript) == [(0.0, 1.0, text, 1)]
    assert "is not UTF-8" in transcript.notes[0]
    assert f"read as {encoding}, which is a guess" in transcript.notes[0]


WHISPER = {
    "text": " Hi there. How are you?",
    "language": "en",
    "segments": [
        {"id": 0, "start": 0.5, "end": 1.5, "text": " Hi there.", "words": [
            {"word": " Hi", "start": 0.5, "end": 0.8, "probability": 0.9},
            {"word": " there.", "start": 0.8, "end": 1.5, "probability": 0.9}]},
        {"id": 1, "start": 2, "end": 3, "text": " How  are you?"},
    ],
}  # fmt: skip
WHISPERX = {
    "segments": [
        {"start": 0.5, "end": 3.5, "text": " It cost 20 or 30 dollars.", "words": [
            {"word": "It", "start": 0.5, "end": 0.7, "score": 0.8}, {"word": "cost", "start": 0.7, "end": 1.0, "score": 0.8},
            {"word": "20"}, {"word": "or", "start": 2.0, "end": 2.2, "score": 0.8}, {"word": "30"},
            {"word": "dollars.", "start": 3.0, "end": 3.4, "score": 0.8}]},
    ],
    "word_segments": [],
    "language": "en",
}  # fmt: skip


def test_json_of_whisper(tmp_path):
    transcript = read_transcript(written(tmp_path, json.dumps(WHISPER)))
    assert rows(transcript) == [(0.5, 1.5, "Hi there.", 1), (2.0, 3.0, "How are you?", 2)]
    assert [(each.start_s, each.end_s, each.text) for each in transcript.cues[0].words] == [
        (0.5, 0.8, "Hi"),
        (0.8, 1.5, "there."),
    ]
    assert transcript.cues[1].words == ()
    assert transcript.notes == ()
    assert read_transcript(written(tmp_path, json.dumps(WHISPER["segments"]))).cues == transcript.cues


def test_json_of_whisperx(tmp_path):
    transcript = read_transcript(written(tmp_path, json.dumps(WHISPERX)))
    (cue,) = transcript.cues
    assert [(each.text, each.start_s, each.end_s) for each in cue.words][2:5] == [
        ("20", 1.0, 2.0),
        ("or", 2.0, 2.2),
        ("30", 2.2, 3.0),
    ]
    assert "2 words have no times" in transcript.notes[0]


@pytest.mark.parametrize(
    ("data", "match", "line"),
    [
        ("", "is empty", None),
        (" \n\n", "is empty", None),
        (b"\0\1\2abc\0", "zero bytes", None),
        (b"\xff\xfea", "begins like UTF-16", None),
        ("just some prose\nwithout times\n", "has no tabs", None),
        ("WEBVTT\n\nNOTE nothing\n", "holds no cue", None),
        ("1\n00:00:01,000 -> 00:00:02,000\nx\n\n2\n00:00:0x,000 --> 00:00:02,000\ny\n", "must read HH:MM:SS", 6),
        ("1\n00:61:01,000 --> 00:62:02,000\nx\n", "at most 59", 2),
        ("0\t1\tok\nhello\n", "start<TAB>end<TAB>text", 2),
        ("0\tsoon\tok\n", "time 'soon'", 1),
        ("-1\t2\tok\n", "time '-1'", 1),
        ("nan\t2\tok\n", "time 'nan'", 1),
        ('{\n"segments": [\n', "begins like JSON and is none", 3),
        ('{"text": "hi"}', "has no list `segments`", None),
        ('{"segments": [1]}', "has no list `segments`", None),
        ('{"segments": []}', "holds no cue", None),
        ('{"segments": [{"start": 0, "end": "x", "text": "a"}]}', "`end` is 'x' in segment 1", 1),
        ('{"segments": [{"start": NaN, "end": 1, "text": "a"}]}', "`start` is nan in segment 1", 1),
        ('{"segments": [{"start": 0, "end": 1, "text": "a", "words": 3}]}', "`words` of segment 1", 1),
    ],
)
def test_errors_name_the_line(tmp_path, data, match, line):
    with pytest.raises(TranscriptError, match=match) as caught:
        read_transcript(written(tmp_path, data))
    assert caught.value.line == line


def test_absent_file(tmp_path):
    with pytest.raises(TranscriptError, match="can't be read"):
        read_transcript(tmp_path / "absent.srt")
    with pytest.raises(TranscriptError, match="can't be read"):
        read_transcript(tmp_path)
