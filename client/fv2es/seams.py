"""Stretches of recognised sound put together, in the order of time: every word of an overlap once."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from fv2es.utterances import Heard, Span, merged
from fv2es.words import Word

MOST_DOUBTED = 0.75
"""Where this share of the speech so far was not understood, neither was the rest: in another language some sentences pass for words by chance."""
_SAME_WORD_S = 0.5
"""Two stretches mean the same word where its middles lie this close and it reads the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Withheld:
    """Speech for which there are no words, and why."""

    start_s: float
    end_s: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """What was heard in [start_s, end_s). Seconds on the source's clock."""

    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()
    speech_s: tuple[Span, ...] = ()
    withheld: tuple[Withheld, ...] = ()
    language: str = ""
    """Of its words."""
    failure: str = ""
    """Why nothing is known of it; "" where it was heard."""


class Joining:
    """Joins stretches that come in order, and gives out what no later one can change.

    Both know an overlap; they are joined at a word on which they agree, the one nearest to its middle, else in the longest
    pause of both, else at the middle. Stretches that failed are passed over. What is kept: the words of one overlap.
    """

    def __init__(self, start_s: float) -> None:
        self._open: Stretch | None = None
        """What was not given out, since a later stretch may change it; None before the first that was heard."""
        self._heard_to_s = start_s
        self._speech_s = self._doubted_s = 0.0
        """Of what was given out: how much is speech, and how much of that was not understood."""
        self.withheld: list[Withheld] = []
        """All that is certain."""
        self.num_doubted = 0
        """Words that were left out, as `MOST_DOUBTED` says."""
        self.num_words = 0
        """Words that were given out."""
        self.has_voice = False

    def add(self, stretch: Stretch | None, *, start_s: float, end_s: float, next_s: float | None) -> Heard:
        """Take in the next stretch, [start_s, end_s).

        Args:
            stretch: what was heard in it, or why nothing was; None where there is no sound.
            start_s: its start.
            end_s: its end.
            next_s: where the one after it starts; None: it is the last.
        """
        unheard_s: tuple[Span, ...] = ()
        if stretch is not None and stretch.failure:
            low_s, high_s = max(start_s, self._heard_to_s), end_s if next_s is None else next_s
            unheard_s = ((low_s, high_s),) if low_s < high_s else ()
        else:
            self._heard_to_s = max(self._heard_to_s, end_s)
        if stretch is not None and not stretch.failure:
            own = _in_order(stretch)
            self._open = own if self._open is None else _joined_two(self._open, own)
        return self._given_out(math.inf if next_s is None else next_s, unheard_s)

    def _given_out(self, next_s: float, unheard_s: tuple[Span, ...]) -> Heard:
        """What ends before the next stretch is certain."""
        whole = self._open
        if whole is None:
            return Heard(words=(), speech_s=(), unheard_s=unheard_s, until_s=next_s)
        count = next((at for at, each in enumerate(whole.words) if each.end_s > next_s), len(whole.words))
        words, open_words = whole.words[:count], whole.words[count:]
        until_s = min(next_s, open_words[0].start_s) if open_words else next_s
        speech_s = tuple((a, min(b, until_s)) for a, b in whole.speech_s if a < until_s)
        open_speech_s = tuple((max(a, until_s), b) for a, b in whole.speech_s if b > until_s)
        count = next((at for at, each in enumerate(whole.withheld) if each.end_s > next_s), len(whole.withheld))
        withheld, open_withheld = whole.withheld[:count], whole.withheld[count:]
        self._open = replace(whole, words=open_words, speech_s=open_speech_s, withheld=open_withheld)
        self._speech_s += _length_s(speech_s)
        self._doubted_s += sum(each.end_s - each.start_s for each in withheld)
        self.withheld += withheld
        self.has_voice = self.has_voice or bool(words or speech_s)
        doubted_s = self._doubted_s + sum(each.end_s - each.start_s for each in open_withheld)
        if doubted_s and doubted_s >= MOST_DOUBTED * (self._speech_s + _length_s(open_speech_s)):
            self.num_doubted += len(words)
            words = ()
        self.num_words += len(words)
        return Heard(words=words, speech_s=speech_s, unheard_s=unheard_s, until_s=until_s)


