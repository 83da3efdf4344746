"""One analysis of one source, apart from how requests travel: planning, collecting answers in order, deciding on failures.

`Client` and `AsyncClient` drive it; what they share is here, and none of it waits for a server.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tritonclient.grpc import InferInput, InferResult

from fv2es.cutting import Clip, ClipRule, CutReport, cut
from fv2es.errors import (
    ClipRejected,
    DeadlineExceeded,
    Fv2esError,
    InferenceFailed,
    ServerOverloaded,
    ServerUnreachable,
    TranscriptError,
    UsageError,
)
from fv2es.result import (
    MODALITIES,
    Frame,
    LostUtterance,
    Modality,
    ModelInfo,
    Result,
    Timing,
    UtteranceResult,
    UtteranceSource,
    contributions,
)
from fv2es.source import SourceInfo, probe
from fv2es.speech import Hearing, SpeechRule
from fv2es.subtitles import read_subtitles
from fv2es.track import MAX_WINDOWS, Features, TrackRule, Window, fusion_arrays, track_points, windows_of
from fv2es.transcript import Cue, read_transcript
from fv2es.utterances import (
    Utterance,
    UtteranceRule,
    plan_utterances,
    utterances_from_words,
    with_speech_share,
)
from fv2es.wire import (
    FUSION_MODEL,
    MODEL,
    ClipAnswer,
    decode_fusion_response,
    decode_response,
    encode_fusion_request,
    encode_request,
)

Item = UtteranceResult | LostUtterance
"""What a stream yields, in the order of the source."""

NO_MEDIA = "NoMedia"
"""`LostUtterance.error` where the file holds nothing for the utterance's time: no exception belongs to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientRule:
    """How a client treats a server."""

    max_in_flight: int = 4
    """Most clips that are sent and not yet answered; >= 1. Bounds the client's memory."""
    timeout_s: float = 300.0
    """Deadline of one clip from its sending to its answer, waiting in queues included; > 0."""
    recovery_s: float = 60.0
    """How long to wait for a server that stopped answering to come back; >= 0."""
    max_crashes: int = 3
    """Tries for a clip on which the server fails, the first included; >= 1."""

    def __post_init__(self) -> None:
        for name, least in (("max_in_flight", 1), ("recovery_s", 0), ("max_crashes", 1)):
            if not getattr(self, name) >= least:
                raise UsageError(f"{name}={getattr(self, name)} must be at least {least}")
        if not self.timeout_s > 0:
            raise UsageError(f"timeout_s={self.timeout_s:g} must be above 0 s")


class Verdict(Enum):
    """What to do after a clip failed."""

    LOSE_CLIP = "this clip is lost, the others go on"
    STOP = "no clip can succeed"
    BACK_OFF = "the server is busy; wait a little, then send again"
    RECOVER = "the server may have died; wait until it works, then send this clip alone"


@dataclass(kw_only=True, slots=True)
class Attempts:
    """The history of one clip that is being sent."""

    rule: ClientRule
    started_s: float = field(default_factory=time.monotonic)
    """Of its sending; once it was turned away, of the first time that this was noticed."""
    crashes: int = 0
    rejections: int = 0

    def verdict(self, error: Fv2esError) -> Verdict:
        """What to do about `error`; counts it."""
        if isinstance(error, ClipRejected | DeadlineExceeded):
            return Verdict.LOSE_CLIP
        if isinstance(error, ServerOverloaded):
            if not self.rejections:
                self.started_s = time.monotonic()  # until now it was behind the clips before it
            self.rejections += 1
            late = time.monotonic() - self.started_s >= self.rule.timeout_s
            return Verdict.LOSE_CLIP if late else Verdict.BACK_OFF
        if isinstance(error, InferenceFailed | ServerUnreachable):
            self.crashes += 1
            return Verdict.RECOVER if self.crashes < self.rule.max_crashes else Verdict.LOSE_CLIP
        return Verdict.STOP

    def back_off_s(self) -> float:
        """The next wait: doubling from 0.1 s up to 5 s, with full jitter so that clients don't return together."""
        return random.uniform(0.0, min(5.0, 0.1 * 2**self.rejections))  # noqa: S311 - no secret


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an analysis is."""

    done_s: float
    """Length of the utterances that are done or lost."""
    total_s: float
    """Length of all utterances."""
    done: int
    total: int
    """Utterances."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What will be asked about one source."""

    info: SourceInfo
    utterances: tuple[Utterance, ...]
    notes: tuple[str, ...]
    utterance_source: UtteranceSource

    @property
    def total_s(self) -> float:
        """Length of all utterances."""
        return sum(each.end_s - each.start_s for each in self.utterances)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """What is known of a source before a server is asked: all but recognised words."""

    info: SourceInfo
    rule: UtteranceRule
    speech_rule: SpeechRule
    cues: tuple[Cue, ...] | None
    """Of a transcript or of subtitles; None where there are none."""
    notes: tuple[str, ...]
    source: UtteranceSource | None
    """Where the utterances come from; None: from speech, if the server recognises any."""
    reason: str
    """Why there are no words from elsewhere, for people."""


