"""What an analysis gives: utterances with their emotions, in order, and what could not be done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from fv2es.errors import ModelUnavailable
from fv2es.fields import Fields

MODALITIES = ("text", "visual", "acoustic")
"""Order of the middle axis of MODALITY_LOGITS and of PRESENT."""

SCHEMA_VERSION = 1

UTTERANCE_KINDS = ("transcript", "subtitles", "speech", "windows")
"""Where utterances may come from: a given transcript, subtitles inside the file, speech recognition, fixed windows."""

LEAST_EVIDENCE = 0.9
"""Logit that one label at least must reach before an utterance counts as clear; without any evidence all are 0. With the default weights it
makes a label almost twice as likely as it was without having looked: 0.36 to 0.43 instead of 0.18 to 0.23."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One sampled picture."""

    time_s: float
    """On the source's clock."""
    box_px: tuple[float, float, float, float] | None
    """Largest face: x0, y0, x1, y1 in the upright picture; None: no face was found, the picture took no part."""
    score: float | None
    """The detector's probability."""

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON output."""
        return {"time_s": round(self.time_s, 6), "box_px": self.box_px and list(self.box_px), "score": self.score}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Out of its JSON form; raises ResultError."""
        box = fields.numbers("box_px", count=4)
        box_px = None if box is None else (box[0], box[1], box[2], box[3])
        score = fields.number_or_none("score", least=0, most=1)
        if (box is None) != (score is None):
            raise fields.error("box_px and score must both be null or neither")
        return cls(time_s=fields.number("time_s"), box_px=box_px, score=score)


@dataclass(frozen=True, kw_only=True, slots=True)
class Modality:
    """What one modality said."""

    present: bool
    logits: Mapping[str, float] | None
    """By label, without those that this modality has never learnt; None where the modality is absent."""

    @classmethod
    def from_fields(cls, fields: Fields, labels: Sequence[str]) -> Self:
        """Out of its JSON form; raises ResultError."""
        present = fields.flag("present")
        logits = fields.table_or_none("logits", known=labels)
        if present is (logits is None):
            raise fields.error("logits must be null if and only if present is false")
        return cls(present=present, logits=logits)