def _length_s(spans: Iterable[Span]) -> float:
    return sum(end_s - start_s for start_s, end_s in spans)


def _in_order(stretch: Stretch) -> Stretch:
    """The stretch with words whose times neither go back nor leave it."""
    words: list[Word] = []
    start_s = end_s = stretch.start_s
    for each in stretch.words:
        start_s = min(max(each.start_s, start_s), stretch.end_s)
        end_s = min(max(each.end_s, end_s, start_s), stretch.end_s)
        words.append(replace(each, start_s=start_s, end_s=end_s))
    return replace(stretch, words=tuple(words), speech_s=merged(stretch.speech_s))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seam:
    """Where two stretches are joined."""

    at_s: float
    left: tuple[Word, ...] = field(default=())
    right: tuple[Word, ...] = field(default=())


def _joined_two(left: Stretch, right: Stretch) -> Stretch:
    seam = _seam(left, right)
    speech_s = merged(
        [(a, min(b, seam.at_s)) for a, b in left.speech_s if a < seam.at_s]
        + [(max(a, seam.at_s), b) for a, b in right.speech_s if b > seam.at_s]
    )
    withheld = (
        *(replace(each, end_s=min(each.end_s, seam.at_s)) for each in left.withheld if each.start_s < seam.at_s),
        *(replace(each, start_s=max(each.start_s, seam.at_s)) for each in right.withheld if each.end_s > seam.at_s),
    )
    return Stretch(
        start_s=left.start_s,
        end_s=max(left.end_s, right.end_s),
        words=seam.left + seam.right,
        speech_s=speech_s,
        withheld=withheld,
    )


def _seam(left: Stretch, right: Stretch) -> _Seam:
    low_s, high_s = right.start_s, left.end_s
    if low_s >= high_s:
        return _Seam(at_s=low_s, left=left.words, right=right.words)
    middle_s = (low_s + high_s) / 2
    pairs = [
        (i, j)
        for i, one in enumerate(left.words)
        if one.end_s > low_s
        for j, two in enumerate(right.words)
        if two.start_s < high_s
        and _bare(one.text) == _bare(two.text)
        and abs(_middle(one) - _middle(two)) <= _SAME_WORD_S
    ]
    if pairs:
        i, j = min(pairs, key=lambda pair: abs(_middle(left.words[pair[0]]) - middle_s))
        at_s = left.words[i].end_s
        later = tuple(each for each in right.words[j + 1 :])
        return _Seam(at_s=at_s, left=left.words[: i + 1], right=_not_before(later, at_s))
    at_s = _quietest_s([*left.words, *right.words], low_s, high_s, middle_s)
    before = tuple(each for each in left.words if _middle(each) < at_s)
    after = tuple(each for each in right.words if _middle(each) >= at_s)
    return _Seam(at_s=at_s, left=before, right=_not_before(after, before[-1].end_s if before else low_s))


def _not_before(words: tuple[Word, ...], start_s: float) -> tuple[Word, ...]:
    """The words with times that don't go back behind `start_s`, where two recognitions differ by a little."""
    return tuple(
        replace(each, start_s=max(each.start_s, start_s), end_s=max(each.end_s, start_s))
        if each.start_s < start_s
        else each
        for each in words
    )


def _quietest_s(words: Sequence[Word], low_s: float, high_s: float, middle_s: float) -> float:
    """The middle of the longest time within [low_s, high_s) in which neither has a word; the nearest to the middle of equals."""
    busy = [
        span for span in merged([(each.start_s, each.end_s) for each in words]) if span[1] > low_s and span[0] < high_s
    ]
    edges = [low_s, *(edge for span in busy for edge in span), high_s]
    gaps = [(edges[at], edges[at + 1]) for at in range(0, len(edges), 2) if edges[at + 1] > edges[at]]
    if not gaps:
        return middle_s
    longest = max(gaps, key=lambda gap: (round(gap[1] - gap[0], 3), -abs(sum(gap) / 2 - middle_s)))
    return sum(longest) / 2


def _bare(text: str) -> str:
    return "".join(each for each in text.lower() if each.isalnum())


def _middle(word: Word) -> float:
    return (word.start_s + word.end_s) / 2
