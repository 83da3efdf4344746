"""What an analysis gives: utterances with their emotions, in order, and what could not be done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fv2es.errors import ModelUnavailable

MODALITIES = ("text", "visual", "acoustic")
"""Order of the middle axis of MODALITY_LOGITS and of PRESENT."""

SCHEMA_VERSION = 1

LEAST_EVIDENCE = 0.9
"""Logit that one label at least must reach before an utterance counts as clear; without any evidence all are 0. With the default weights it
makes a label twice as likely as it was without having looked: 0.35 instead of 0.17 to 0.19."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Modality:
    """What one modality said."""

    present: bool
    logits: Mapping[str, float] | None
    """By label, without those that this modality has never learnt; None where the modality is absent."""


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

    @property
    def num_faces(self) -> int:
        """How many of the frames show a face."""
        return sum(frame.box_px is not None for frame in self.frames)

    @property
    def top_label(self) -> str:
        """The label of the highest probability."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def is_clear(self) -> bool:
        """Whether there is enough evidence for any label, see `LEAST_EVIDENCE`."""
        return max(self.logits.values()) >= LEAST_EVIDENCE

    def to_dict(self) -> dict[str, Any]:
        """As in the JSON output."""
        return {
            "start_s": self.start_s,
            "end_s": self.end_s,
            "text": self.text,
            "probabilities": dict(self.probabilities),
            "clear": self.is_clear,
            "logits": dict(self.logits),
            "modalities": {
                name: {"present": each.present, "logits": each.logits and dict(each.logits)}
                for name, each in self.modalities.items()
            },
            "frames": [frame.to_dict() for frame in self.frames],
            "faces": self.num_faces,
        }


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
            "start_s": self.start_s,
            "end_s": self.end_s,
            "text": self.text,
            "error": self.error,
            "reason": self.reason,
        }


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
            "precision": self.precision,
            "server_version": self.server_version,
        }


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

    @property
    def overall(self) -> dict[str, float]:
        """Mean probability over the utterances, by label; empty when there are none."""
        return overall(self.utterances, self.model.labels)

    def to_dict(self) -> dict[str, Any]:
        """The JSON output, `schema_version` 1."""
        return {
            "schema_version": SCHEMA_VERSION,
            "source": dict(self.source),
            "model": self.model.to_dict(),
            "utterances": [each.to_dict() for each in self.utterances],
            "overall": self.overall,
            "lost": [each.to_dict() for each in self.lost],
            "notes": list(self.notes),
            "timing": self.timing.to_dict(),
        }


def overall(utterances: Sequence[UtteranceResult], labels: Sequence[str]) -> dict[str, float]:
    """Mean probability over utterances by label, as the paper scores a video; empty for no utterances."""
    if not utterances:
        return {}
    return {label: sum(each.probabilities[label] for each in utterances) / len(utterances) for label in labels}
