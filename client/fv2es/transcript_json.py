"""Transcripts in the JSON of Whisper, faster-whisper and WhisperX: `segments` with times, and perhaps `words` with times."""

import json
import math
from typing import Any

from fv2es.errors import TranscriptError
from fv2es.transcript import Cue
from fv2es.words import Word


def json_cues(text: str, name: str) -> tuple[list[Cue], list[str]]:
    """The cues of a JSON transcript: one for each segment. `line` is the segment's number, from 1: JSON has no telling lines.

    Words without times (WhisperX gives none to numbers) get those that their neighbours leave.

    Args:
        text: an object with `segments`, or the list of segments itself.
        name: of the file.

    Raises:
        TranscriptError: it is no JSON, or not of that form; `line` is the line of the first fault of JSON, else the segment's number.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", None)
        raise TranscriptError(name, f"begins like JSON and is none ({error}); write it again", line=line) from error
    segments = value.get("segments") if isinstance(value, dict) else value
    if not isinstance(segments, list) or not all(isinstance(each, dict) for each in segments):
        raise TranscriptError(
            name, "has no list `segments` of objects, as Whisper and WhisperX write it; give such a file"
        )
    cues: list[Cue] = []
    num_untimed = 0
    for number, segment in enumerate(segments, start=1):
        start_s, end_s = (_time(segment, key, name, number) for key in ("start", "end"))
        words, untimed = _words(segment, start_s, end_s, name, number)
        num_untimed += untimed
        cues.append(
            Cue(
                start_s=start_s,
                end_s=end_s,
                text=" ".join(str(segment.get("text") or " ".join(each.text for each in words)).split()),
                line=number,
                path=name,
                unit="in segment",
                words=words,
            )
        )
    notes = (
        [f"{name}: {num_untimed} words have no times; they were placed between their neighbours"] if num_untimed else []
    )
    return cues, notes


def _time(entry: dict[str, Any], key: str, name: str, number: int) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TranscriptError(
            name, f"`{key}` is {value!r} in segment {number} and must be seconds; correct it", line=number
        )
    return float(value)


def _words(
    segment: dict[str, Any], start_s: float, end_s: float, name: str, number: int
) -> tuple[tuple[Word, ...], int]:
    """The words of a segment in order, and how many of them had no times; none where their times don't go forward."""
    entries = segment.get("words") or []
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise TranscriptError(name, f"`words` of segment {number} must be a list of objects; correct it", line=number)
    texts = [str(each.get("word", "")).strip() for each in entries]
    spans = [
        (_time(each, "start", name, number), _time(each, "end", name, number))
        if "start" in each and "end" in each
        else None
        for each in entries
    ]
    if not any(spans):
        return (), 0
    words: list[Word] = []
    at = 0
    while at < len(spans):
        stop = at
        while stop < len(spans) and spans[stop] is None:
            stop += 1
        low_s = words[-1].end_s if words else start_s
        following = spans[stop] if stop < len(spans) else None
        high_s = max(following[0] if following else end_s, low_s)
        step_s = (high_s - low_s) / max(stop - at, 1)
        words += [
            Word(start_s=low_s + step_s * place, end_s=low_s + step_s * (place + 1), text=text)
            for place, text in enumerate(texts[at:stop])
        ]
        if following:
            words.append(Word(start_s=following[0], end_s=following[1], text=texts[stop]))
        at = stop + 1
    kept = tuple(each for each in words if each.text)
    times = [time for each in kept for time in (each.start_s, each.end_s)]
    return (kept if times == sorted(times) else ()), sum(span is None for span in spans)
