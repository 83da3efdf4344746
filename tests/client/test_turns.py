"""The queue before an embedded server."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import numpy as np
import pytest

from fv2es.turns import Crowded, TooLate, TurnRule, Turns


class Skipping(asyncio.SelectorEventLoop):
    """A loop on a clock of its own, which jumps to the next event instead of waiting for it."""

    def __init__(self) -> None:
        loop, self.now_s = self, 0.0

        class Selector(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> list[Any]:
                loop.now_s += timeout or 0.0
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self.now_s


def run_skipping(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=Skipping) as runner:
        runner.run(run())


async def work(turns: Turns, client: str, length_s: float, left_s: float | None = None) -> float:
    """Wait for a turn, and take so long; gives how long was waited."""
    loop = asyncio.get_running_loop()
    came_s = loop.time()
    await turns.take(client, left_s)
    waited_s = loop.time() - came_s
    await asyncio.sleep(length_s)
    turns.leave()
    return waited_s


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
        turns = Turns(TurnRule(limit=1, shared=2))
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


def test_clients_share_the_queue_evenly():
    """Eight clients that send four clips each at once, as the SDK does, all find places; the more come, the fewer each of them gets."""

    async def run() -> None:
        turns = Turns(TurnRule(limit=1, shared=32))
        tasks = [asyncio.create_task(turns.take("first"))]

        async def places(names: Iterable[str]) -> set[int]:
            """How many places each of them gets."""
            found = set()
            for name in names:
                before = turns.waiting
                own = [asyncio.create_task(turns.take(name)) for _ in range(4)]
                await settled()
                found.add(turns.waiting - before)
                tasks.extend(own)
            return found

        assert await places(f"early {number}" for number in range(8)) == {4}
        assert await places(f"late {number}" for number in range(16)) == {1, 2, 3}
        assert turns.waiting < 32 + 16 * 3
        for each in tasks:
            each.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in ended} == {type(None), asyncio.CancelledError, Crowded}

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


def test_a_turn_that_would_come_too_late_is_refused_at_once():
    async def run() -> None:
        turns = Turns(TurnRule(limit=2))
        for _ in range(5):
            await asyncio.gather(*(work(turns, "a", 10.0) for _ in range(2)))
        assert turns.turn_s == pytest.approx(10, rel=0.05)
        tasks = [asyncio.create_task(work(turns, f"client {index}", 10.0, 100.0)) for index in range(12)]
        await settled()
        assert (turns.under_way, turns.waiting) == (2, 10)  # the tenth expects its turn in 50 s, half of its time
        with pytest.raises(
            TooLate, match=r"10 requests .* in 5[3-5].* s, too late for a deadline in 100 s; try again later"
        ) as late:
            await turns.take("late", 100.0)
        assert late.value.expected_s == pytest.approx(55, rel=0.05)
        assert asyncio.get_running_loop().time() == 50.0  # nobody waited
        tasks += [asyncio.create_task(work(turns, "patient", 10.0, 1000.0)), asyncio.create_task(work(turns, "b", 1.0))]
        waited_s = await asyncio.gather(*tasks)
        assert waited_s == pytest.approx([0, 0, 10, 10, 20, 20, 30, 30, 40, 40, 50, 50, 60, 60])
        assert (turns.under_way, turns.waiting) == (0, 0)

    run_skipping(run)


@pytest.mark.parametrize("left_s", [0.0, 1e-9, 10.0])
def test_a_request_leaves_the_queue_well_before_its_deadline(left_s: float):
    async def run() -> None:
        turns = Turns(TurnRule(limit=1))
        await turns.take("a")  # nothing is known yet of how long it takes
        with pytest.raises(TooLate):
            await turns.take("b", left_s)
        assert asyncio.get_running_loop().time() <= 0.75 * left_s
        assert (turns.under_way, turns.waiting) == (1, 0)
        turns.leave()
        await turns.take("c", left_s)  # with a free turn it is tried, whatever the deadline
        assert turns.under_way == 1

    run_skipping(run)


def test_turns_that_do_not_end_count_as_they_grow():
    async def run() -> None:
        turns = Turns(TurnRule(limit=1))
        for _ in range(100):
            await work(turns, "a", 0.1)
        assert turns.turn_s == pytest.approx(0.1)
        await turns.take("hangs")
        await asyncio.sleep(320)
        assert turns.turn_s > 10
        with pytest.raises(TooLate):
            await turns.take("b", 15.0)

    run_skipping(run)


@pytest.mark.parametrize("length_s", [0.2, 5.0, 20.0], ids=lambda each: f"{each:g} s a clip")
def test_a_hundred_clients_are_all_served_and_no_work_is_in_vain(length_s: float):
    """As the SDK does it: turned away, it comes again within 5 s, with a deadline of 300 s each time."""

    async def run() -> None:
        chance, turns, loop = np.random.default_rng(0), Turns(TurnRule(limit=4)), asyncio.get_running_loop()
        begun = in_vain = 0
        for _ in range(50):
            await work(turns, "before", 0.1)  # shorter clips than those that come then

        async def film(client: str) -> None:
            nonlocal begun, in_vain
            for _ in range(3):
                while True:
                    came_s = loop.time()
                    try:
                        await turns.take(client, 300.0)
                    except TooLate:
                        await asyncio.sleep(chance.uniform(0.0, 5.0))
                    else:
                        break
                begun += 1
                await asyncio.sleep(4 * length_s * chance.uniform(0.5, 1.5))  # four at once share the cores
                in_vain += loop.time() - came_s > 300
                turns.leave()

        await asyncio.gather(*(film(f"client {index}") for index in range(100)))
        assert (begun, in_vain) == (300, 0)
        assert (
            loop.time() < 1.1 * 300 * length_s + 300 * 2.5 / 4 + 20
        )  # busy all the time, but for clips that come again

    run_skipping(run)
