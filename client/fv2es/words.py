"""Words with times, put together to what one utterance may hold: cut at pauses and sentence ends, then at the longest gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

_CLOSERS = "\"'”’»)]"  # noqa: RUF001 - the typographic apostrophe is meant
_ENDS = (".", "?", "!", "…", "。", "？", "！", "।", "؟")  # noqa: RUF001 - full-width signs end sentences in Chinese and Japanese
_ABBREVIATIONS = frozenset(
    {"mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "jr.", "sr.", "vs.", "no.", "e.g.", "i.e.", "u.s."}
)
_SOFT_ENDS = (",", ";", ":", "，", "、", "-")  # noqa: RUF001 - as above
_SOFT_END_S = 0.2
"""A comma counts for as much as a pause of this length where a long sentence has to be cut."""
_LONGEST = 3
"""A sentence of more than this many times the longest run is cut without waiting for its end: some speakers, and some recognisers, know none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """One word with its punctuation. Seconds on the source's clock."""

    start_s: float
    end_s: float
    text: str


def ends_sentence(text: str) -> bool:
    """Whether a word ends a sentence."""
    bare = text.rstrip(_CLOSERS)
    return bare.endswith(_ENDS) and bare.lower() not in _ABBREVIATIONS


def divided(
    words: Sequence[Word], *, pause_s: float, max_length_s: float, min_length_s: float
) -> list[tuple[Word, ...]]:
    """Runs of words, in order, that hold all of them.

    Args:
        words: in the order of time.
        pause_s: silence that ends a run always.
        max_length_s: longest run; a run of one word alone may exceed it.
        min_length_s: a shorter sentence stays with its neighbour where no pause parts them.
    """
    return [
        part
        for sentence in sentences(words, pause_s=pause_s, max_length_s=max_length_s, min_length_s=min_length_s)
        for part in shortened(sentence, max_length_s)
    ]


def sentences(
    words: Sequence[Word], *, pause_s: float, max_length_s: float, min_length_s: float
) -> list[tuple[Word, ...]]:
    """Sentences, and short ones with their neighbours, before long ones are cut; arguments as of `divided`.

    Words that follow change the last one at most, as long as no word starts before those that are known. From the start of a sentence
    on, the division is the same without the words before it.
    """
    runs: list[list[Word]] = []
    is_open = False
    for word in words:
        if runs and is_open and word.start_s - runs[-1][-1].end_s < pause_s:
            runs[-1].append(word)
            if len(runs[-1]) > 1 and word.end_s - runs[-1][0].start_s > _LONGEST * max_length_s:
                runs[-1:] = _halved(runs[-1])
        else:
            runs.append([word])
        is_open = not ends_sentence(word.text)
    joined: list[list[Word]] = []
    for run in runs:
        if joined and _belongs(joined[-1], run, pause_s, max_length_s, min_length_s):
            joined[-1] += run
        else:
            joined.append(list(run))
    return [tuple(run) for run in joined]


def _halved(run: list[Word]) -> list[list[Word]]:
    """A run cut at its longest gap in its second half, so that the first part is too long to be joined to anything."""
    middle_s = (run[0].start_s + run[-1].end_s) / 2
    late = [index for index in range(1, len(run)) if run[index].start_s >= middle_s]
    at = max(late or [len(run) - 1], key=partial(_worth, run))
    return [run[:at], run[at:]]


def _belongs(left: Sequence[Word], right: Sequence[Word], pause_s: float, max_s: float, min_s: float) -> bool:
    lengths_s = [run[-1].end_s - run[0].start_s for run in (left, right)]
    fits = right[-1].end_s - left[0].start_s <= max_s
    return fits and min(lengths_s) < min_s and right[0].start_s - left[-1].end_s < pause_s


def shortened(run: tuple[Word, ...], max_length_s: float) -> list[tuple[Word, ...]]:
    """The run cut at its longest gaps, those near the middle first, until every part is short enough; a word alone stays as it is."""
    waiting, parts = [run], []
    while waiting:
        part = waiting.pop()
        if len(part) == 1 or part[-1].end_s - part[0].start_s <= max_length_s:
            parts.append(part)
            continue
        at = max(range(1, len(part)), key=partial(_worth, part))
        waiting += [part[at:], part[:at]]
    return parts


def _worth(run: Sequence[Word], index: int) -> float:
    """How well a run can be cut before a word."""
    left, right = run[index - 1], run[index]
    middle_s, length_s = (run[0].start_s + run[-1].end_s) / 2, run[-1].end_s - run[0].start_s
    soft_s = _SOFT_END_S if left.text.endswith(_SOFT_ENDS) else 0.0
    return right.start_s - left.end_s + soft_s - 0.5 * abs(right.start_s - middle_s) / length_s


def spread(text: str, start_s: float, end_s: float) -> tuple[Word, ...]:
    """The words of a text without times of their own, each as long as its letters' share of [start_s, end_s)."""
    texts = text.split()
    edges = [0]
    for each in texts:
        edges.append(edges[-1] + len(each) + 1)
    at_s = [start_s + (end_s - start_s) * edge / edges[-1] for edge in edges[:-1]] + [end_s]
    return tuple(Word(start_s=a, end_s=b, text=each) for each, (a, b) in zip(texts, pairwise(at_s), strict=True))
