"""From the lines that Locust's users wrote to what a step of a run gave."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PERCENTILES = (50, 90, 95, 99)
SETTLED = 0.25
"""Share of a step after its start that is not measured: films of the step before are still under way, all users begin together."""

Event = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One level of load. Times on the clock of `time.monotonic`."""

    level: float
    """Clients of the closed loop, or films a minute of the open one."""
    start_s: float
    end_s: float

    @property
    def measured_from_s(self) -> float:
        """Where what is measured begins."""
        return self.start_s + SETTLED * (self.end_s - self.start_s)


def read_events(path: Path) -> list[dict[str, Any]]:
    """All lines of a log of `benchmarks.locustfile`; one that was cut off at the end is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(each) for each in lines[:-1] if each]


def steps_of(events: Iterable[Event], levels: Sequence[float], step_s: float) -> list[Step]:
    """The steps of a run, from when it began."""
    start_s = next(each["at_s"] for each in events if each["event"] == "start")
    return [
        Step(level=level, start_s=start_s + index * step_s, end_s=start_s + (index + 1) * step_s)
        for index, level in enumerate(levels)
    ]


def outcome(step: Step, events: Sequence[Event], *, open_loop: bool) -> dict[str, Any]:
    """What a step gave, flat.

    Throughput counts utterances that came in the measured part of the step. Times of a closed loop are those of films that ended in it; of
    an open loop, of films that were due in it, however late they came: one that never came is an error of class `Unfinished`.
    """
    start_s, end_s = step.measured_from_s, step.end_s
    within = [each for each in events if start_s <= each["at_s"] < end_s]
    scored_s = [each["length_s"] for each in within if each["event"] == "utterance" and each["error"] is None]
    moment = "scheduled_s" if open_loop else "at_s"
    counted = [each for each in events if each["event"] == ("due" if open_loop else "film")]
    numbers = {each["film"] for each in counted if start_s <= each[moment] < end_s}
    films = [each for each in events if each["event"] == "film" and each["film"] in numbers]
    firsts = [each for each in events if each["event"] == "first" and each["film"] in numbers]
    errors = Counter(each["error"] for each in films if each["error"])
    errors += Counter(Unfinished=len(numbers) - len(films))
    lost = Counter(
        each["error"] for each in events if each["event"] == "utterance" and each["film"] in numbers and each["error"]
    )
    return {
        "measured_s": end_s - start_s,
        "video_s_per_s": sum(scored_s) / (end_s - start_s),
        "utterances": len(scored_s),
        "films": len(numbers),
        "films_done": sum(each["error"] is None for each in films),
        **_percentiles("film", [each["response_s"] for each in films if each["error"] is None]),
        **_percentiles("first_utterance", [each["response_s"] for each in firsts]),
        "error_classes": list(errors),
        "error_counts": list(errors.values()),
        "lost_classes": list(lost),
        "lost_counts": list(lost.values()),
    }


def _percentiles(name: str, times_s: Sequence[float]) -> dict[str, float | None]:
    """Such as `film_p99_s`; None without any."""
    found = np.percentile(times_s, PERCENTILES) if times_s else [None] * len(PERCENTILES)
    return {
        f"{name}_p{each}_s": None if value is None else float(value)
        for each, value in zip(PERCENTILES, found, strict=True)
    }


def server_shares(
    before: Mapping[str, tuple[int, int, int]], after: Mapping[str, tuple[int, int, int]]
) -> dict[str, Any]:
    """Of each model between two readings: requests, mean time in its queue and in work, as lists side by side.

    Args:
        before: at the first, by model: requests that succeeded, nanoseconds in the queue, nanoseconds in work.
        after: at the second.
    """
    models = [name for name in after if after[name][0] > before.get(name, (0, 0, 0))[0]]
    counts, queues, works = [], [], []
    for name in models:
        count, queue, work = (
            late - early for late, early in zip(after[name], before.get(name, (0, 0, 0)), strict=True)
        )
        counts.append(count)
        queues.append(queue / count / 1e9)
        works.append(work / count / 1e9)
    return {"models": models, "model_requests": counts, "model_queue_mean_s": queues, "model_work_mean_s": works}
