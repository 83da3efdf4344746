"""One analysis of one source, apart from how requests travel: what is asked next, progress, the result, deciding on failures."""

import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from fv2es.cutting import Clip, ClipRule
from fv2es.errors import (
    ClipRejected,
    DeadlineExceeded,
    Fv2esError,
    InferenceFailed,
    ServerOverloaded,
    ServerUnreachable,
    UsageError,
)
from fv2es.journal import Journal, Journalled
from fv2es.lanes import Lane, Request
from fv2es.planning import Plan
from fv2es.result import LostUtterance, ModelInfo, Result, Timing, UtteranceResult
from fv2es.scoring import Item, Scoring
from fv2es.track import TrackRule

RECOGNITION_WEIGHT = 0.4
"""What recognising a second of sound costs against scoring a second of film, for progress alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientRule:
    """How a client treats a server."""

    max_in_flight: int = 4
    """Most clips that are sent and not yet answered; >= 1."""
    max_in_flight_bytes: int = 32_000_000
    """No further clip is cut while those under way hold this much or more; > 0. With the size of one clip it bounds the client's memory:
    each byte under way is held once, and twice more until it is sent."""
    max_in_flight_s: float = 300.0
    """The same for the length of their utterances: what a server would lose with a crash; > 0."""
    timeout_s: float = 3600.0
    """How long a clip is sent again to a server that is too busy for it, once it is the next one to be settled; > 0."""
    request_timeout_s: float = 300.0
    """Deadline of one request, from the sending of a clip to its answer, waiting in queues included; it is never longer than what
    `timeout_s` leaves; > 0."""
    max_late: int = 3
    """Tries for a clip that is not answered within its request's deadline, the first included; >= 1."""
    recovery_s: float = 60.0
    """How long to wait for a server that stopped answering to come back; >= 0."""
    max_crashes: int = 3
    """Tries for a clip on which the server fails, the first included; >= 1."""

    def __post_init__(self) -> None:
        for name, least in (("max_in_flight", 1), ("max_late", 1), ("recovery_s", 0), ("max_crashes", 1)):
            if not getattr(self, name) >= least:
                raise UsageError(f"{name}={getattr(self, name)} must be at least {least}")
        for name in ("timeout_s", "request_timeout_s", "max_in_flight_bytes", "max_in_flight_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name}={getattr(self, name):g} must be above 0")

    def admits(self, under_way: Sequence[Clip]) -> bool:
        """Whether one more clip may be cut and sent beside those that are under way."""
        return (
            len(under_way) < self.max_in_flight
            and sum(len(each.data) for each in under_way) < self.max_in_flight_bytes
            and sum(each.end_s - each.start_s for each in under_way) < self.max_in_flight_s
        )


class Verdict(Enum):
    """What to do after a clip failed."""

    LOSE_CLIP = "this clip is lost, the others go on"
    STOP = "no clip can succeed"
    BACK_OFF = "the server is busy; wait a little, then send again"
    RECOVER = (
        "the server may have died, or this clip needs it for itself; wait until it works, then send this clip alone"
    )


