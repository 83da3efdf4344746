"""Clips that are scored: what is asked of `emotion` and of `fusion`, and what their answers come to."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tritonclient.grpc import InferResult

from fv2es.cutting import Clip, ClipRule, CutReport, cut
from fv2es.errors import Fv2esError
from fv2es.lanes import Question
from fv2es.result import (
    MODALITIES,
    Frame,
    LostUtterance,
    Modality,
    ModelInfo,
    UtteranceResult,
    contributions,
)
from fv2es.source import SourceInfo
from fv2es.track import MAX_WINDOWS, Features, TrackRule, Window, fusion_arrays, track_points, windows_of
from fv2es.utterances import Utterance
from fv2es.wire import (
    FUSION_MODEL,
    MODEL,
    ClipAnswer,
    Tensor,
    decode_fusion_response,
    decode_response,
    encode_fusion_request,
    encode_request,
)

Item = UtteranceResult | LostUtterance
"""What a stream yields, in the order of the source."""

NO_MEDIA = "NoMedia"
"""`LostUtterance.error` where the file holds nothing for the utterance's time: no exception belongs to it."""


class Scoring:
    """Asks about the utterances of one source, clip by clip, and collects the answers.

    Args:
        info: what `probe` found.
        utterances: in order, with None where the next one is not known yet.
        clip_rule: sizes of clips.
        model: whose answers are expected.
        track_rule: windows for a finer track; None: none.
        kept: `items` holds what is known; otherwise each is given out once and let go.
    """

    model_name = MODEL

    def __init__(
        self,
        info: SourceInfo,
        utterances: Iterator[Utterance | None],
        clip_rule: ClipRule,
        model: ModelInfo,
        track_rule: TrackRule | None = None,
        *,
        kept: bool = True,
    ) -> None:
        self._kept = kept
        self._track_rule = track_rule
        self._model = model
        self._report = CutReport()
        self._clips = cut(info, utterances, clip_rule, self._report)
        self._items: list[Item] = []
        self.num_items = 0
        """How many utterances are done or lost."""
        self.first_answer_s: float | None = None
        """When the first answer came, on the monotonic clock."""
        self.done_s = 0.0
        """Length of the utterances that are done or lost."""
        self._notes: list[tuple[int, str]] = []
        """With the clip's number: a journal's answers come before those that are sent."""
        self._num_losses = 0
        """How many of the report's losses have been given out."""

    def next_clip(self) -> Clip | None:
        """The next clip, cut now; None where its utterances are not known yet, or all clips have been cut."""
        return next(self._clips, None)

    def encode(self, clip: Clip) -> list[Tensor]:
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
        if self.first_answer_s is None:
            self.first_answer_s = time.monotonic()
        if answer.manifest["sha256"] != self._model.sha256:
            self._note(
                clip,
                f" were scored by other weights ({answer.manifest['sha256'][:12]}): the server changed its model during the analysis",
            )
        for kind, count in (("video", answer.num_video_errors), ("audio", answer.num_audio_errors)):
            if count:
                self._note(clip, f": {count} damaged {kind} packets were left out")
        if answer.num_fallback_frames:
            self._note(
                clip, f": {answer.num_fallback_frames} pictures were decoded on the CPU: the GPU's decoder can't"
            )
        results = list(_utterance_results(clip.utterances, answer, self._model))
        if self._track_rule is not None:
            outputs = {name: np.concatenate([part[name] for part in further]) for name in further[0]}
            points = track_points(windows_of(clip.utterances, self._track_rule), outputs, self._model.labels)
            results = [replace(each, track=tuple(own)) for each, own in zip(results, points, strict=True)]
        return self._take(results, clip.utterances[-1].index)

    def _note(self, clip: Clip, text: str) -> None:
        self._notes.append((clip.index, f"[{clip.start_s:.2f}, {clip.end_s:.2f}) s{text}"))

    def add_failure(self, clip: Clip, error: Fv2esError) -> list[Item]:
        """Take in that a clip is lost; gives its utterances as lost ones."""
        lost = (_lost(each, type(error).__name__, str(error)) for each in clip.utterances)
        return self._take(lost, clip.utterances[-1].index)

    def close(self) -> None:
        """Cut no more, and let go of the file."""
        self._clips.close()

    def remainder(self) -> list[Item]:
        """Utterances at the end for which the file holds nothing, as lost ones. To be called when all clips are in."""
        return self._take((), math.inf)

    def _take(self, items: Iterable[Item], last_index: float) -> list[Item]:
        """Keep items, and with them what cutting found no media for up to `last_index`; all in order."""
        new = list(items)
        while self._report.losses[self._num_losses :] and (
            self._report.losses[self._num_losses].utterance.index <= last_index
        ):
            loss = self._report.losses[self._num_losses]
            new.append(_lost(loss.utterance, NO_MEDIA, loss.reason))
            self._num_losses += 1
        new.sort(key=lambda each: each.index)
        self.num_items += len(new)
        if self._kept:
            self._items += new
        self.done_s += sum(each.end_s - each.start_s for each in new)
        return new

    @property
    def items(self) -> list[Item]:
        """What is known, in order; nothing unless it is kept."""
        return sorted(self._items, key=lambda each: each.index)

    @property
    def notes(self) -> tuple[str, ...]:
        """What answers and cutting tell; complete once all clips are in."""
        return (*(text for _, text in sorted(self._notes, key=lambda each: each[0])), *self._report.notes)


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