def outline(source: Path | str, transcript: Path | str | None, rule: UtteranceRule, speech_rule: SpeechRule) -> Outline:
    """Look at the source, its subtitles and its transcript; decodes nothing.

    Raises:
        SourceError: the source can't be used.
        TranscriptError: the transcript can't be used.
    """
    info = probe(source)

    def drawn(
        cues: tuple[Cue, ...] | None, notes: tuple[str, ...], origin: UtteranceSource | None, reason: str = ""
    ) -> Outline:
        return Outline(
            info=info, rule=rule, speech_rule=speech_rule, cues=cues, notes=notes, source=origin, reason=reason
        )

    if transcript is not None:
        read = read_transcript(transcript)
        origin = UtteranceSource(kind="transcript", reason=f"the transcript {transcript} was given")
        return drawn(read.cues, read.notes, origin)
    reasons = ["no transcript was given"]
    notes: tuple[str, ...] = ()
    if speech_rule.subtitles:
        subtitles = read_subtitles(info, speech_rule.language)
        notes = subtitles.notes
        try:
            if subtitles.cues:
                plan_utterances(info, subtitles.cues, rule)
                origin = UtteranceSource(kind="subtitles", reason=f"{reasons[0]}, and the file has {subtitles.stream}")
                return drawn(subtitles.cues, notes, origin)
            reasons.append("the file has no text subtitles")
        except TranscriptError as error:
            reasons.append(f"its {subtitles.stream} can't be used: {error}")
    else:
        reasons.append("subtitles were not asked for")
    if info.audio is None:
        reasons.append("it has no sound")
    elif not speech_rule.recognise:
        reasons.append("speech recognition was not asked for")
    else:
        return drawn(None, notes, None, _sentence(reasons))
    return drawn(None, notes, UtteranceSource(kind="windows", reason=_sentence(reasons)))


def _sentence(reasons: Sequence[str]) -> str:
    return ", ".join([*reasons[:-1], f"and {reasons[-1]}"]) if len(reasons) > 1 else "".join(reasons)


def plan(outlined: Outline, hearing: Hearing | None = None) -> Plan:
    """Decide the utterances.

    Args:
        outlined: what is known without a server.
        hearing: what was heard, where `outlined.source` is None.
    """
    info, rule = outlined.info, outlined.rule
    if outlined.source is not None:
        planned = plan_utterances(info, outlined.cues, rule)
        notes = (*outlined.notes, *planned.notes)
        return Plan(info=info, utterances=planned.utterances, notes=notes, utterance_source=outlined.source)
    hearing = hearing or Hearing(missing="nobody listened")
    notes = (*outlined.notes, *hearing.notes)
    if not hearing.missing and (hearing.words or hearing.speech_s):
        spoken = utterances_from_words(info, hearing.words, rule, hearing.speech_s)
        if hearing.words:
            what = f"speech was recognised by the model {hearing.model} (language: {hearing.language})"
        else:
            what = f"a voice was heard, and none of its words was understood by the model {hearing.model}"
        origin = UtteranceSource(kind="speech", reason=f"{outlined.reason}; {what}")
        return Plan(info=info, utterances=spoken, notes=(*info.notes, *notes), utterance_source=origin)
    planned = plan_utterances(info, None, rule)
    windows = planned.utterances if hearing.missing else with_speech_share(planned.utterances, ())
    origin = UtteranceSource(kind="windows", reason=f"{outlined.reason}; {hearing.missing or 'no voice was heard'}")
    return Plan(info=info, utterances=windows, notes=(*notes, *planned.notes), utterance_source=origin)


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A small request about a clip that is answered already."""

    model_name: str
    inputs: list[InferInput]
    decode: Callable[..., Any]
    """Takes the response, and the server's `address` for errors."""