def contributions(modalities: Mapping[str, Modality], weights: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What each present modality adds to the fused logits, as the model's fusion does it: its weight times its logit.

    Args:
        modalities: by name.
        weights: of the fusion, by the same names; empty where the server's manifest does not say them.
    """
    return {
        name: {label: weights[name] * logit for label, logit in each.logits.items()}
        for name, each in modalities.items()
        if each.logits is not None and name in weights
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackPoint:
    """The emotions of a window [start_s, end_s) within an utterance, from the same features."""

    start_s: float
    end_s: float
    probabilities: Mapping[str, float]
    """By label, 0..1."""
    is_clear: bool
    """As `UtteranceResult.is_clear`."""
    present: tuple[str, ...]
    """Modalities that took part; words count for all windows of their utterance."""

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON output."""
        return {
            "start_s": self.start_s,
            "end_s": self.end_s,
            "probabilities": dict(self.probabilities),
            "clear": self.is_clear,
            "present": list(self.present),
        }

    @classmethod
    def from_fields(cls, fields: Fields, labels: Sequence[str]) -> Self:
        """Out of its JSON form; raises ResultError."""
        start_s, end_s = fields.span()
        return cls(
            start_s=start_s,
            end_s=end_s,
            probabilities=fields.table("probabilities", labels=labels, least=0, most=1),
            is_clear=fields.flag("clear"),
            present=fields.texts("present"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class UtteranceResult:
    """The emotions of one utterance, [start_s, end_s) on the source's clock."""

    index: int
    start_s: float
    end_s: float
    text: str
    probabilities: Mapping[str, float]
    """By label, 0..1; labels are independent."""
    logits: Mapping[str, float]
    modalities: Mapping[str, Modality]
    """Keys: text, visual, acoustic."""
    frames: tuple[Frame, ...]
    contributions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What each modality adds to `logits`, by modality and label; they add up to `logits`. A modality that is absent, or a
    label that it has never learnt, has no entry and adds nothing. Empty where the model's weights are not known."""
    speech_share: float | None = None
    """Share of the time in which somebody speaks, 0..1; None: nobody listened for speech."""
    track: tuple[TrackPoint, ...] = ()
    """Windows that slide over it, where they were asked for (see `TrackRule`)."""

    @property
    def num_faces(self) -> int:
        """How many of the frames show a face."""
        return sum(frame.box_px is not None for frame in self.frames)

    @property
    def face_share(self) -> float | None:
        """Share of the frames that show a face, 0..1; None: there are no frames."""
        return self.num_faces / len(self.frames) if self.frames else None

    @property
    def top_label(self) -> str:
        """The label of the highest probability."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        """The probability of `top_label`, 0..1. How far to trust it is in the model card; look at `is_clear` as well."""
        return self.probabilities[self.top_label]

    @property
    def duration_s(self) -> float:
        """Its length."""
        return self.end_s - self.start_s

    @property
    def is_clear(self) -> bool:
        """Whether there is enough evidence for any label, see `LEAST_EVIDENCE`."""
        return max(self.logits.values()) >= LEAST_EVIDENCE

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON output."""
        return {
            "index": self.index,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "text": self.text,
            "probabilities": dict(self.probabilities),
            "top_label": self.top_label,
            "confidence": self.confidence,
            "clear": self.is_clear,
            "logits": dict(self.logits),
            "modalities": {
                name: {"present": each.present, "logits": each.logits and dict(each.logits)}
                for name, each in self.modalities.items()
            },
            "contributions": {name: dict(each) for name, each in self.contributions.items()},
            "frames": [frame.to_dict() for frame in self.frames],
            "faces": self.num_faces,
            "face_share": self.face_share,
            "speech_share": self.speech_share,
            "track": [each.to_dict() for each in self.track],
        }

    @classmethod
    def from_fields(cls, fields: Fields, labels: Sequence[str]) -> Self:
        """Out of its JSON form; what follows from other fields (confidence, clear ...) is found anew. Raises ResultError."""
        start_s, end_s = fields.span()
        modalities = fields.inner("modalities")
        added = fields.inner("contributions")
        return cls(
            index=fields.whole("index"),
            start_s=start_s,
            end_s=end_s,
            text=fields.text("text"),
            probabilities=fields.table("probabilities", labels=labels, least=0, most=1),
            logits=fields.table("logits", labels=labels),
            modalities={name: Modality.from_fields(modalities.inner(name), labels) for name in MODALITIES},
            contributions={
                name: table
                for name in MODALITIES
                if name in added and (table := added.table_or_none(name, known=labels)) is not None
            },
            frames=tuple(Frame.from_fields(each) for each in fields.items("frames")),
            speech_share=fields.number_or_none("speech_share", least=0, most=1),
            track=tuple(TrackPoint.from_fields(each, labels) for each in fields.items("track")),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LostUtterance:
    """An utterance that could not be scored."""

    index: int
    start_s: float
    end_s: float
    text: str
    error: str
    """Class of the error, or NoMedia where the file holds nothing for that time."""
    reason: str
    """Its message."""

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON output."""
        return {
            "index": self.index,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "text": self.text,
            "error": self.error,
            "reason": self.reason,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Out of its JSON form; raises ResultError."""
        start_s, end_s = fields.span()
        return cls(
            index=fields.whole("index"),
            start_s=start_s,
            end_s=end_s,
            text=fields.text("text"),
            error=fields.text("error"),
            reason=fields.text("reason"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class UtteranceSource:
    """Where the utterances come from."""

    kind: str
    """One of `UTTERANCE_KINDS`."""
    reason: str
    """Why, for people."""

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON output."""
        return {"kind": self.kind, "reason": self.reason}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Out of its JSON form; raises ResultError."""
        kind = fields.text("kind")
        if kind not in UTTERANCE_KINDS:
            raise fields.error(f"kind {kind!r} must be one of {', '.join(UTTERANCE_KINDS)}")
        return cls(kind=kind, reason=fields.text("reason"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """Which weights answered, and on what."""

    name: str
    sha256: str
    labels: tuple[str, ...]
    trained: bool
    """False: the weights are random, what they say means nothing."""
    precision: str
    server_version: str
    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Labels that a modality has never learnt and takes no part in, by modality."""
    modality_weights: Mapping[str, float] = field(default_factory=dict)
    """What the fusion multiplies each modality's logits with; empty where the manifest does not say it."""

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any], *, server_version: str, address: str) -> "ModelInfo":
        """Out of what the server's model `manifest` says.

        Raises:
            ModelUnavailable: it is not of the form that this client knows.
        """
        try:
            return cls(
                name=manifest["name"],
                sha256=manifest["sha256"],
                labels=tuple(manifest["labels"]),
                trained=manifest["trained"],
                precision=manifest["precision"],
                server_version=server_version,
                unknown={
                    name: tuple(each for each, known in zip(manifest["labels"], own["known"], strict=True) if not known)
                    for name, own in manifest.get("branches", {}).items()
                },
                modality_weights={name: float(weight) for name, weight in manifest.get("modality_weights", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelUnavailable(
                address,
                f"its manifest is not of a form that this client knows ({error!r}); client and model repository must be of one version",
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON output."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "labels": list(self.labels),
            "trained": self.trained,
            "unknown": {name: list(labels) for name, labels in self.unknown.items() if labels},
            "modality_weights": dict(self.modality_weights),
            "precision": self.precision,
            "server_version": self.server_version,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Out of its JSON form; raises ResultError."""
        labels = fields.texts("labels")
        if not labels or len(set(labels)) < len(labels):
            raise fields.error("labels must be different, and at least one")
        unknown, weights = fields.inner("unknown"), fields.inner("modality_weights")
        return cls(
            name=fields.text("name"),
            sha256=fields.text("sha256"),
            labels=labels,
            trained=fields.flag("trained"),
            precision=fields.text("precision"),
            server_version=fields.text("server_version"),
            unknown={name: unknown.texts(name) for name in unknown},
            modality_weights={name: weights.number(name) for name in weights},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How long it took, seconds."""

    wall_s: float
    first_utterance_s: float | None
    """Until the first utterance was there; None: there was none."""
    media_s: float
    """Length of the utterances that were scored."""

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON output."""
        return {
            "wall_s": round(self.wall_s, 3),
            "first_utterance_s": self.first_utterance_s and round(self.first_utterance_s, 3),
            "media_s": round(self.media_s, 3),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Out of its JSON form; raises ResultError."""
        return cls(
            wall_s=fields.number("wall_s", least=0),
            first_utterance_s=fields.number_or_none("first_utterance_s", least=0),
            media_s=fields.number("media_s", least=0),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The analysis of one source."""

    source: Mapping[str, Any]
    """path, duration_s and what else is known of the file."""
    model: ModelInfo
    utterances: tuple[UtteranceResult, ...]
    lost: tuple[LostUtterance, ...]
    """Utterances that could not be scored, each with its reason; empty when all went well."""
    notes: tuple[str, ...]
    """What was repaired or left out on the way, for people."""
    timing: Timing
    utterance_source: UtteranceSource

    @property
    def overall(self) -> dict[str, float]:
        """Mean probability over the time of the utterances, by label: long ones count more. Empty when there are none."""
        return overall(self.utterances, self.model.labels, [each.duration_s for each in self.utterances])

    @property
    def overall_unweighted(self) -> dict[str, float]:
        """Mean probability over the utterances, by label, as the paper scores a video. Empty when there are none."""
        return overall(self.utterances, self.model.labels, [1.0] * len(self.utterances))

    @property
    def items(self) -> tuple[UtteranceResult | LostUtterance, ...]:
        """Utterances and lost ones together, in order."""
        return tuple(sorted((*self.utterances, *self.lost), key=lambda each: each.index))

    @property
    def extent_s(self) -> tuple[float, float]:
        """Start and end of a picture's axis on the source's clock: the source's own, and whatever lies beyond it."""
        start_s = float(self.source.get("start_s") or 0.0)
        end_s = max([start_s + float(self.source["duration_s"]), *(each.end_s for each in self.items)])
        start_s = min([start_s, *(each.start_s for each in self.items)])
        return start_s, end_s if end_s > start_s else start_s + 1.0

    @property
    def stack_top(self) -> float:
        """The height that stacked probabilities need: labels are independent, so they may add up to more than 1."""
        return max([1.0, *(sum(each.probabilities.values()) for each in self.utterances)])

    def to_dict(self) -> dict[str, Any]:
        """The JSON output, `schema_version` 1."""
        return {
            "schema_version": SCHEMA_VERSION,
            "source": dict(self.source),
            "model": self.model.to_dict(),
            "utterance_source": self.utterance_source.to_dict(),
            "utterances": [each.to_dict() for each in self.utterances],
            "overall": self.overall,
            "overall_unweighted": self.overall_unweighted,
            "lost": [each.to_dict() for each in self.lost],
            "notes": list(self.notes),
            "timing": self.timing.to_dict(),
        }

    @classmethod
    def from_dict(cls, value: object, *, place: str = "result") -> Self:
        """The result that `to_dict` or a JSON file gives. Fields that this version does not know are ignored.

        Args:
            value: what `json.loads` made of it.
            place: how an error names it, such as the file's name.

        Raises:
            ResultError: it is of another schema version, or a field is missing or outside its rule.
        """
        fields = Fields(value, place)
        if (version := fields.whole("schema_version")) != SCHEMA_VERSION:
            raise fields.error(
                f"schema_version {version} is not {SCHEMA_VERSION}; read it with the fv2es that wrote it"
            )
        source = fields.inner("source")
        source.text("path")
        source.number("duration_s", least=0)
        model = ModelInfo.from_fields(fields.inner("model"))
        return cls(
            source=source.value,
            model=model,
            utterances=tuple(UtteranceResult.from_fields(each, model.labels) for each in fields.items("utterances")),
            lost=tuple(LostUtterance.from_fields(each) for each in fields.items("lost")),
            notes=fields.texts("notes"),
            timing=Timing.from_fields(fields.inner("timing")),
            utterance_source=UtteranceSource.from_fields(fields.inner("utterance_source")),
        )


def overall(utterances: Sequence[UtteranceResult], labels: Sequence[str], weights: Sequence[float]) -> dict[str, float]:
    """Weighted mean probability over utterances by label; empty for no utterances.

    Args:
        utterances: all with `labels`.
        labels: in order.
        weights: one an utterance, > 0.
    """
    if not utterances:
        return {}
    return {
        label: sum(weight * each.probabilities[label] for each, weight in zip(utterances, weights, strict=True))
        / sum(weights)
        for label in labels
    }
