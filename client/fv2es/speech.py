"""Speech recognition by the server's model `speech`: what is asked, what is answered, and how the stretches' answers join.

Like `analysis`, it waits for no server: `Client` and `AsyncClient` drive it, as they drive an `Analysis`.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput, InferResult

from fv2es.cutting import Clip, ClipRule, CutReport, cut
from fv2es.errors import Fv2esError, ModelUnavailable, UsageError
from fv2es.source import SourceInfo
from fv2es.utterances import Span, Utterance
from fv2es.words import Word

SPEECH_MODEL = "speech"
MOST_DOUBTED = 0.75
"""Where this share of the speech was not understood, neither was the rest: in another language some sentences pass for words by chance."""
_SAME_WORD_S = 0.5
"""Two stretches mean the same word where its middles lie this close and it reads the same."""
_OUTPUTS = {
    "SPOKEN": 1,
    "WORD_TIMES": 2,
    "SPEECH": 2,
    "SPOKEN_LANGUAGE": 1,
    "LANGUAGE_PROBABILITY": 1,
    "SPEECH_INFO": 1,
}
"""Outputs that are read, with their number of axes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechRule:
    """Where words may come from when no transcript is given, and how speech is recognised."""

    subtitles: bool = True
    """Use text subtitles inside the file."""
    recognise: bool = True
    """Use the server's model `speech`."""
    language: str = ""
    """Code of the language that is spoken, such as `en`; "": found out where the model knows several."""
    stretch_s: float = 60.0
    """Length of the stretches in which sound is sent; in (overlap_s, 120]."""
    overlap_s: float = 5.0
    """What two neighbouring stretches share; >= 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_s < self.stretch_s <= 120:
            raise UsageError(
                f"overlap_s={self.overlap_s:g} s and stretch_s={self.stretch_s:g} s must satisfy 0 <= overlap_s < stretch_s <= 120"
            )
        if self.language and not (self.language.isascii() and self.language.isalpha() and 2 <= len(self.language) <= 3):
            raise UsageError(f"language={self.language!r} must be a code of two or three letters, such as en")


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
    failure: str = ""
    """Why nothing is known of it; "" where it was heard."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechAnswer:
    """The answer of the model `speech` to one stretch."""

    words: tuple[Word, ...]
    speech_s: tuple[Span, ...]
    withheld: tuple[Withheld, ...]
    language: str
    language_probability: float
    missing: str
    """Why the server can't recognise speech; "" where it can."""
    model: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Hearing:
    """What was heard in a whole source."""

    words: tuple[Word, ...] = ()
    speech_s: tuple[Span, ...] = ()
    """Where a voice is heard, in order, apart from each other."""
    notes: tuple[str, ...] = ()
    model: str = ""
    language: str = ""
    missing: str = ""
    """Why nothing could be heard at all; "" where something could."""


