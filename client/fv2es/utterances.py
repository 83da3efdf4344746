"""The utterances to be scored: from the cues of a transcript, from recognised words, or fixed windows where there are neither."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from fv2es.errors import TranscriptError, UsageError
from fv2es.source import SourceInfo
from fv2es.transcript import Cue
from fv2es.words import Word, divided, spread

_LEAST_S = 0.02
"""Length of an utterance whose only word has none."""

Span = tuple[float, float]
"""[start_s, end_s) on the source's clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One stretch [start_s, end_s) of the source that is scored, in seconds on the source's clock."""

    index: int
    """Its place in the order of time, from 0."""
    start_s: float
    end_s: float
    text: str = ""
    """What is said in it; empty where that is unknown."""
    speech_share: float | None = None
    """Share of its time in which a voice is heard, 0..1; None where nobody listened for one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UtteranceRule:
    """How a source is divided into utterances. Seconds."""

    window_s: float = 5.0
    """Length of the windows that serve where there are no words; > 0."""
    min_tail_s: float = 0.5
    """A last window shorter than this is joined to the one before it; in [0, window_s]."""
    max_length_s: float = 10.0
    """What is longer is divided, at sentence ends and pauses where it can be; >= window_s."""
    pause_s: float = 0.6
    """Silence between words that ends an utterance; > 0."""
    min_length_s: float = 1.0
    """A shorter sentence stays with its neighbour where no pause parts them; >= 0."""
    min_silence_s: float = 1.0
    """Time without words becomes utterances of its own from this length on; > 0, infinite to leave it out always."""
    margin_s: float = 0.25
    """What an utterance takes of the silence before its first and after its last word; >= 0."""

    def __post_init__(self) -> None:
        if not 0 < self.window_s < math.inf:
            raise UsageError(f"window_s={self.window_s:g} s must be above 0 and finite")
        if not 0 <= self.min_tail_s <= self.window_s:
            raise UsageError(f"min_tail_s={self.min_tail_s:g} s must lie in [0, window_s={self.window_s:g}] s")
        if not self.max_length_s >= self.window_s:
            raise UsageError(f"max_length_s={self.max_length_s:g} s must be at least window_s={self.window_s:g} s")
        for name in ("pause_s", "min_silence_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}={getattr(self, name):g} s must be above 0")
        for name in ("min_length_s", "margin_s"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name}={getattr(self, name):g} s must be at least 0")


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
    words or without length are left out; long ones are divided with their words, at sentence ends where they can be; overlaps
    stay, as two people may speak at once. Each of these is named in `notes`. Cues whose words have times of their own, and that
    follow each other, are put together and cut anew, as recognised words are. Time that no cue covers is scored in windows without
    words from `min_silence_s` on.

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
            notes.append(f"the cue {cue.unit} {cue.line} [{cue.start_s:.2f}, {cue.end_s:.2f}) s {problem}: left out")
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
                f"the cue {cue.unit} {cue.line} [{cue.start_s:.2f}, {cue.end_s:.2f}) s reaches beyond the source: "
                f"cut to [{start_s:.2f}, {end_s:.2f}) s"
            )
        parts = _divided(cue, start_s, end_s, rule)
        if len(parts) > 1:
            notes.append(
                f"the cue {cue.unit} {cue.line} is longer than {rule.max_length_s:g} s: divided into {len(parts)}"
            )
        pieces += parts
    overlaps = sum(right.start_s < left.end_s for left, right in pairwise(kept))
    if overlaps:
        notes.append(f"{overlaps} cues begin before the one before them ends; both are scored as they are")
    elif all(cue.words for cue in kept):
        timed = [word for cue in kept for word in cue.words]
        words = [word for word in timed if word.start_s < info.end_s and word.end_s > info.start_s]
        if len(words) < len(timed):
            notes.append(f"{len(timed) - len(words)} words of the cues lie beyond the source: left out")
        if words:
            return UtterancePlan(utterances=utterances_from_words(info, words, rule), notes=tuple(notes))
    spoken = [Utterance(index=0, start_s=each.start_s, end_s=each.end_s, text=each.text) for each in pieces]
    return UtterancePlan(utterances=_in_order([*spoken, *_between(info, spoken, rule, ())]), notes=tuple(notes))


