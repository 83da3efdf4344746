"""What a training found out besides weights: it travels in the metadata of the `.safetensors` file with them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from fv2es_builders.errors import OtherLabels, UnreadableCheckpoint
from fv2es_builders.presets import MODALITIES

METADATA_KEY: Final = "fv2es.trained"
"""Name of the entry in the file's metadata."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchFacts:
    """What is known of one branch; a number for each label.

    The branch's logit of a label is evidence: 0 where it has learnt nothing. By itself it makes the label as likely as
    sigmoid(logit + ln(r / (1 - r))), where r is the label's base rate.
    """

    known: tuple[bool, ...]
    """False: the training data had no such label, and the logit is always 0."""
    base_rates: tuple[float, ...]
    """Share of validation data that the label holds for, in (0, 1)."""
    thresholds: tuple[float, ...]
    """Probability from which on the label is called, with the best F1 on validation data, in [0, 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedFacts:
    """What is known of a whole model."""

    labels: tuple[str, ...]
    pos_weight: tuple[float, ...] | None = None
    """See `fv2es_builders.presets.Preset.pos_weight`; None: the preset's."""
    branches: Mapping[str, BranchFacts] = field(default_factory=dict)
    """By modality."""

    def __post_init__(self) -> None:
        num_labels = len(self.labels)
        for name, own in self.branches.items():
            if name not in MODALITIES:
                raise ValueError(f"branch {name!r} must be one of {', '.join(MODALITIES)}")
            if not len(own.known) == len(own.base_rates) == len(own.thresholds) == num_labels:
                raise ValueError(f"branch {name} must say something of each of {num_labels} labels")
            if not all(0 < rate < 1 for rate in own.base_rates) or not all(0 <= each <= 1 for each in own.thresholds):
                raise ValueError(f"branch {name}: base rates must lie in (0, 1), thresholds in [0, 1]")
        if self.pos_weight is not None and not (len(self.pos_weight) == num_labels and min(self.pos_weight) > 0):
            raise ValueError(f"pos_weight {self.pos_weight} must hold a number > 0 for each of {num_labels} labels")

    def metadata(self) -> dict[str, str]:
        """As `safetensors` keeps it."""
        return {METADATA_KEY: json.dumps(asdict(self), sort_keys=True)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], *, path: Path, labels: Sequence[str]) -> "TrainedFacts":
        """What a file's metadata say; nothing but the labels where they say nothing.

        Args:
            metadata: of the file.
            path: the file, for messages.
            labels: of the preset, which the file's must equal.

        Raises:
            UnreadableCheckpoint: the entry is not of this form.
            OtherLabels: the weights were trained for other labels, or for these in another order.
        """
        if METADATA_KEY not in metadata:
            return cls(labels=tuple(labels))
        try:
            facts: dict[str, Any] = json.loads(metadata[METADATA_KEY])
            found = cls(
                labels=tuple(map(str, facts["labels"])),
                pos_weight=None if facts["pos_weight"] is None else tuple(map(float, facts["pos_weight"])),
                branches={
                    name: BranchFacts(
                        known=tuple(map(bool, own["known"])),
                        base_rates=tuple(map(float, own["base_rates"])),
                        thresholds=tuple(map(float, own["thresholds"])),
                    )
                    for name, own in facts["branches"].items()
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnreadableCheckpoint(
                path, f"its metadata entry {METADATA_KEY} is not of this version ({error!r}); train or fuse it anew"
            ) from error
        if found.labels != tuple(labels):
            raise OtherLabels(path, found=found.labels, labels=labels)
        return found
