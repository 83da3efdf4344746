"""What a peer says about a film, and what it took. Answers travel between processes as JSON."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

STEPS: Final = ("decode", "faces", "visual", "sound", "acoustic", "text", "fusion")
"""Names of steps, in the order of the data. A peer that can't tell two apart has them under the first name."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one step took, in all of the film."""

    wall_s: float | None
    """None: not known."""
    cpu_s: float | None
    """Of all threads; None: not known."""


@dataclass(kw_only=True, slots=True)
class Clock:
    """Adds up what steps take in this process, all its threads included. Steps don't overlap."""

    steps: dict[str, Step] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done within."""
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            before = self.steps.get(name, Step(wall_s=0.0, cpu_s=0.0))
            self.steps[name] = Step(
                wall_s=(before.wall_s or 0.0) + time.perf_counter() - wall_s,
                cpu_s=(before.cpu_s or 0.0) + time.process_time() - cpu_s,
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sampled picture."""

    time_s: float
    """When it is shown, on the film's clock."""
    box_px: Box | None
    """Largest face: x0, y0, x1, y1; None: no face."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One utterance. Labels are those of the peer."""

    start_s: float
    end_s: float
    probabilities: Mapping[str, float]
    """Empty where the peer has nothing to say, such as a face-only one without a face."""
    modality_logits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By modality, those that are present alone; empty where the peer has no such thing."""
    samples: tuple[Sample, ...] = ()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Out of its JSON form."""
        samples = tuple(
            Sample(time_s=each["time_s"], box_px=None if each["box_px"] is None else _box(each["box_px"]))
            for each in fields["samples"]
        )
        return cls(**{**fields, "samples": samples})


def _box(numbers: list[float]) -> Box:
    x0, y0, x1, y1 = numbers
    return x0, y0, x1, y1


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """All that a peer says about one film."""

    utterances: tuple[Scored, ...]
    steps: Mapping[str, Step]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Out of its JSON form."""
        return cls(
            utterances=tuple(Scored.from_dict(each) for each in fields["utterances"]),
            steps={name: Step(**each) for name, each in fields["steps"].items()},
            notes=tuple(fields["notes"]),
        )
