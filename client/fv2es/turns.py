"""Whose turn it is: a bound on what is under way at once, and a fair, bounded queue before it."""

import asyncio
from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnRule:
    """How many requests are taken, and how many may wait."""

    limit: int
    """Requests under way at once; >= 1."""
    max_waiting: int = 256
    """Requests that may wait for a turn; further ones are turned away."""
    crowded: int = 16
    """From so many on, each client may have one waiting and no more: a client that sends many at once must not fill the queue."""


class Crowded(Exception):
    """The queue is full, or this client waits in it already and others are waiting too. `waiting` says how many."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        super().__init__(f"{waiting} requests are waiting for their turn; try again later")


class Turns:
    """First come, first served. Belongs to one event loop."""

    def __init__(self, rule: TurnRule) -> None:
        self._rule = rule
        self.under_way = 0
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    async def take(self, client: str) -> None:
        """Wait for a turn; whoever has one must `leave`. A caller that is cancelled leaves the queue, or gives its turn on.

        Raises:
            Crowded: there is no place to wait.
        """
        if self.under_way < self._rule.limit:
            self.under_way += 1
            return
        waiting = len(self._waiting)
        waits = waiting >= self._rule.crowded and any(client == other for other, _ in self._waiting)
        if waiting >= self._rule.max_waiting or waits:
            raise Crowded(waiting)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((client, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            else:
                self._waiting = deque(each for each in self._waiting if each[1] is not turn)
            raise

    def leave(self) -> None:
        """The turn is over; the next one begins."""
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.under_way -= 1
