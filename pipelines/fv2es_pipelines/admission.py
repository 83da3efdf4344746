"""Who may send a clip now: a bound on requests under way, kept where refusing one harms no other.

On Triton 2.51 no step of an ensemble can have a bounded queue: a full one crashes the server. So the first step of all, which the others
wait for, decides: nothing else of the request is under way yet, and an error of it is answered once. Clients ask before they send, so that
clips that can't be served yet stay where they are.
"""

import http.client
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fv2es_pipelines.errors import PipelineError

log = logging.getLogger("fv2es_pipelines")

LOOK: Final = "look/"
"""Begins the id of a request that asks whether a clip would be admitted now. The rest is the clip's ticket."""
WAIT: Final = "wait/"
"""As `LOOK`, and takes a place among those that wait."""
PROBE: Final = "probe"
"""Id of requests that are always admitted: proofs of health, which must also succeed on a busy server."""

GRANT_S: Final = 10.0
"""How long room is kept for a clip that was told to come."""
SHORTEST_WAIT_S: Final = 0.05
LONGEST_WAIT_S: Final = 5.0
STUCK_S: Final = 600.0
"""Where no request has ended for so long, those that are thought to be under way are forgotten: twice a client's default deadline."""
_USUAL_INTERVAL_S: Final = 0.5


class Busy(PipelineError):
    """As many requests are under way as may be."""

    retryable = True
    code = "UNAVAILABLE"

    def __init__(self, *, under_way: int, limit: int) -> None:
        self.under_way, self.limit = under_way, limit
        super().__init__(f"{under_way} requests are under way, of at most {limit}; try again when some have ended")


@dataclass(slots=True)
class _Waiting:
    until_s: float
    """When it is forgotten, unless it asks again."""


class Admission:
    """Counts requests and keeps the order of those that wait. One call at a time.

    Args:
        limit: most requests under way; >= 1.
        num_ended: how many requests of the ensemble have ended since the server started, refused ones included; None where that
            can't be known, and then all are admitted.
        clock: seconds, for tests.
    """

    def __init__(
        self, *, limit: int, num_ended: Callable[[], int | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._num_ended, self._clock = limit, num_ended, clock
        self._begun = 0
        """Requests that came, refused ones included."""
        self._ended: int | None = None
        """As last read."""
        self._moved_s = clock()
        """When a request last ended, or nothing was under way."""
        self._granted: dict[str, float] = {}
        """Tickets that were told to come, and until when."""
        self._waiting: dict[str, _Waiting] = {}
        """In the order in which they came."""
        self._interval_s = _USUAL_INTERVAL_S
        """Mean time between admissions of those that had to wait."""
        self._admitted_s = clock()

    def enter(self, ticket: str) -> None:
        """Take in a request.

        Raises:
            Busy: there is no room, or others wait for it.
        """
        self._forget()
        if self._ended is None:
            self._read()
        allowed = self._granted.pop(ticket, None) is not None or ticket == PROBE
        allowed = allowed or self._room() > len(self._waiting)
        under_way = self._under_way()
        self._begun += 1
        if not allowed:
            raise Busy(under_way=under_way, limit=self._limit)

    def ask(self, ticket: str, *, wait: bool) -> float:
        """When to send a clip.

        Args:
            ticket: names the clip; the same in each try.
            wait: take a place among those that wait, if it can't come now.

        Returns:
            0: send it now, room is kept for it. Else seconds after which to ask again.
        """
        self._forget()
        if self._ended is None:
            self._read()
        place = list(self._waiting).index(ticket) if ticket in self._waiting else len(self._waiting)
        if ticket in self._granted or self._room() > place:
            if self._waiting.pop(ticket, None):
                took_s = min(self._clock() - self._admitted_s, LONGEST_WAIT_S)
                self._interval_s = 0.8 * self._interval_s + 0.2 * took_s
            self._admitted_s = self._clock()
            self._granted[ticket] = self._clock() + GRANT_S
            return 0.0
        again_s = min(max(0.5 * (place + 1) * self._interval_s, SHORTEST_WAIT_S), LONGEST_WAIT_S)
        if wait:
            until_s = self._clock() + 1.5 * again_s + 0.5
            if ticket in self._waiting:
                self._waiting[ticket].until_s = until_s
            else:
                self._waiting[ticket] = _Waiting(until_s=until_s)
        return again_s

    def _forget(self) -> None:
        """Drop those that did not come as they said."""
        now_s = self._clock()
        self._granted = {ticket: until_s for ticket, until_s in self._granted.items() if until_s > now_s}
        self._waiting = {ticket: each for ticket, each in self._waiting.items() if each.until_s > now_s}

    def _under_way(self) -> int:
        return self._begun if self._ended is None else self._begun - self._ended

    def _room(self) -> int:
        """How many more may come. What has ended is read only where it matters."""
        if self._limit - self._under_way() - len(self._granted) <= len(self._waiting):
            self._read()
        return self._limit - self._under_way() - len(self._granted)

    def _read(self) -> None:
        now_s = self._clock()
        ended = self._num_ended()
        if ended is None:
            ended = self._begun
        elif self._ended is None:
            self._begun += ended  # this model was loaded later than the server started
        if ended != self._ended or self._begun == ended:
            self._moved_s = now_s
        elif now_s - self._moved_s > STUCK_S:
            log.warning("%d requests did not end within %g s and are forgotten", self._begun - ended, STUCK_S)
            self._begun = ended
        self._ended = ended


class EndedRequests:
    """Reads from Triton's own metrics how many requests of a model have ended, well or not.

    Args:
        model: its name.
        port: of the metrics, on this machine.
    """

    def __init__(self, model: str, port: int) -> None:
        self._port = port
        self._line = re.compile(
            rf'^nv_inference_request_(?:success|failure)\{{[^}}]*model="{re.escape(model)}"[^}}]*\}} (\S+)', re.MULTILINE
        )
        self._has_warned = False

    def __call__(self) -> int | None:
        """The number since the server started; None where the metrics can't be read."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2.0)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            if not self._has_warned:
                log.warning("requests under way are not bounded: no metrics on port %d (%s)", self._port, error)
                self._has_warned = True
            return None
        finally:
            connection.close()
        return round(sum(map(float, self._line.findall(text))))
