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


def test_latin_1_is_read_with_a_note(tmp_path):
    transcript = read_transcript(written(tmp_path, "0\t1\tgrüße\n".encode("latin-1")))
    assert rows(transcript) == [(0.0, 1.0, "grüße", 1)]
    assert "Latin-1" in transcript.notes[0]


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