class Work(Protocol):
    """What a client does with one source: clips that are sent to one model, and answers that come back in their order."""

    model_name: str

    def clips(self) -> Iterator[Clip]:
        """The clips, each cut when it is asked for."""

    def encode(self, clip: Clip) -> list[InferInput]:
        """The request for a clip."""

    def decode(self, response: InferResult, *, address: str) -> Any:
        """The answer in a response."""

    def questions(self, clip: Clip, answer: Any) -> Iterator["Question"]:
        """What else is to be asked about a clip, now that it is answered."""

    def add_answer(self, clip: Clip, answer: Any, further: Sequence[Any]) -> list[Item]:
        """Take in an answer, and the answers to `questions`; gives what is known now."""

    def add_failure(self, clip: Clip, error: Fv2esError) -> list[Item]:
        """Take in that a clip is lost; gives what is known now."""

    def remainder(self) -> list[Item]:
        """What is left when all clips are in."""

    @property
    def progress(self) -> Progress | None:
        """How far it is; None where that can't be said."""


class Analysis:
    """Collects the answers of one source in order."""

    model_name = MODEL

    def __init__(
        self, planned: Plan, clip_rule: ClipRule, model: ModelInfo, track_rule: TrackRule | None = None
    ) -> None:
        self.plan = planned
        self._track_rule = track_rule
        self.model = model
        self._report = CutReport()
        self._clip_rule = clip_rule
        self._items: list[Item] = []
        self._notes = list(planned.notes)
        self._started_s = time.monotonic()
        self._first_s: float | None = None
        self._num_losses = 0
        """How many of the report's losses have been given out."""

    def clips(self) -> Iterator[Clip]:
        """The clips, cut one at a time while they are asked for."""
        return cut(self.plan.info, self.plan.utterances, self._clip_rule, self._report)

    def encode(self, clip: Clip) -> list[InferInput]:
        """The inputs of `emotion` for a clip."""
        spans_s = [(each.start_s, each.end_s) for each in clip.utterances]
        return encode_request(clip.data, spans_s, [each.text for each in clip.utterances])

    def decode(self, response: InferResult, *, address: str) -> ClipAnswer:
        """The answer in a response; raises `ModelUnavailable` where it is not of the form that this client knows."""
        return decode_response(response, address=address)

    def questions(self, clip: Clip, answer: ClipAnswer) -> Iterator[Question]:
        """Requests to `fusion` for the finer track, where one is wanted."""
        if self._track_rule is None:
            return
        features = Features(
            arrays=answer.features, frame_times_s=answer.frame_times_s, frame_utterance=answer.frame_utterance
        )
        for windows in _portions(windows_of(clip.utterances, self._track_rule), MAX_WINDOWS):
            arrays = fusion_arrays(features, clip.utterances, windows)
            yield Question(model_name=FUSION_MODEL, inputs=encode_fusion_request(arrays), decode=decode_fusion_response)

    def add_answer(self, clip: Clip, answer: ClipAnswer, further: Sequence[Any]) -> list[Item]:
        """Take in an answer, and the answers to `questions`; gives its utterances."""
        if self._first_s is None:
            self._first_s = time.monotonic() - self._started_s
        if answer.manifest["sha256"] != self.model.sha256:
            self._notes.append(
                f"[{clip.start_s:.2f}, {clip.end_s:.2f}) s were scored by other weights ({answer.manifest['sha256'][:12]}): "
                "the server changed its model during the analysis"
            )
        for kind, count in (("video", answer.num_video_errors), ("audio", answer.num_audio_errors)):
            if count:
                self._notes.append(
                    f"[{clip.start_s:.2f}, {clip.end_s:.2f}) s: {count} damaged {kind} packets were left out"
                )
        if answer.num_fallback_frames:
            self._notes.append(
                f"[{clip.start_s:.2f}, {clip.end_s:.2f}) s: {answer.num_fallback_frames} pictures were decoded on the CPU: "
                "the GPU's decoder can't"
            )
        results = list(_utterance_results(clip.utterances, answer, self.model))
        if self._track_rule is not None:
            outputs = {name: np.concatenate([part[name] for part in further]) for name in further[0]}
            points = track_points(windows_of(clip.utterances, self._track_rule), outputs, self.model.labels)
            results = [replace(each, track=tuple(own)) for each, own in zip(results, points, strict=True)]
        return self._take(results, clip.utterances[-1].index)

    def add_failure(self, clip: Clip, error: Fv2esError) -> list[Item]:
        """Take in that a clip is lost; gives its utterances as lost ones."""
        lost = (_lost(each, type(error).__name__, str(error)) for each in clip.utterances)
        return self._take(lost, clip.utterances[-1].index)

    def remainder(self) -> list[Item]:
        """Utterances at the end for which the file holds nothing, as lost ones. To be called when all clips are in."""
        return self._take((), len(self.plan.utterances))

    def _take(self, items: Iterable[Item], last_index: int) -> list[Item]:
        """Keep items, and with them what cutting found no media for up to `last_index`; all in order."""
        new = list(items)
        while self._report.losses[self._num_losses :] and (
            self._report.losses[self._num_losses].utterance.index <= last_index
        ):
            loss = self._report.losses[self._num_losses]
            new.append(_lost(loss.utterance, NO_MEDIA, loss.reason))
            self._num_losses += 1
        new.sort(key=lambda each: each.index)
        self._items += new
        return new

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            done_s=sum(each.end_s - each.start_s for each in self._items),
            total_s=self.plan.total_s,
            done=len(self._items),
            total=len(self.plan.utterances),
        )

    def result(self) -> Result:
        """Everything, once all clips are in."""
        items = sorted(self._items, key=lambda each: each.index)  # a journal's answers come before those that are sent
        scored = tuple(each for each in items if isinstance(each, UtteranceResult))
        return Result(
            source=self.plan.info.to_dict(),
            model=self.model,
            utterances=scored,
            lost=tuple(each for each in items if isinstance(each, LostUtterance)),
            notes=(*self._notes, *self._report.notes),
            timing=Timing(
                wall_s=time.monotonic() - self._started_s,
                first_utterance_s=self._first_s,
                media_s=sum(each.end_s - each.start_s for each in scored),
            ),
            utterance_source=self.plan.utterance_source,
        )