@dataclass(kw_only=True, slots=True)
class Attempts:
    """The history of one clip that is being sent."""

    rule: ClientRule
    hindered_s: float | None = None
    """Since when a busy server has kept it from its answer, on the monotonic clock: noticed when it is the next one to be settled, so that
    clips behind it don't lose their time to it; None: it has not."""
    rejections: int = 0
    late: int = 0
    crashes: int = 0

    def verdict(self, error: Fv2esError) -> Verdict:
        """What to do about `error`; counts it."""
        if isinstance(error, ClipRejected):
            return Verdict.LOSE_CLIP
        if isinstance(error, ServerOverloaded):
            self._hindered(0.0)
            self.rejections += 1
            return Verdict.BACK_OFF if self.left_s > 0 else Verdict.LOSE_CLIP
        if isinstance(error, DeadlineExceeded):
            self._hindered(error.timeout_s)
            self.late += 1
            return Verdict.RECOVER if self.late < self.rule.max_late and self.left_s > 0 else Verdict.LOSE_CLIP
        if isinstance(error, InferenceFailed | ServerUnreachable):
            self.crashes += 1
            return Verdict.RECOVER if self.crashes < self.rule.max_crashes else Verdict.LOSE_CLIP
        return Verdict.STOP

    def reason(self, error: Fv2esError) -> Fv2esError:
        """Why the clip is lost, where `error` is what its last try came to."""
        if not isinstance(error, InferenceFailed | ServerUnreachable):
            return error
        cause = str(error).removeprefix(f"{error.address}: ")
        return InferenceFailed(
            error.address,
            f"the server failed on this clip in {self.crashes} of {self.crashes} tries ({cause}); it or a worker may have died or hung, "
            "see its log; the source may be damaged there",
        )

    def _hindered(self, before_s: float) -> None:
        if self.hindered_s is None:
            self.hindered_s = time.monotonic() - before_s

    @property
    def left_s(self) -> float:
        """What is left of `timeout_s`."""
        return self.rule.timeout_s - (0.0 if self.hindered_s is None else time.monotonic() - self.hindered_s)

    @property
    def request_timeout_s(self) -> float:
        """Deadline of the next sending."""
        return min(self.rule.request_timeout_s, max(self.left_s, 1e-3))

    @property
    def pause_s(self) -> float:
        """The wait before the server is asked whether it works again: 1, 4, 16 s... after crashes.

        A server may answer others and have a worker that hangs, which its supervisor takes some seconds to notice.
        """
        return 4.0 ** (self.crashes - 1) if self.crashes else 0.0

    def back_off_s(self) -> float:
        """The next wait: doubling from 0.1 s up to 5 s, with full jitter so that clients don't return together."""
        return random.uniform(0.0, min(5.0, 0.1 * 2 ** min(self.rejections, 6)))  # noqa: S311 - no secret


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far an analysis is."""

    done_s: float
    """Length of the utterances that are done or lost; at the end `total_s`."""
    heard_s: float | None
    """How far speech is recognised; None where none has to be."""
    total_s: float
    """Length of the source."""
    done: int
    """Utterances that are done or lost."""
    total: int
    """Utterances that are known; more may follow until speech is recognised to the end."""

    @property
    def share(self) -> float:
        """Share of the work that is done, 0..1."""
        if self.heard_s is None:
            return self.done_s / self.total_s
        return (self.done_s + RECOGNITION_WEIGHT * self.heard_s) / ((1 + RECOGNITION_WEIGHT) * self.total_s)


class Analysis:
    """Recognition and scoring of one source, one beside the other.

    Args:
        plan: its utterances.
        model: that will answer.
        clip_rule: how it is cut into clips.
        track_rule: windows for a finer track; None: none.
        journal: holds answers of an earlier call and takes in the new ones.
        started_s: when the call began, on the monotonic clock.
        kept: utterances are kept for `result`; otherwise an hour of film holds no more of them than a minute.
    """

    def __init__(
        self,
        plan: Plan,
        model: ModelInfo,
        *,
        clip_rule: ClipRule,
        track_rule: TrackRule | None = None,
        journal: Journal | None = None,
        started_s: float | None = None,
        kept: bool = True,
    ) -> None:
        self._plan, self._model = plan, model
        self._started_s = time.monotonic() if started_s is None else started_s
        self._scoring = Scoring(plan.info, plan.utterances(), clip_rule, model, track_rule, kept=kept)
        lanes: list[Lane] = [self._scoring, *([plan.recognition] if plan.recognition else [])]
        self.lanes = tuple(lanes if journal is None else [Journalled(each, journal) for each in lanes])
        """Where requests go; the first ones go before the others."""

    def next_request(self, *, may_listen: bool) -> Request | None:
        """What is to be sent next: a clip to be scored where there is one, else a stretch of sound; None where there is neither now.

        Args:
            may_listen: sound may be sent.
        """
        scoring, *recognition = self.lanes
        clip = scoring.next_clip()
        if clip is not None:
            return Request(lane=scoring, clip=clip)
        if recognition and may_listen:
            clip = recognition[0].next_clip()
            if clip is not None:
                return Request(lane=recognition[0], clip=clip)
            clip = scoring.next_clip()  # a journal may have known the rest, or there is no more sound
            if clip is not None:
                return Request(lane=scoring, clip=clip)
        return None

    @property
    def has_begun(self) -> bool:
        """Whether an utterance is done or lost already."""
        return self._scoring.num_items > 0

    def close(self) -> None:
        """Let go of the file, also where it is not read to its end: an error's traceback would hold it, and what was read of it."""
        for lane in self.lanes:
            with contextlib.suppress(ValueError):  # a thread is cutting still, since its caller was cancelled
                lane.close()

    def remainder(self) -> list[Item]:
        """What is left when all answers are in."""
        return self._scoring.remainder()

    @property
    def progress(self) -> Progress:
        """How far it is."""
        plan, info = self._plan, self._plan.info
        is_over = plan.is_complete and self._scoring.num_items == plan.num_known
        return Progress(
            done_s=info.duration_s if is_over else min(self._scoring.done_s, info.duration_s),
            heard_s=plan.recognition.until_s - info.start_s if plan.recognition else None,
            total_s=info.duration_s,
            done=self._scoring.num_items,
            total=plan.num_known,
        )

    def result(self) -> Result:
        """Everything, once all answers are in; of utterances that are kept."""
        items = self._scoring.items
        scored = tuple(each for each in items if isinstance(each, UtteranceResult))
        first_s = self._scoring.first_answer_s
        return Result(
            source=self._plan.info.to_dict(),
            model=self._model,
            utterances=scored,
            lost=tuple(each for each in items if isinstance(each, LostUtterance)),
            notes=(*self._plan.notes, *self._scoring.notes),
            timing=Timing(
                wall_s=time.monotonic() - self._started_s,
                first_utterance_s=None if first_s is None else first_s - self._started_s,
                media_s=sum(each.end_s - each.start_s for each in scored),
            ),
            utterance_source=self._plan.utterance_source,
        )
