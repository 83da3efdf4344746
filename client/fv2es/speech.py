"""Speech recognition by the server's model `speech`: what is asked, what is answered, and what is known of a source when.

Like `analysis`, it waits for no server.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tritonclient.grpc import InferResult

from fv2es.cutting import Clip, ClipRule, CutReport, cut
from fv2es.errors import Fv2esError, ModelUnavailable, UsageError
from fv2es.seams import MOST_DOUBTED, Joining, Stretch, Withheld
from fv2es.source import SourceInfo
from fv2es.utterances import Heard, Span, Utterance
from fv2es.wire import Tensor
from fv2es.words import Word

SPEECH_MODEL = "speech"
_OUTPUTS = {
    "SPOKEN": 1,
    "WORD_TIMES": 2,
    "SPEECH": 2,
    "SPOKEN_LANGUAGE": 1,
    "LANGUAGE_PROBABILITY": 1,
    "SPEECH_INFO": 1,
}
"""Outputs that are read, with their number of axes."""
_IDENTITY = ("model", "sha256", "device", "compute_type")
"""Of SPEECH_INFO. Servers of before don't say the sha256."""
_LEAST_NEW_S = 1e-6
"""What a further stretch must add, so that rounding makes none."""


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
    first_stretch_s: float = 20.0
    """The first one is this long and each further one twice as long as the one before, up to `stretch_s`, so that the first utterances
    don't wait for a minute of sound; above `overlap_s`."""
    overlap_s: float = 5.0
    """What two neighbouring stretches share; >= 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_s < self.stretch_s <= 120:
            raise UsageError(
                f"overlap_s={self.overlap_s:g} s and stretch_s={self.stretch_s:g} s must satisfy 0 <= overlap_s < stretch_s <= 120"
            )
        if not self.first_stretch_s > self.overlap_s:
            raise UsageError(f"first_stretch_s={self.first_stretch_s:g} s must be above overlap_s={self.overlap_s:g} s")
        if self.language and not (self.language.isascii() and self.language.isalpha() and 2 <= len(self.language) <= 3):
            raise UsageError(f"language={self.language!r} must be a code of two or three letters, such as en")


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
    identity: str = ""
    """All that tells one speech model from another: its name, weights, device and type of arithmetic; "" where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hearing:
    """What was heard in a source, all in all."""

    num_words: int = 0
    has_voice: bool = False
    notes: tuple[str, ...] = ()
    model: str = ""
    language: str = ""
    missing: str = ""
    """Why nothing could be heard at all; "" where something could."""