def utterances_from_words(
    info: SourceInfo, words: Sequence[Word], rule: UtteranceRule, speech_s: Sequence[Span] | None = None
) -> tuple[Utterance, ...]:
    """Sentences, and what lies between them, over the whole source.

    An utterance is cut where a sentence ends, at pauses, and where it would be too long. It begins and ends at most `margin_s` from
    its first and last word. What remains of the source, from `min_silence_s` on, is divided into windows, at the borders of speech
    without known words where there are such.

    Args:
        info: what `probe` found.
        words: in the order of time.
        rule: lengths.
        speech_s: where a voice is heard, in order; None where that is unknown.
    """
    ordered = [
        replace(each, start_s=max(each.start_s, info.start_s), end_s=min(each.end_s, info.end_s)) for each in words
    ]
    runs = divided(
        ordered,
        pause_s=rule.pause_s,
        max_length_s=max(rule.max_length_s - 2 * rule.margin_s, rule.max_length_s / 2),
        min_length_s=rule.min_length_s,
    )
    spoken = []
    for index, run in enumerate(runs):
        start_s, end_s = run[0].start_s, max(run[-1].end_s, run[0].start_s)
        before_s = start_s - runs[index - 1][-1].end_s if index else 2 * (start_s - info.start_s)
        after_s = runs[index + 1][0].start_s - end_s if index + 1 < len(runs) else 2 * (info.end_s - end_s)
        start_s -= min(max(before_s, 0.0) / 2, rule.margin_s)
        end_s += min(max(after_s, 0.0) / 2, rule.margin_s) if after_s >= 0 else after_s
        end_s = min(end_s, start_s + rule.max_length_s)
        end_s = max(end_s, start_s + _LEAST_S)
        spoken.append(Utterance(index=0, start_s=start_s, end_s=end_s, text=" ".join(each.text for each in run)))
    rest = _between(info, spoken, rule, speech_s or ())
    utterances = _in_order([*spoken, *rest])
    if speech_s is None:
        return utterances
    return tuple(replace(each, speech_share=share_of(each, speech_s)) for each in utterances)


def share_of(utterance: Utterance, speech_s: Sequence[Span]) -> float:
    """Share of the utterance's time that lies within spans that don't overlap each other, 0..1."""
    heard_s = sum(
        max(min(utterance.end_s, end_s) - max(utterance.start_s, start_s), 0.0) for start_s, end_s in speech_s
    )
    return min(heard_s / (utterance.end_s - utterance.start_s), 1.0)


def with_speech_share(utterances: Iterable[Utterance], speech_s: Sequence[Span]) -> tuple[Utterance, ...]:
    """The same utterances, with the share of their time that is speech."""
    return tuple(replace(each, speech_share=share_of(each, speech_s)) for each in utterances)


def _between(
    info: SourceInfo, spoken: Sequence[Utterance], rule: UtteranceRule, speech_s: Sequence[Span]
) -> list[Utterance]:
    """Windows over the time that no utterance covers."""
    found: list[Utterance] = []
    at_s = info.start_s
    covered = sorted((each.start_s, each.end_s) for each in spoken)
    for start_s, end_s in [*covered, (info.end_s, info.end_s)]:
        if start_s - at_s >= rule.min_silence_s:
            edges_s = [at_s]
            for edge_s in sorted(edge for span in speech_s for edge in span if at_s < edge < start_s):
                if min(edge_s - edges_s[-1], start_s - edge_s) >= rule.min_silence_s:
                    edges_s.append(edge_s)
            for low_s, high_s in pairwise([*edges_s, start_s]):
                count = max(math.ceil((high_s - low_s) / rule.window_s - 1e-9), 1)
                marks_s = [low_s + (high_s - low_s) * part / count for part in range(count)] + [high_s]
                found += [Utterance(index=0, start_s=a, end_s=b) for a, b in pairwise(marks_s)]
        at_s = max(at_s, end_s)
    return found


def _in_order(utterances: Iterable[Utterance]) -> tuple[Utterance, ...]:
    ordered = sorted(utterances, key=lambda each: (each.start_s, each.end_s))
    return tuple(replace(each, index=index) for index, each in enumerate(ordered))


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


def _divided(cue: Cue, start_s: float, end_s: float, rule: UtteranceRule) -> list[Cue]:
    """The cue within [start_s, end_s), in parts of at most `max_length_s` that hold all its words."""
    if end_s - start_s <= rule.max_length_s:
        return [replace(cue, start_s=start_s, end_s=end_s)]
    words = spread(cue.text, start_s, end_s)
    runs = divided(words, pause_s=math.inf, max_length_s=rule.max_length_s, min_length_s=rule.min_length_s)
    parts: list[Cue] = []
    for run in runs:
        low_s, high_s = run[0].start_s, run[-1].end_s
        count = max(math.ceil((high_s - low_s) / rule.max_length_s - 1e-9), 1)  # above 1 for a single word alone
        marks_s = [low_s + (high_s - low_s) * part / count for part in range(count)] + [high_s]
        texts = [" ".join(each.text for each in run)] + [""] * (count - 1)
        parts += [
            replace(cue, start_s=a, end_s=b, text=text, words=())
            for text, (a, b) in zip(texts, pairwise(marks_s), strict=True)
        ]
    return parts