def _portions(windows: list[Window], most: int) -> Iterator[list[Window]]:
    for start in range(0, len(windows), most):
        yield windows[start : start + most]


def _lost(utterance: Utterance, error: str, reason: str) -> LostUtterance:
    return LostUtterance(
        index=utterance.index,
        start_s=utterance.start_s,
        end_s=utterance.end_s,
        text=utterance.text,
        error=error,
        reason=reason,
    )


def _utterance_results(
    utterances: tuple[Utterance, ...], answer: ClipAnswer, model: ModelInfo
) -> Iterator[UtteranceResult]:
    labels = model.labels
    frames: list[list[Frame]] = [[] for _ in utterances]
    for time_s, row, box, score in zip(
        answer.frame_times_s, answer.frame_utterance, answer.frame_boxes_px, answer.frame_scores, strict=True
    ):
        x0, y0, x1, y1 = map(float, box)
        found = score > 0
        frames[row].append(
            Frame(
                time_s=float(time_s), box_px=(x0, y0, x1, y1) if found else None, score=float(score) if found else None
            )
        )
    for row, utterance in enumerate(utterances):
        modalities = {
            name: Modality(
                present=bool(answer.present[row, place]),
                logits={
                    label: logit
                    for label, logit in zip(labels, answer.modality_logits[row, place].tolist(), strict=True)
                    if label not in model.unknown.get(name, ())
                }
                if answer.present[row, place]
                else None,
            )
            for place, name in enumerate(MODALITIES)
        }
        yield UtteranceResult(
            index=utterance.index,
            start_s=utterance.start_s,
            end_s=utterance.end_s,
            text=utterance.text,
            speech_share=utterance.speech_share,
            probabilities=dict(zip(labels, answer.probabilities[row].tolist(), strict=True)),
            logits=dict(zip(labels, answer.logits[row].tolist(), strict=True)),
            modalities=modalities,
            contributions=contributions(modalities, model.modality_weights),
            frames=tuple(frames[row]),
        )
