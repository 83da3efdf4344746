"""Transcripts: SRT, WebVTT, tab-separated lines and the JSON of Whisper and WhisperX, told apart by what is in the file."""

import html
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import charset_normalizer

from fv2es.errors import TranscriptError
from fv2es.words import Word

MAX_BYTES = 64 * 1024 * 1024
"""A larger file is no transcript."""

_ENCODINGS = (
    "cp1252", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp874", "koi8_r",
    "shift_jis", "gb18030", "big5", "euc_kr",
)  # fmt: skip
"""What subtitles are written in where they are no Unicode. cp1250 and cp1257 are left out: short texts of Western Europe are taken for them."""

_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,9}))?"
_TIMING = re.compile(rf"^\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?$", re.ASCII)
_ONE_CLOCK = re.compile(rf"^{_CLOCK}$", re.ASCII)
_SECONDS = re.compile(r"^\d+(?:\.\d*)?$|^\.\d+$", re.ASCII)
_TAG = re.compile(r"</?[A-Za-z][^<>]*>|</?\d[\d:.]*>|<c\.[^<>]*>")
_OVERRIDE = re.compile(r"\{\\[^{}]*\}")
_MUTED_BLOCK = re.compile(r"^(NOTE|STYLE|REGION)(\s|$)")
_TSV_HEADER = ["start", "end", "text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cue:
    """One entry of a transcript, as it stands in the file. Seconds on the source's clock, unchecked."""

    start_s: float
    end_s: float
    text: str
    """Words alone: markup removed, lines joined by a space."""
    line: int
    """Where the entry's times stand in the file, from 1."""
    path: str
    """The transcript's file."""
    unit: str = "in line"
    """What `line` counts, for messages: other forms have no telling lines."""
    words: tuple[Word, ...] = ()
    """The same words with times of their own; empty where the file has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """All entries in the order of the file, and what had to be guessed to read them."""

    cues: tuple[Cue, ...]
    notes: tuple[str, ...]


def read_transcript(path: str | os.PathLike[str]) -> Transcript:
    """The cues of an SRT or WebVTT file, of lines `start<TAB>end<TAB>text`, or of Whisper's or WhisperX's JSON.

    The form is found from the content, whatever the file is called. Times of tab-separated lines are seconds or
    [H:]MM:SS.fff. Encodings: UTF-8 and UTF-16 (with a byte order mark), else what charset-normalizer finds, with a note.

    Raises:
        TranscriptError: the file can't be read, is of no known form, or a line breaks the form; names the line.
    """
    name = os.fspath(path)
    text, notes = _decoded(name)
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip()[:1] in ("{", "["):
        from fv2es.transcript_json import json_cues  # it needs the classes above

        cues, more = json_cues(text, name)
        notes += more
    elif first.startswith("WEBVTT") or any("-->" in line for line in lines):
        cues = list(_timed_cues(lines, name, is_webvtt=first.startswith("WEBVTT")))
    elif "\t" in text:
        cues, more = _tabbed_cues(lines, name)
        notes += more
    else:
        raise TranscriptError(
            name,
            "is no SRT (no line has `-->`), no WebVTT, no JSON and has no tabs; give one of these or start<TAB>end<TAB>text",
        )
    if not cues:
        raise TranscriptError(name, "holds no cue; give a transcript with words, or none at all")
    return Transcript(cues=tuple(cues), notes=tuple(notes))


def _decoded(name: str) -> tuple[str, list[str]]:
    try:
        size_bytes = Path(name).stat().st_size
        if size_bytes > MAX_BYTES:
            raise TranscriptError(name, f"has {size_bytes} bytes, at most {MAX_BYTES} are read; is it a transcript?")
        data = Path(name).read_bytes()
    except OSError as error:
        raise TranscriptError(name, f"can't be read ({error.strerror}); check the path") from error
    if not data.strip():
        raise TranscriptError(name, "is empty; give a transcript with words, or none at all")
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16"), []
        if b"\0" in data:
            raise TranscriptError(name, "holds zero bytes, so it is no text; save it as UTF-8")
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise TranscriptError(name, "begins like UTF-16 and is not; save it as UTF-8") from error
        return _guessed(data, name, error.start)


def _guessed(data: bytes, name: str, at: int) -> tuple[str, list[str]]:
    """The text in the encoding that its letters speak for."""
    best = charset_normalizer.from_bytes(data, cp_isolation=[*_ENCODINGS]).best()
    if best is None:
        raise TranscriptError(
            name, f"byte {at} is not UTF-8, and no other encoding gives readable text; save the file as UTF-8"
        )
    note = f"{name}: byte {at} is not UTF-8; read as {best.encoding}, which is a guess: save it as UTF-8 to be sure"
    return str(best), [note]


def _timed_cues(lines: list[str], name: str, *, is_webvtt: bool) -> Iterator[Cue]:
    """Cues of SRT and WebVTT: a line of times, then words up to an empty line or the next line of times."""
    at = 0
    while at < len(lines):
        if is_webvtt and _MUTED_BLOCK.match(lines[at]):
            while at < len(lines) and lines[at].strip():
                at += 1
        if at >= len(lines) or "-->" not in lines[at]:
            at += 1
            continue
        matched = _TIMING.match(lines[at])
        if matched is None:
            raise TranscriptError(
                name, f"{lines[at].strip()!r} must read HH:MM:SS,mmm --> HH:MM:SS,mmm; correct it", line=at + 1
            )
        times, start = matched.groups(), at
        words: list[str] = []
        at += 1
        while at < len(lines) and lines[at].strip() and "-->" not in lines[at]:
            words.append(lines[at])
            at += 1
        if at < len(lines) and "-->" in lines[at] and words and words[-1].strip().isdecimal():
            words.pop()  # the next cue's number, which no empty line sets apart
        yield Cue(
            start_s=_seconds_of(times[:4], name, start + 1),
            end_s=_seconds_of(times[4:], name, start + 1),
            text=plain_text(words),
            line=start + 1,
            path=name,
        )


def _tabbed_cues(lines: list[str], name: str) -> tuple[list[Cue], list[str]]:
    rows = [
        (number, line.split("\t", 2))
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    ]
    for number, row in rows:
        if len(row) < 2:
            raise TranscriptError(name, f"{row[0]!r} must be start<TAB>end<TAB>text; correct it", line=number)
    notes: list[str] = []
    scale = 1.0
    if rows and [cell.strip().lower() for cell in rows[0][1]] == _TSV_HEADER:
        rows = rows[1:]
        if rows and all(cell.strip().isdecimal() for _, row in rows for cell in row[:2]):
            scale = 1e-3
            notes.append(f"{name}: under its heading all times are whole numbers, so they were read as milliseconds")
    cues = [
        Cue(
            start_s=_tabbed_seconds(row[0], name, number) * scale,
            end_s=_tabbed_seconds(row[1], name, number) * scale,
            text=plain_text(row[2:]),
            line=number,
            path=name,
        )
        for number, row in rows
    ]
    return cues, notes


def _tabbed_seconds(cell: str, name: str, line: int) -> float:
    if _SECONDS.match(cell.strip()):
        return float(cell)
    matched = _ONE_CLOCK.match(cell.strip())
    if matched is None:
        raise TranscriptError(name, f"time {cell.strip()!r} must be seconds or [H:]MM:SS.fff; correct it", line=line)
    return _seconds_of(matched.groups(), name, line)


def _seconds_of(groups: tuple[str | None, ...], name: str, line: int) -> float:
    hours, minutes, seconds, fraction = (group or "0" for group in groups)
    if int(minutes) > 59 or int(seconds) > 59:
        raise TranscriptError(name, f"minutes and seconds ({minutes}:{seconds}) must be at most 59", line=line)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")


def plain_text(lines: list[str]) -> str:
    """The words alone: tags, overrides and entities resolved, lines joined by a space."""
    bare = _OVERRIDE.sub("", _TAG.sub("", " ".join(lines)))
    return " ".join(html.unescape(bare).split())
