"""The utterances that all peers score: planned by the client, kept in a file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fv2es import SpeechRule, UtteranceRule
from fv2es.planning import outline


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One utterance [start_s, end_s) on the film's clock, in seconds, and its words."""

    start_s: float
    end_s: float
    text: str


NO_SPEECH = SpeechRule(recognise=False, subtitles=False)
"""Words come from a transcript or not at all, so that recognising them is no part of what is measured."""


def planned(film: Path, transcript: Path | None) -> tuple[Span, ...]:
    """The client's own utterances of a film: those of a transcript, else windows of 5 s.

    Raises:
        SourceError: the film can't be used.
        TranscriptError: the transcript can't be used.
    """
    drawn = outline(film, transcript, UtteranceRule(), NO_SPEECH)
    return tuple(Span(start_s=each.start_s, end_s=each.end_s, text=each.text) for each in drawn.utterances)


def write_plan(path: Path, spans: tuple[Span, ...]) -> None:
    """Write utterances as a JSON array of objects with start_s, end_s, text."""
    path.write_text(json.dumps([asdict(each) for each in spans], ensure_ascii=False, indent=1), encoding="utf-8")


def read_plan(text: str) -> tuple[Span, ...]:
    """Read what `write_plan` has written."""
    return tuple(Span(**each) for each in json.loads(text))
