"""Words with their times: Whisper on CTranslate2 (faster-whisper) behind the Silero voice detector that it ships.

The packages are an extra (`fv2es[speech]`). Where they or the weights are absent, the worker still loads and each answer says what is missing.
"""

import hashlib
import importlib
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fv2es_pipelines.audio import Wave, read_sound
from fv2es_pipelines.clip import ClipBytes, open_clip
from fv2es_pipelines.constants import SAMPLE_RATE_HZ
from fv2es_pipelines.errors import InvalidWords
from fv2es_pipelines.limits import MediaLimits, checked_utterances

PACKAGE_PREFIX: Final = "package:"
MOST_THREADS: Final = 4
"""More threads gain little on a model of Whisper's small sizes."""
BEAM_SIZE: Final = 5
"""Whisper's own value (openai/whisper, transcribe.py)."""
GROUP_S: Final = 28.0
"""Longest run of speech that is recognised at once: Whisper's window is 30 s, and edges are added."""
EDGE_S: Final = 0.2
"""Sound around a run of speech that is heard with it."""
MOST_TOKENS: Final = 224
"""Of one window; half of Whisper's context, as its own decoder takes. Bounds what a loop costs."""

LEAST_LOG_PROBABILITY: Final = -0.75
LEAST_WORD_PROBABILITY: Final = 0.65
LEAST_SEGMENT_PROBABILITY: Final = 0.45
MOST_COMPRESSION: Final = 2.4
"""Bounds of what counts as understood, see docs/decisions.md for what they catch. 2.4 is Whisper's own value."""
OFF_SPEECH_S: Final = 0.3
"""A word this far from all voice is an invention."""

Spans = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechSettings:
    """Which model, and how it is run."""

    model: str
    """`package:NAME` (a Python package with a folder `model`), a folder, or a name that faster-whisper knows or finds on a hub."""
    device: str = "cpu"
    """`cpu` or `cuda`."""
    compute_type: str = "int8"
    """Of CTranslate2."""
    num_threads: int = 0
    """0: as many as there are cores, up to `MOST_THREADS`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """One word. Seconds from the wave's start."""

    start_s: float
    end_s: float
    text: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Withheld:
    """Speech for which no words are given, [start_s, end_s) from the wave's start."""

    start_s: float
    end_s: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelNote:
    """What the recogniser says of itself with every answer."""

    available: bool
    reason: str = ""
    """Why it is not, with the remedy."""
    model: str = ""
    languages: tuple[str, ...] = ()
    """Codes of the languages that it knows."""
    device: str = ""
    compute_type: str = ""
    sha256: str = ""
    """Of the weights; "" where they are fetched from a hub."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """What was heard in one wave."""

    note: ModelNote
    words: tuple[Word, ...] = ()
    speech_s: tuple[tuple[float, float], ...] = ()
    """Where the voice detector finds speech."""
    withheld: tuple[Withheld, ...] = ()
    language: str = ""
    language_probability: float = 0.0
    """1 where the language was given or the model knows one alone; 0 where nothing was recognised."""
    no_speech: float = 1.0
    """Highest of Whisper's own probabilities that a window holds no speech; 1 where the voice detector found none."""
    audio_errors: int = field(default=0)

    def to_arrays(self, start_s: float) -> dict[str, npt.NDArray[Any]]:
        """The outputs of the served model `speech`, on the clock on which the wave begins at `start_s`."""
        withheld = [
            {**asdict(each), "start_s": each.start_s + start_s, "end_s": each.end_s + start_s} for each in self.withheld
        ]
        info = {**asdict(self.note), "withheld": withheld}
        return {
            "SPOKEN": np.array([each.text.encode() for each in self.words], np.object_),
            "WORD_TIMES": _pairs((each.start_s, each.end_s) for each in self.words) + start_s,
            "WORD_PROBABILITIES": np.array([each.probability for each in self.words], np.float32),
            "SPEECH": _pairs(self.speech_s) + start_s,
            "NO_SPEECH": np.array([self.no_speech], np.float32),
            "SPOKEN_LANGUAGE": np.array([self.language.encode()], np.object_),
            "LANGUAGE_PROBABILITY": np.array([self.language_probability], np.float32),
            "AUDIO_ERRORS": np.array([self.audio_errors], np.int32),
            "SPEECH_INFO": np.array([json.dumps(info).encode()], np.object_),
        }


def _pairs(rows: Iterable[tuple[float, float]]) -> Spans:
    return np.array(list(rows), np.float64).reshape(-1, 2)


class Unavailable(Exception):
    """The recogniser can't be loaded; the message says why and what mends it."""