class Recognition:
    """Asks about one source in overlapping stretches, in order. Holds one stretch of sound at a time, and the words."""

    model_name = SPEECH_MODEL

    def __init__(self, info: SourceInfo, rule: SpeechRule) -> None:
        self._info, self._rule = info, rule
        self._report = CutReport()
        self._stretches: list[Stretch] = []
        self._missing = ""
        self._model = ""
        self._languages: dict[str, float] = {}

    def clips(self) -> Iterator[Clip]:
        """The stretches, cut one at a time while they are asked for; none after an answer said that the server can't."""
        stretches = [
            Utterance(index=index, start_s=start_s, end_s=end_s)
            for index, (start_s, end_s) in enumerate(stretches_of(self._info, self._rule))
        ]
        one_each = ClipRule(target_length_s=1e-3)
        for clip in cut(self._info, stretches, one_each, self._report, sound_only=True):
            if self._missing:
                return
            yield clip

    def encode(self, clip: Clip) -> list[InferInput]:
        """The inputs of `speech` for a stretch."""
        arrays = (
            ("CLIP", "UINT8", np.frombuffer(clip.data, np.uint8)),
            ("STRETCH", "FP64", np.array([clip.start_s, clip.end_s], np.float64)),
            ("LANGUAGE", "BYTES", np.array([self._rule.language.lower().encode()], np.object_)),
        )
        inputs = []
        for name, data_type, array in arrays:
            inputs.append(InferInput(name, list(array.shape), data_type))
            inputs[-1].set_data_from_numpy(array)
        return inputs

    def decode(self, response: InferResult, *, address: str) -> SpeechAnswer:
        """The answer in a response; raises `ModelUnavailable` where it is not of the form that this client knows."""
        return decode_speech(response, address=address)

    def questions(self, clip: Clip, answer: SpeechAnswer) -> Iterator[Any]:
        """None."""
        del clip, answer
        return iter(())

    def add_answer(self, clip: Clip, answer: SpeechAnswer, further: Sequence[Any] = ()) -> list[Any]:
        """Take in an answer; there is nothing to give out yet."""
        self._missing = self._missing or answer.missing
        self._model = answer.model
        if answer.words:
            known = self._languages.get(answer.language, 0.0)
            self._languages[answer.language] = known + sum(each.end_s - each.start_s for each in answer.words)
        self._stretches.append(
            Stretch(
                start_s=clip.start_s,
                end_s=clip.end_s,
                words=answer.words,
                speech_s=answer.speech_s,
                withheld=answer.withheld,
            )
        )
        return []

    def add_failure(self, clip: Clip, error: Fv2esError) -> list[Any]:
        """Take in that a stretch can't be recognised."""
        self._stretches.append(Stretch(start_s=clip.start_s, end_s=clip.end_s, failure=str(error)))
        return []

    def remainder(self) -> list[Any]:
        """Nothing: stretches without sound are silent."""
        return []

    @property
    def progress(self) -> None:
        """None: how far the whole is shows when utterances are scored."""
        return

    def hearing(self) -> Hearing:
        """Everything, once all stretches are in."""
        if self._missing:
            return Hearing(missing=self._missing, model=self._model)
        self._stretches.sort(key=lambda each: each.start_s)  # a journal's answers come before those that are sent
        failures = [each for each in self._stretches if each.failure]
        if failures and len(failures) == len(self._stretches):
            return Hearing(missing=f"speech could not be recognised: {failures[0].failure}", model=self._model)
        notes = [
            f"[{each.start_s:.2f}, {each.end_s:.2f}) s: no words, recognition failed: {each.failure}"
            for each in failures
        ]
        whole = joined(self._stretches)
        notes += [
            f"[{each.start_s:.2f}, {each.end_s:.2f}) s: speech without words: {each.reason}"
            for each in _together(whole.withheld)
        ]
        words = whole.words
        doubted_s = sum(each.end_s - each.start_s for each in whole.withheld)
        heard_s = sum(end_s - start_s for start_s, end_s in whole.speech_s)
        if words and doubted_s and doubted_s >= MOST_DOUBTED * heard_s:
            words = ()
            notes.append(
                f"of {heard_s:.1f} s of speech {doubted_s:.1f} s were not understood; the {len(whole.words)} words of the rest are most "
                "likely wrong too and were left out"
            )
        if len(self._languages) > 1:
            notes.append(f"several languages were recognised: {', '.join(sorted(self._languages))}")
        return Hearing(
            words=words,
            speech_s=whole.speech_s,
            notes=tuple(notes),
            model=self._model,
            language=max(self._languages, key=self._languages.__getitem__, default=""),
        )


def stretches_of(info: SourceInfo, rule: SpeechRule) -> list[Span]:
    """Overlapping stretches over the whole source, none longer than `stretch_s`."""
    step_s = rule.stretch_s - rule.overlap_s
    count = max(math.ceil((info.duration_s - rule.overlap_s) / step_s - 1e-9), 1)
    starts_s = [info.start_s + index * step_s for index in range(count)]
    return [(start_s, min(start_s + rule.stretch_s, info.end_s)) for start_s in starts_s]


