"""The utterances to be scored: from the cues of a transcript, or fixed windows where there is none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fv2es.errors import TranscriptError, UsageError
from fv2es.source import SourceInfo
from fv2es.transcript import Cue


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One stretch [start_s, end_s) of the source that is scored, in seconds on the source's clock."""

    index: int
    """Its place in the order of time, from 0."""
    start_s: float
    end_s: float
    text: str = ""
    """What is said in it; empty where that is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UtteranceRule:
    """How a source is divided into utterances. Seconds."""

    window_s: float = 5.0
    """Length of the fixed windows that serve where there is no transcript; > 0."""
    min_tail_s: float = 0.5
    """A last window shorter than this is joined to the one before it; in [0, window_s]."""
    max_length_s: float = 30.0
    """A longer cue is divided evenly; >= window_s."""

    def __post_init__(self) -> None:
        if not 0 < self.window_s < math.inf:
            raise UsageError(f"window_s={self.window_s:g} s must be above 0 and finite")
        if not 0 <= self.min_tail_s <= self.window_s:
            raise UsageError(f"min_tail_s={self.min_tail_s:g} s must lie in [0, window_s={self.window_s:g}] s")
        if not self.max_length_s >= self.window_s:
            raise UsageError(f"max_length_s={self.max_length_s:g} s must be at least window_s={self.window_s:g} s")


@dataclass(frozen=True, kw_only=True, slots=True)
class UtterancePlan:
    """What will be scored, and every repair that was made on the way to it."""

    utterances: tuple[Utterance, ...]
    """At least one, by start; those of a transcript may overlap."""
    notes: tuple[str, ...]
    """The source's own notes, then one sentence for each repair of the cues."""


def plan_utterances(info: SourceInfo, cues: Sequence[Cue] | None, rule: UtteranceRule) -> UtterancePlan:
    """The utterances of a source.

    Cues are put in the order of time. They are cut at the ends of the source and left out beyond them; cues without
    words or without length are left out; long ones are divided with their words; overlaps stay, as two people may
    speak at once. Each of these is named in `notes`. Time that no cue covers is not scored.

    Args:
        info: what `probe` found.
        cues: None for fixed windows over the whole source.
        rule: lengths.

    Raises:
        TranscriptError: no cue remains.
    """
    if cues is None:
        return UtterancePlan(utterances=_windows(info, rule), notes=info.notes)
    notes = list(info.notes)
    ordered = sorted(cues, key=lambda cue: (cue.start_s, cue.end_s))
    if list(cues) != ordered:
        notes.append("the cues are not in the order of time; they were sorted")
    kept: list[Cue] = []
    for cue in ordered:
        problem = _problem(cue, info)
        if problem:
            notes.append(f"the cue in line {cue.line} [{cue.start_s:.2f}, {cue.end_s:.2f}) s {problem}: left out")
        else:
            kept.append(cue)
    if not kept:
        raise TranscriptError(
            cues[0].path if cues else "transcript",
            f"none of {len(cues)} cues has words and lies within the source, [{info.start_s:.2f}, {info.end_s:.2f}) s; "
            "give the transcript of this file, with times on the file's own clock",
        )
    pieces: list[Cue] = []
    for cue in kept:
        start_s, end_s = max(cue.start_s, info.start_s), min(cue.end_s, info.end_s)
        if (start_s, end_s) != (cue.start_s, cue.end_s):
            notes.append(
                f"the cue in line {cue.line} [{cue.start_s:.2f}, {cue.end_s:.2f}) s reaches beyond the source: "
                f"cut to [{start_s:.2f}, {end_s:.2f}) s"
            )
        parts = _divided(cue, start_s, end_s, rule.max_length_s)
        if len(parts) > 1:
            notes.append(
                f"the cue in line {cue.line} is longer than {rule.max_length_s:g} s: divided into {len(parts)}"
            )
        pieces += parts
    overlaps = sum(right.start_s < left.end_s for left, right in pairwise(kept))
    if overlaps:
        notes.append(f"{overlaps} cues begin before the one before them ends; both are scored as they are")
    pieces.sort(key=lambda piece: (piece.start_s, piece.end_s))
    utterances = tuple(
        Utterance(index=index, start_s=piece.start_s, end_s=piece.end_s, text=piece.text)
        for index, piece in enumerate(pieces)
    )
    return UtterancePlan(utterances=utterances, notes=tuple(notes))


def _windows(info: SourceInfo, rule: UtteranceRule) -> tuple[Utterance, ...]:
    count = max(math.ceil(info.duration_s / rule.window_s), 1)
    if count > 1 and info.duration_s - (count - 1) * rule.window_s < rule.min_tail_s:
        count -= 1
    edges_s = [*(info.start_s + index * rule.window_s for index in range(count)), info.end_s]
    return tuple(Utterance(index=index, start_s=edges_s[index], end_s=edges_s[index + 1]) for index in range(count))


def _problem(cue: Cue, info: SourceInfo) -> str:
    if not cue.text.strip():
        return "has no words"
    if cue.end_s <= cue.start_s:
        return "ends before it begins" if cue.end_s < cue.start_s else "has no length"
    if cue.start_s >= info.end_s:
        return f"lies past the end of the source ({info.end_s:.2f} s)"
    if cue.end_s <= info.start_s:
        return f"lies before the start of the source ({info.start_s:.2f} s)"
    return ""


def _divided(cue: Cue, start_s: float, end_s: float, max_length_s: float) -> list[Cue]:
    """The cue within [start_s, end_s), in equal parts of at most `max_length_s`, the words shared out evenly."""
    count = max(math.ceil((end_s - start_s) / max_length_s), 1)
    edges_s = [*(start_s + (end_s - start_s) * part / count for part in range(count)), end_s]
    words = cue.text.split()
    share = [" ".join(words[len(words) * part // count : len(words) * (part + 1) // count]) for part in range(count)]
    texts = share if count > 1 else [cue.text]
    return [
        Cue(start_s=edges_s[part], end_s=edges_s[part + 1], text=texts[part], line=cue.line, path=cue.path)
        for part in range(count)
    ]
