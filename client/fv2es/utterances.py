"""The utterances to be scored: from the cues of a transcript, from recognised words, or fixed windows where there are neither."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from fv2es.errors import TranscriptError, UsageError
from fv2es.source import SourceInfo
from fv2es.transcript import Cue
from fv2es.words import Word, divided, sentences, shortened, spread

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
        windows = _windows(info.start_s, info.end_s, rule)
        return UtterancePlan(utterances=_in_order(windows), notes=info.notes)
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
    silence = Planner(info, rule).around(spoken)
    return UtterancePlan(utterances=_in_order([*spoken, *silence]), notes=tuple(notes))


def utterances_from_words(
    info: SourceInfo, words: Sequence[Word], rule: UtteranceRule, speech_s: Sequence[Span] | None = None
) -> tuple[Utterance, ...]:
    """Sentences, and what lies between them, over the whole source.

    As `Planner` gives them when it is told everything at once.

    Args:
        info: what `probe` found.
        words: in the order of time.
        rule: lengths.
        speech_s: where a voice is heard, in order; None where that is unknown.
    """
    unheard_s = ((info.start_s, info.end_s),) if speech_s is None else ()
    heard = Heard(words=tuple(words), speech_s=tuple(speech_s or ()), unheard_s=unheard_s, until_s=info.end_s)
    return tuple(Planner(info, rule).advance(heard, is_all=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What became known of a source's sound beyond what was known before. Seconds on the source's clock."""

    words: tuple[Word, ...]
    """In the order of time, none before those that were known."""
    speech_s: tuple[Span, ...]
    """Where a voice is heard before `until_s`, in order."""
    unheard_s: tuple[Span, ...]
    """Of what nothing is known."""
    until_s: float
    """Words that become known later start here at the earliest."""