def decode_speech(response: InferResult, *, address: str) -> SpeechAnswer:
    """The answer in `response`.

    Raises:
        ModelUnavailable: the server's `speech` is not of the form that this client knows.
    """
    arrays = {}
    for name, num_axes in _OUTPUTS.items():
        array = response.as_numpy(name)
        if array is None or array.ndim != num_axes:
            raise ModelUnavailable(
                address,
                f"output {name} of model `{SPEECH_MODEL}` is missing or has other axes than {num_axes}; "
                "client and model repository must be of one version",
            )
        arrays[name] = array
    try:
        info: dict[str, Any] = json.loads(arrays["SPEECH_INFO"][0])
        missing = "" if info["available"] else str(info["reason"])
        withheld = tuple(Withheld(**each) for each in info["withheld"])
        model = str(info["model"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelUnavailable(
            address, f"SPEECH_INFO of model `{SPEECH_MODEL}` is not of the known form ({error!r})"
        ) from error
    return SpeechAnswer(
        words=tuple(
            Word(start_s=start_s, end_s=end_s, text=text.decode("utf-8", errors="replace"))
            for text, (start_s, end_s) in zip(arrays["SPOKEN"], arrays["WORD_TIMES"].tolist(), strict=True)
        ),
        speech_s=tuple((start_s, end_s) for start_s, end_s in arrays["SPEECH"].tolist()),
        withheld=withheld,
        language=arrays["SPOKEN_LANGUAGE"][0].decode("ascii", errors="replace"),
        language_probability=float(arrays["LANGUAGE_PROBABILITY"][0]),
        missing=missing,
        model=model,
    )


def joined(stretches: Sequence[Stretch]) -> Stretch:
    """One stretch out of those that overlap, in order: every word of an overlap once.

    Both know an overlap; they are joined at a word on which they agree, the one nearest to its middle, else in the longest
    pause of both, else at the middle. Stretches that failed are passed over.
    """
    heard = [each for each in stretches if not each.failure]
    whole = heard[0] if heard else Stretch(start_s=0.0, end_s=0.0)
    for each in heard[1:]:
        whole = _joined_two(whole, each)
    return whole


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seam:
    """Where two stretches are joined."""

    at_s: float
    left: tuple[Word, ...] = field(default=())
    right: tuple[Word, ...] = field(default=())


def _joined_two(left: Stretch, right: Stretch) -> Stretch:
    seam = _seam(left, right)
    speech_s = _merged(
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
        span for span in _merged([(each.start_s, each.end_s) for each in words]) if span[1] > low_s and span[0] < high_s
    ]
    edges = [low_s, *(edge for span in busy for edge in span), high_s]
    gaps = [(edges[at], edges[at + 1]) for at in range(0, len(edges), 2) if edges[at + 1] > edges[at]]
    if not gaps:
        return middle_s
    longest = max(gaps, key=lambda gap: (round(gap[1] - gap[0], 3), -abs(sum(gap) / 2 - middle_s)))
    return sum(longest) / 2


def _merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Spans in order, those that touch put together."""
    found: list[Span] = []
    for start_s, end_s in sorted(spans):
        if found and start_s <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end_s))
        else:
            found.append((start_s, end_s))
    return tuple(found)


def _together(withheld: Sequence[Withheld]) -> list[Withheld]:
    """Neighbours of one reason as one, so that a film in another language has one note and not hundreds."""
    found: list[Withheld] = []
    for each in withheld:
        same = found and found[-1].reason.partition(" (")[0] == each.reason.partition(" (")[0]
        if same and each.start_s - found[-1].end_s < 60:
            found[-1] = replace(found[-1], end_s=max(each.end_s, found[-1].end_s))
        else:
            found.append(each)
    return found


def _bare(text: str) -> str:
    return "".join(each for each in text.lower() if each.isalnum())


def _middle(word: Word) -> float:
    return (word.start_s + word.end_s) / 2