class Recogniser:
    """Words of waves. Not for several threads at once.

    Raises:
        Unavailable: a package or the model is missing, or the device can't be used.
    """

    def __init__(self, settings: SpeechSettings) -> None:
        try:
            from faster_whisper import WhisperModel
            from faster_whisper.vad import VadOptions, get_speech_timestamps
        except ImportError as error:
            raise Unavailable(
                f"the package {error.name} is not installed where the server runs; run: pip install 'fv2es[speech]'"
            ) from error
        place = model_place(settings.model)
        threads = settings.num_threads or min(len(os.sched_getaffinity(0)), MOST_THREADS)
        try:
            self._model = WhisperModel(
                place, device=settings.device, compute_type=settings.compute_type, cpu_threads=threads
            )
        except Exception as error:
            raise Unavailable(
                f"the speech model {settings.model!r} can't be loaded on {settings.device} ({type(error).__name__}: {error}); "
                "set FV2ES_SPEECH_MODEL to a folder with a Whisper model for CTranslate2, or to a name that the hub has"
            ) from error
        self._find_speech = get_speech_timestamps
        self._vad = VadOptions(
            min_silence_duration_ms=300, speech_pad_ms=100, min_speech_duration_ms=150, max_speech_duration_s=GROUP_S
        )
        self.note = ModelNote(
            available=True,
            model=shown_name(settings.model),
            languages=tuple(self._model.supported_languages),
            device=settings.device,
            compute_type=settings.compute_type,
            sha256=weights_sha256(place),
        )
        list(self._model.transcribe(np.zeros(SAMPLE_RATE_HZ, np.float32), temperature=0.0)[0])  # warm-up

    def __call__(self, wave: Wave, language: str = "", *, audio_errors: int = 0) -> Heard:
        """What is said in a wave.

        Args:
            wave: float32 [T], 16 kHz mono.
            language: code such as `en`; "": found out where the model knows several.
            audio_errors: passed on.
        """
        found = self._find_speech(wave, self._vad)
        speech_s = tuple((each["start"] / SAMPLE_RATE_HZ, each["end"] / SAMPLE_RATE_HZ) for each in found)
        if not speech_s:
            return Heard(note=self.note, audio_errors=audio_errors)
        if language and language not in self.note.languages:
            reason = f"the model {self.note.model} knows {_listed(self.note.languages)}, not {language}"
            withheld = tuple(Withheld(start_s=a, end_s=b, reason=reason) for a, b in speech_s)
            return Heard(note=self.note, speech_s=speech_s, withheld=withheld, no_speech=0.0, audio_errors=audio_errors)
        words: list[Word] = []
        unsaid: list[Withheld] = []
        spoken, certainty, no_speech = language, 1.0 if language else 0.0, 0.0
        for group in grouped(speech_s):
            start_s = max(group[0][0] - EDGE_S, 0.0)
            end_s = min(group[-1][1] + EDGE_S, len(wave) / SAMPLE_RATE_HZ)
            segments, info = self._model.transcribe(
                wave[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)],
                language=spoken or None,
                beam_size=BEAM_SIZE,
                temperature=0.0,
                condition_on_previous_text=False,
                word_timestamps=True,
                max_new_tokens=MOST_TOKENS,
            )
            parts = list(segments)
            if not spoken:
                spoken, certainty = info.language, float(info.language_probability)
            no_speech = max([no_speech, *(each.no_speech_prob for each in parts)])
            reason = doubt(parts, self.note.languages)
            if reason:
                unsaid += [Withheld(start_s=a, end_s=b, reason=reason) for a, b in group]
                continue
            for part in parts:
                if np.mean([each.probability for each in part.words or ()] or [0.0]) < LEAST_SEGMENT_PROBABILITY:
                    span = (part.start + start_s, min(part.end + start_s, end_s))
                    unsaid.append(Withheld(start_s=span[0], end_s=span[1], reason=NOT_UNDERSTOOD))
                else:
                    words += _placed(part.words or (), start_s, group)
        return Heard(
            note=self.note,
            words=tuple(words),
            speech_s=speech_s,
            withheld=tuple(unsaid),
            language=spoken,
            language_probability=certainty,
            no_speech=no_speech,
            audio_errors=audio_errors,
        )


NOT_UNDERSTOOD: Final = "not understood"


def _listed(languages: Sequence[str]) -> str:
    return ", ".join(languages[:5]) + (f" and {len(languages) - 5} more" if len(languages) > 5 else "")


def _foreign(languages: Sequence[str]) -> str:
    few = len(languages) <= 5
    return f"a language other than {_listed(languages)}" if few else "a language that the model knows badly"


def model_place(name: str) -> str:
    """What faster-whisper is to load: a folder, or the name as it is.

    Raises:
        Unavailable: `package:NAME` names a package that is not installed, or has no folder `model`.
    """
    if not name.startswith(PACKAGE_PREFIX):
        return name
    package = name.removeprefix(PACKAGE_PREFIX)
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise Unavailable(
            f"the package {package}, which holds the speech model, is not installed where the server runs; "
            "run: pip install 'fv2es[speech]'"
        )
    folder = Path(spec.origin).parent / "model"
    if not (folder / "model.bin").is_file():
        raise Unavailable(
            f"the package {package} holds no model/model.bin; set FV2ES_SPEECH_MODEL to a folder or a name"
        )
    return str(folder)