class Planner:
    """Sentences, and what lies between them, over the whole source, each as soon as nothing that is said later can change it.

    An utterance is cut where a sentence ends, at pauses, and where it would be too long. It begins and ends at most `margin_s` from
    its first and last word. What remains of the source, from `min_silence_s` on, is divided into windows: at the borders of speech
    without known words where there are such, each `window_s` long, up to two at the end sharing evenly what is left. A source without
    any voice has the windows of one whose words nobody looks for.
    """

    def __init__(self, info: SourceInfo, rule: UtteranceRule) -> None:
        self._info, self._rule = info, rule
        self._words: list[Word] = []
        """Those of sentences that may still change."""
        self._word_end_s: float | None = None
        """End of the last word before them."""
        self._speech_s: tuple[Span, ...] = ()
        self._unheard_s: tuple[Span, ...] = ()
        self._at_s = info.start_s
        """The source is divided up to here."""
        self._is_silent = True
        """No voice so far."""
        self._num = 0

    def advance(self, heard: Heard, *, is_all: bool = False) -> list[Utterance]:
        """The utterances that are certain now, in order.

        Args:
            heard: what became known.
            is_all: nothing follows.
        """
        info = self._info
        self._words += [
            replace(each, start_s=max(each.start_s, info.start_s), end_s=min(each.end_s, info.end_s))
            for each in heard.words
        ]
        begin_s = min(self._at_s, self._words[0].start_s if self._words else math.inf) - self._rule.margin_s
        self._speech_s = merged((*(each for each in self._speech_s if each[1] >= begin_s), *heard.speech_s))
        self._unheard_s = merged((*(each for each in self._unheard_s if each[1] >= begin_s), *heard.unheard_s))
        self._is_silent = self._is_silent and not heard.words and not heard.speech_s
        until_s = info.end_s if is_all else heard.until_s
        found: list[Utterance] = []
        for own in self._spoken(until_s, is_all=is_all):
            for each in own:
                found += self._windows_up_to(each.start_s)
                found.append(each)
                self._at_s = max(self._at_s, each.end_s)
        if is_all and self._is_silent:
            found += _windows(self._at_s, info.end_s, self._rule)
        elif is_all:
            found += self._windows_up_to(info.end_s)
        elif self._words:
            found += self._windows_up_to(self._begin_s(self._words[0]))
        else:
            found += self._windows_up_to(until_s - self._rule.margin_s, is_end=False)
        self._num += len(found)
        return [
            replace(each, index=self._num - len(found) + place, speech_share=self._share(each))
            for place, each in enumerate(found)
        ]

    def around(self, spoken: Iterable[Utterance]) -> list[Utterance]:
        """Windows over the time that these utterances, all there are, don't cover."""
        found: list[Utterance] = []
        for start_s, end_s in sorted((each.start_s, each.end_s) for each in spoken):
            found += self._windows_up_to(start_s)
            self._at_s = max(self._at_s, end_s)
        return [*found, *self._windows_up_to(self._info.end_s)]

    def _spoken(self, until_s: float, *, is_all: bool) -> Iterator[list[Utterance]]:
        """The utterances of each sentence that is certain; its words are forgotten."""
        rule = self._rule
        longest_s = max(rule.max_length_s - 2 * rule.margin_s, rule.max_length_s / 2)
        runs = sentences(self._words, pause_s=rule.pause_s, max_length_s=longest_s, min_length_s=rule.min_length_s)
        for index, run in enumerate(runs):
            is_last = index + 1 == len(runs)
            if is_last and not is_all and until_s - run[-1].end_s < max(rule.pause_s, 2 * rule.margin_s):
                return
            follows_s = runs[index + 1][0].start_s if not is_last else None
            own = self._utterances(shortened(run, longest_s), follows_s)
            if not is_all and max(each.end_s for each in own) > until_s:
                return
            del self._words[: len(run)]
            self._word_end_s = run[-1].end_s
            yield own

    def _utterances(self, parts: Sequence[Sequence[Word]], follows_s: float | None) -> list[Utterance]:
        """The parts of one sentence with their margins.

        Args:
            parts: of words.
            follows_s: where the next sentence starts; None: in a pause at least, or never.
        """
        rule, before_s, found = self._rule, self._word_end_s, []
        for index, part in enumerate(parts):
            start_s, end_s = self._begin_s(part[0], before_s), max(part[-1].end_s, part[0].start_s)
            next_s = parts[index + 1][0].start_s if index + 1 < len(parts) else follows_s
            after_s = 2 * (self._info.end_s - end_s) if next_s is None else next_s - end_s
            end_s += min(max(after_s, 0.0) / 2, rule.margin_s) if after_s >= 0 else after_s
            end_s = max(min(end_s, start_s + rule.max_length_s), start_s + _LEAST_S)
            found.append(Utterance(index=0, start_s=start_s, end_s=end_s, text=" ".join(each.text for each in part)))
            before_s = part[-1].end_s
        return found

    def _begin_s(self, word: Word, before_s: float | None = None) -> float:
        """Where an utterance begins whose first word this is, and which follows the word that ends at `before_s`."""
        if before_s is None:
            before_s = self._word_end_s
        gap_s = 2 * (word.start_s - self._info.start_s) if before_s is None else word.start_s - before_s
        return word.start_s - min(max(gap_s, 0.0) / 2, self._rule.margin_s)

    def _windows_up_to(self, end_s: float, *, is_end: bool = True) -> Iterator[Utterance]:
        """Windows over the time from `_at_s` on, which no words cover.

        Args:
            end_s: where words follow, or the source ends.
            is_end: False where the silence may last longer: then only windows that this can't change.
        """
        rule = self._rule
        edges_s = [edge_s for span in self._speech_s for edge_s in span]
        if end_s - self._at_s < rule.min_silence_s:
            return
        while self._at_s < end_s:
            stop_s = next(
                (
                    edge_s
                    for edge_s in edges_s
                    if edge_s - self._at_s >= rule.min_silence_s and end_s - edge_s >= rule.min_silence_s
                ),
                end_s if is_end else None,
            )
            # An edge that is not known yet lies no earlier than this.
            length_s = (end_s - rule.min_silence_s if stop_s is None else stop_s) - self._at_s
            if length_s > max(2 * rule.window_s, rule.window_s + rule.min_silence_s):
                yield self._window(self._at_s + rule.window_s)
                continue
            if stop_s is None:
                return
            start_s, count = self._at_s, max(math.ceil(length_s / rule.window_s - 1e-9), 1)
            for part in range(1, count):
                yield self._window(start_s + length_s * part / count)
            yield self._window(stop_s)

    def _window(self, end_s: float) -> Utterance:
        start_s, self._at_s = self._at_s, end_s
        return Utterance(index=0, start_s=start_s, end_s=end_s)

    def _share(self, utterance: Utterance) -> float | None:
        if any(min(utterance.end_s, b) > max(utterance.start_s, a) for a, b in self._unheard_s):
            return None
        return share_of(utterance, self._speech_s)


def share_of(utterance: Utterance, speech_s: Sequence[Span]) -> float:
    """Share of the utterance's time that lies within spans that don't overlap each other, 0..1."""
    heard_s = sum(
        max(min(utterance.end_s, end_s) - max(utterance.start_s, start_s), 0.0) for start_s, end_s in speech_s
    )
    return min(heard_s / (utterance.end_s - utterance.start_s), 1.0)


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Spans in order, those that touch put together."""
    found: list[Span] = []
    for start_s, end_s in sorted(spans):
        if found and start_s <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end_s))
        else:
            found.append((start_s, end_s))
    return tuple(found)


def _in_order(utterances: Iterable[Utterance]) -> tuple[Utterance, ...]:
    ordered = sorted(utterances, key=lambda each: (each.start_s, each.end_s))
    return tuple(replace(each, index=index) for index, each in enumerate(ordered))


def _windows(start_s: float, end_s: float, rule: UtteranceRule) -> Iterator[Utterance]:
    """Windows of `window_s` without words; a last one that would be shorter than `min_tail_s` is joined to the one before it."""
    while end_s - (start_s + rule.window_s) >= max(rule.min_tail_s, 1e-9):
        yield Utterance(index=0, start_s=start_s, end_s=start_s + rule.window_s)
        start_s += rule.window_s
    yield Utterance(index=0, start_s=start_s, end_s=end_s)


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