class Recognition:
    """Asks about one source in overlapping stretches, in order, and says step by step what is certain of its words.

    Holds one stretch of sound at a time, and the words of an overlap. What can't be recognised is scored without words: a stretch
    on which the server fails, and everything from the first answer on that says that the server has no recogniser.
    """

    model_name = SPEECH_MODEL

    def __init__(self, info: SourceInfo, rule: SpeechRule) -> None:
        self._rule = rule
        self._spans_s = stretches_of(info, rule)
        stretches = [Utterance(index=index, start_s=a, end_s=b) for index, (a, b) in enumerate(self._spans_s)]
        one_each = ClipRule(target_length_s=1e-3)
        self._clips = cut(info, stretches, one_each, CutReport(), sound_only=True)
        self._num_cut = 0
        """Stretches before this one were asked for, or hold no sound."""
        self._num_joined = 0
        self._answers: dict[int, Stretch | None] = {}
        """Those that are known and not joined; a journal's come before those that are sent. None: there is no sound in it."""
        self._joining = Joining(info.start_s)
        self._news: list[Heard] = []
        self._failures: list[Stretch] = []
        self._num_heard = 0
        self._missing = self._model = ""
        self._languages: dict[str, float] = {}

    def next_clip(self) -> Clip | None:
        """The next stretch, cut now; None where no more is to be asked."""
        if self._missing:
            return None
        clip = next(self._clips, None)
        index = len(self._spans_s) if clip is None else clip.utterances[0].index
        self._answers |= dict.fromkeys(range(self._num_cut, index))
        self._num_cut = index if clip is None else index + 1
        self._join()
        return clip

    def encode(self, clip: Clip) -> list[Tensor]:
        """The inputs of `speech` for a stretch."""
        return encode_speech_request(clip.data, (clip.start_s, clip.end_s), self._rule.language)

    def decode(self, response: InferResult, *, address: str) -> SpeechAnswer:
        """The answer in a response; raises `ModelUnavailable` where it is not of the form that this client knows."""
        return decode_speech(response, address=address)

    def questions(self, clip: Clip, answer: SpeechAnswer) -> Iterator[Any]:
        """None."""
        del clip, answer
        return iter(())

    def add_answer(self, clip: Clip, answer: SpeechAnswer, further: Sequence[Any] = ()) -> list[Any]:
        """Take in an answer; what became certain is in `news`."""
        if answer.missing:
            self._missing = self._missing or answer.missing
            self._add(clip, Stretch(start_s=clip.start_s, end_s=clip.end_s, failure=answer.missing))
            return []
        self._model = answer.model
        self._add(
            clip,
            Stretch(
                start_s=clip.start_s,
                end_s=clip.end_s,
                words=answer.words,
                speech_s=answer.speech_s,
                withheld=answer.withheld,
                language=answer.language,
            ),
        )
        return []

    def add_failure(self, clip: Clip, error: Fv2esError) -> list[Any]:
        """Take in that a stretch can't be recognised."""
        self._add(clip, Stretch(start_s=clip.start_s, end_s=clip.end_s, failure=str(error)))
        return []

    def close(self) -> None:
        """Cut no more, and let go of the file."""
        self._clips.close()

    def _add(self, clip: Clip, stretch: Stretch) -> None:
        self._answers[clip.utterances[0].index] = stretch
        self._join()

    def _join(self) -> None:
        """Put the answers together as far as they are known without a hole."""
        while not self.is_over:
            index = self._num_joined
            start_s, end_s = self._spans_s[index]
            if index in self._answers:
                stretch = self._answers.pop(index)
            elif self._missing and index >= self._num_cut:
                stretch = Stretch(start_s=start_s, end_s=end_s, failure=self._missing)
            else:
                return
            self._num_joined += 1
            next_s = None if self.is_over else self._spans_s[self._num_joined][0]
            if stretch is not None and stretch.failure:
                self._failures.append(stretch)
            elif stretch is not None:
                self._num_heard += 1
                spoken_s = sum(each.end_s - each.start_s for each in stretch.words)
                if stretch.words:
                    self._languages[stretch.language] = self._languages.get(stretch.language, 0.0) + spoken_s
            self._news.append(self._joining.add(stretch, start_s=start_s, end_s=end_s, next_s=next_s))

    def news(self) -> list[Heard]:
        """What became certain since this was asked last."""
        news, self._news = self._news, []
        return news

    @property
    def is_over(self) -> bool:
        """Whether all that can be known is known."""
        return self._num_joined == len(self._spans_s)

    @property
    def until_s(self) -> float:
        """How far the source has been listened to."""
        return self._spans_s[self._num_joined - 1][1] if self._num_joined else self._spans_s[0][0]

    def hearing(self) -> Hearing:
        """All in all, once it is over."""
        if self._failures and not self._num_heard:
            missing = self._missing or f"speech could not be recognised: {self._failures[0].failure}"
            return Hearing(missing=missing, model=self._model)
        withheld = [Withheld(start_s=each.start_s, end_s=each.end_s, reason=each.failure) for each in self._failures]
        notes = [
            f"[{each.start_s:.2f}, {each.end_s:.2f}) s: no words, recognition failed: {each.reason}"
            for each in _together(withheld)
        ]
        notes += [
            f"[{each.start_s:.2f}, {each.end_s:.2f}) s: speech without words: {each.reason}"
            for each in _together(self._joining.withheld)
        ]
        if self._joining.num_doubted:
            notes.append(
                f"where {MOST_DOUBTED:.0%} of the speech up to then were not understood, the {self._joining.num_doubted} words of the rest "
                "are most likely wrong too and were left out"
            )
        if len(self._languages) > 1:
            notes.append(f"several languages were recognised: {', '.join(sorted(self._languages))}")
        return Hearing(
            num_words=self._joining.num_words,
            has_voice=self._joining.has_voice,
            notes=tuple(notes),
            model=self._model,
            language=max(sorted(self._languages), key=self._languages.__getitem__, default=""),
        )


def stretches_of(info: SourceInfo, rule: SpeechRule) -> list[Span]:
    """Overlapping stretches over the whole source, the first ones shorter, none longer than `stretch_s`."""
    spans_s: list[Span] = []
    start_s, length_s = info.start_s, rule.first_stretch_s
    while not spans_s or spans_s[-1][1] < info.end_s:
        length_s = min(length_s, rule.stretch_s)
        end_s = start_s + length_s
        spans_s.append((start_s, end_s if end_s < info.end_s - _LEAST_NEW_S else info.end_s))
        start_s, length_s = end_s - rule.overlap_s, 2 * length_s
    return spans_s


def encode_speech_request(clip: bytes, span_s: Span, language: str = "") -> list[Tensor]:
    """The inputs of `speech` for a stretch of a clip, on its clock."""
    return [
        Tensor(name="CLIP", data_type="UINT8", shape=(len(clip),), content=clip),
        Tensor.of("STRETCH", "FP64", np.array(span_s, np.float64)),
        Tensor.of("LANGUAGE", "BYTES", np.array([language.lower().encode()], np.object_)),
    ]


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
        identity = "" if missing else " ".join(str(info.get(name, "")) for name in _IDENTITY)
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
        identity=identity,
    )


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