def weights_sha256(place: str) -> str:
    """Of the weights in a folder; "" where `place` is none."""
    path = Path(place) / "model.bin"
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shown_name(name: str) -> str:
    """The model's name for people: what a package says in MODEL_NAME, else the last part of a path."""
    if not name.startswith(PACKAGE_PREFIX):
        return Path(name).name
    package = name.removeprefix(PACKAGE_PREFIX)
    return str(getattr(importlib.import_module(package), "MODEL_NAME", package))


def grouped(speech_s: Sequence[tuple[float, float]], most_s: float = GROUP_S) -> list[list[tuple[float, float]]]:
    """Neighbouring spans put together as long as they fit one window."""
    groups: list[list[tuple[float, float]]] = []
    for span in speech_s:
        if groups and span[1] - groups[-1][0][0] <= most_s:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def doubt(segments: Sequence[Any], languages: Sequence[str]) -> str:
    """Why the words of one window are not to be believed; "" where they are.

    Args:
        segments: of faster-whisper, with words.
        languages: that the model knows.
    """
    words = [word for each in segments for word in each.words or ()]
    if not words:
        return "no words were found"
    if max(each.compression_ratio for each in segments) > MOST_COMPRESSION:
        return f"the words repeat themselves, as they do in noise or in {_foreign(languages)}"
    log_probability = np.average(
        [each.avg_logprob for each in segments], weights=[len(each.tokens) for each in segments]
    )
    probability = np.mean([each.probability for each in words])
    if log_probability < LEAST_LOG_PROBABILITY or probability < LEAST_WORD_PROBABILITY:
        return f"{NOT_UNDERSTOOD} (mean word probability {probability:.2f}): noise, or {_foreign(languages)}"
    return ""


def _placed(words: Iterable[Any], offset_s: float, group: Sequence[tuple[float, float]]) -> list[Word]:
    """Words on the wave's clock, drawn to the voice: Whisper lets a first word begin, and a last one end, in silence."""
    placed: list[Word] = []
    for each in words:
        start_s, end_s = float(each.start) + offset_s, float(each.end) + offset_s
        near = [
            (max(start_s, a), min(end_s, b))
            for a, b in group
            if min(end_s, b) > max(start_s, a) - (OFF_SPEECH_S if end_s - start_s < OFF_SPEECH_S else 0)
        ]
        if not near:
            continue
        begin_s, stop_s = max(near, key=lambda span: span[1] - span[0])
        if stop_s < begin_s:  # a short word just beside the voice stays where it is
            begin_s, stop_s = start_s, end_s
        begin_s = max(begin_s, placed[-1].end_s if placed else 0.0)
        if (
            placed and each.word and not each.word[0].isspace() and not each.word[0].isalnum()
        ):  # "-up", ".C.": of the word before
            placed[-1] = replace(placed[-1], end_s=max(stop_s, begin_s), text=placed[-1].text + str(each.word).strip())
            continue
        placed.append(
            Word(
                start_s=begin_s,
                end_s=max(stop_s, begin_s),
                text=str(each.word).strip(),
                probability=float(each.probability),
            )
        )
    return [each for each in placed if each.text]


class SpeechPipeline:
    """From an encoded clip to words on its clock; says so where there is no recogniser."""

    def __init__(self, settings: SpeechSettings, *, limits: MediaLimits | None = None) -> None:
        self._limits = limits or MediaLimits()
        self._recogniser: Recogniser | None = None
        try:
            self._recogniser = Recogniser(settings)
            self.note = self._recogniser.note
        except Unavailable as missing:
            self.note = ModelNote(available=False, reason=str(missing), model=settings.model, device=settings.device)

    def __call__(self, clip: ClipBytes, stretch_s: npt.ArrayLike, language: bytes = b"") -> dict[str, npt.NDArray[Any]]:
        """Outputs of the served model `speech`.

        Args:
            clip: encoded media.
            stretch_s: float64 [2], start and end in seconds on the clip's clock.
            language: code, or empty.

        Raises:
            PipelineError: the clip or the stretch can't be used; the class says how.
        """
        span = checked_utterances(np.asarray(stretch_s, np.float64).reshape(1, -1), self._limits)
        try:
            code = language.decode().strip().lower()
        except UnicodeDecodeError as error:
            raise InvalidWords("LANGUAGE is not UTF-8; give a code such as en", row=0) from error
        start_s = float(span[0, 0])
        if self._recogniser is None:
            return Heard(note=self.note).to_arrays(start_s)
        with open_clip(clip, limits=self._limits, pictures=False) as opened:
            sound = read_sound(opened, span)
        wave = sound.waves[0]
        if wave is None:
            return Heard(note=self.note, audio_errors=sound.audio_errors).to_arrays(start_s)
        return self._recogniser(wave, code, audio_errors=sound.audio_errors).to_arrays(start_s)


def settings_from(parameters: Mapping[str, str], environment: Mapping[str, str]) -> SpeechSettings:
    """What `parameters` of config.pbtxt and the environment say; FV2ES_SPEECH_MODEL goes before the parameter `model`."""
    return SpeechSettings(
        model=environment.get("FV2ES_SPEECH_MODEL") or parameters["model"],
        device=parameters.get("device", "cpu"),
        compute_type=parameters.get("compute_type", "int8"),
    )
