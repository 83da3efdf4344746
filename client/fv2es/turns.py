"""Whose turn it is: a bound on what is under way at once, and a fair queue before it, bounded by number and by time."""

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnRule:
    """How many requests are taken, and how many may wait."""

    limit: int
    """Requests under way at once; >= 1."""
    max_waiting: int = 256
    """Requests that may wait for a turn; further ones are turned away."""
    shared: int = 64
    """Places that the clients who wait share evenly, at least one for each: a client that sends many at once must not fill the queue."""
    reserve_share: float = 0.25
    """Of the time that a request has left when it comes, this share is kept for the work itself, or `reserve_turns` turns where that is more."""
    reserve_turns: float = 2.0
    """In mean turns, since some are longer than others."""
    expected_share: float = 2 / 3
    """A request is let in if its turn is expected within this share of the rest: what is expected is a mean of the past."""
    memory: int = 8
    """From about so many turns that ended last, and two for each of `limit`, it is known how long one takes."""


class TurnedAway(Exception):
    """There is no place to wait; the message says why and what to do. `waiting` says how many wait."""

    def __init__(self, waiting: int, message: str) -> None:
        self.waiting = waiting
        super().__init__(message)


class Crowded(TurnedAway):
    """The queue is full, or this client has its share of it already."""

    def __init__(self, waiting: int) -> None:
        super().__init__(waiting, f"{waiting} requests are waiting for their turn; try again later")


class TooLate(TurnedAway):
    """The turn comes too late for the request's deadline. `expected_s` is when it is expected, `left_s` what the request had left."""

    def __init__(self, waiting: int, *, expected_s: float, left_s: float) -> None:
        self.expected_s, self.left_s = expected_s, left_s
        super().__init__(
            waiting,
            f"{waiting} requests are waiting for their turn, a further one is expected to have it in {expected_s:.3g} s, "
            f"too late for a deadline in {left_s:.3g} s; try again later, or allow more time",
        )


class Turns:
    """First come, first served. Belongs to one event loop."""

    def __init__(self, rule: TurnRule) -> None:
        self._rule = rule
        self.under_way = 0
        self._waiting: deque[_Waiting] = deque()
        self._taken_s = 0.0
        """Time that turns took together, those under way included, up to `_counted_s`; forgotten like `_ended`."""
        self._ended = 0.0
        self._counted_s = 0.0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def turn_s(self) -> float:
        """How long a turn takes: the time of all turns, those under way included, by how many ended. 0 where nothing is known."""
        self._count()
        return self._taken_s / max(self._ended, self._rule.limit)

    @property
    def expected_s(self) -> float:
        """When a request that comes now may expect its turn; 0: at once."""
        if self.under_way < self._rule.limit:
            return 0.0
        return (self.waiting + 1) * self.turn_s / self._rule.limit

    async def take(self, client: str, left_s: float | None = None) -> None:
        """Wait for a turn; whoever has one must `leave`. A caller that is cancelled leaves the queue, or gives its turn on.

        Args:
            client: who asks.
            left_s: until the request's deadline; None: it has none.

        Raises:
            Crowded: there is no place to wait.
            TooLate: no turn can be expected, or none came, well within `left_s`.
        """
        if self.under_way < self._rule.limit:
            self._count()
            self.under_way += 1
            return
        waiting = self.waiting
        clients = [other.client for other in self._waiting]
        share = max(1, self._rule.shared // len({*clients, client}))
        if waiting >= self._rule.max_waiting or clients.count(client) >= share:
            raise Crowded(waiting)
        own = _Waiting(client=client, left_s=left_s, came_s=asyncio.get_running_loop().time())
        if self.expected_s > self._rule.expected_share * self._longest_s(own):
            raise self._too_late(own)
        try:
            async with asyncio.timeout(None if left_s is None else self._longest_s(own)):
                await self._wait(own)
        except TimeoutError as error:
            raise self._too_late(own) from error

    async def _wait(self, own: "_Waiting") -> None:
        self._waiting.append(own)
        try:
            await own.turn
        except asyncio.CancelledError:
            if own.turn.done() and not own.turn.cancelled():
                if own.turn.exception() is None:
                    self._pass_on()
            else:
                self._waiting.remove(own)
            raise

    def _longest_s(self, waiting: "_Waiting") -> float:
        """How long a request may wait, from its coming on."""
        if waiting.left_s is None:
            return math.inf
        return waiting.left_s - max(self._rule.reserve_share * waiting.left_s, self._rule.reserve_turns * self.turn_s)

    def _too_late(self, waiting: "_Waiting") -> TooLate:
        return TooLate(self.waiting, expected_s=self.expected_s, left_s=waiting.left_s or 0.0)

    def leave(self) -> None:
        """The turn is over; the next one begins."""
        self._count()
        self._ended += 1
        if self._ended > (memory := max(self._rule.memory, 2 * self._rule.limit)):
            self._taken_s *= memory / self._ended
            self._ended = memory
        self._pass_on()

    def _pass_on(self) -> None:
        """Give a turn to the next that has time enough left for the work, by what is known now."""
        now_s = asyncio.get_running_loop().time()
        while self._waiting:
            own = self._waiting.popleft()
            if own.turn.done():
                continue
            if now_s - own.came_s > self._longest_s(own):
                own.turn.set_exception(self._too_late(own))
                continue
            own.turn.set_result(None)
            return
        self._count()
        self.under_way -= 1

    def _count(self) -> None:
        """Add what the turns under way took since this was done last."""
        now_s = asyncio.get_running_loop().time()
        self._taken_s += self.under_way * (now_s - self._counted_s)
        self._counted_s = now_s


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Waiting:
    """A request in the queue."""

    client: str
    left_s: float | None
    """Until its deadline, when it came."""
    came_s: float
    """On the loop's clock."""
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
