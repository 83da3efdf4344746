"""The queue before an embedded server."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from fv2es.turns import Crowded, TurnRule, Turns


async def settled() -> None:
    """Until all tasks that can go on have gone on."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_serves_in_order_and_no_more_than_the_limit():
    async def run() -> None:
        turns, order = Turns(TurnRule(limit=2)), []

        async def work(name: str) -> None:
            await turns.take(name)
            order.append(name)

        tasks = [asyncio.create_task(work(name)) for name in "abcde"]
        await settled()
        assert order == ["a", "b"]
        assert (turns.under_way, turns.waiting) == (2, 3)
        for expected in ("abc", "abcd", "abcde"):
            turns.leave()
            await settled()
            assert order == list(expected)
        for _ in range(2):
            turns.leave()
        assert turns.under_way == 0
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_turns_away_where_too_many_wait():
    async def run() -> None:
        turns = Turns(TurnRule(limit=1, max_waiting=2))
        await turns.take("a")
        tasks = [asyncio.create_task(turns.take(name)) for name in "bc"]
        await settled()
        with pytest.raises(Crowded, match="2 requests are waiting for their turn; try again later"):
            await turns.take("d")
        for _ in range(3):
            turns.leave()
        await asyncio.gather(*tasks)
        assert turns.under_way == 0

    asyncio.run(run())


def test_one_client_does_not_fill_the_queue():
    async def run() -> None:
        turns = Turns(TurnRule(limit=1, crowded=2))
        tasks: list[asyncio.Task[Any]] = []

        async def begin(call: Coroutine[Any, Any, None]) -> None:
            tasks.append(asyncio.create_task(call))
            await settled()

        for name in ("greedy", "greedy", "greedy"):  # one under way, two waiting: nobody else wants anything
            await begin(turns.take(name))
        with pytest.raises(Crowded):
            await turns.take("greedy")
        await begin(turns.take("other"))
        assert turns.waiting == 3
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


@pytest.mark.parametrize("given", [False, True], ids=["while waiting", "just when the turn came"])
def test_whoever_goes_away_leaves_the_turn_to_the_next(given: bool):
    async def run() -> None:
        turns = Turns(TurnRule(limit=1))
        await turns.take("a")
        leaver, stayer = (asyncio.create_task(turns.take(name)) for name in ("b", "c"))
        await settled()
        if given:
            turns.leave()  # b's turn has come, and b has not gone on yet
        leaver.cancel()
        if not given:
            await settled()
            turns.leave()
        await asyncio.wait_for(stayer, 5)
        assert (turns.under_way, turns.waiting) == (1, 0)
        with pytest.raises(asyncio.CancelledError):
            await leaver

    asyncio.run(run())
