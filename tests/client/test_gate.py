"""The gate before a server that answers at once: calls that stand still, hold nothing, or go away keep no turn."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import fv2es
from fv2es.embedded import DIES_WITH_PARENT, GATE_COMMAND
from fv2es.gate import Gate
from fv2es.headers import SMALL_REQUEST
from fv2es.turns import TurnRule, Turns

INFER = "/inference.GRPCInferenceService/ModelInfer"


class Answers(grpc.GenericRpcHandler):
    """Says what it was told; `b"wait"` once `go` is set."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.go = asyncio.Event()

    def service(self, _: Any) -> Any:
        async def answer(message: bytes, _: Any) -> bytes:
            self.heard.append(message)
            if message == b"wait":
                await self.go.wait()
            return b"heard " + message

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def gated(answers: Answers | None = None, **options: Any) -> AsyncIterator[tuple[Any, Turns]]:
    """A channel to a gate with one turn, and its turns."""
    servers = [grpc.aio.server(), grpc.aio.server()]
    ports = [each.add_insecure_port("127.0.0.1:0") for each in servers]
    turns = Turns(TurnRule(limit=1))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as inner:
        servers[0].add_generic_rpc_handlers((answers or Answers(),))
        servers[1].add_generic_rpc_handlers((Gate(inner, turns, **options),))
        for each in servers:
            await each.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[1]}") as channel:
            yield channel, turns
        for each in servers[::-1]:
            await each.stop(None)


def test_a_client_that_stands_still_loses_its_turn():
    async def run() -> None:
        async with gated(most_sending_s=0.2) as (channel, turns):
            still = channel.stream_stream(INFER)()
            await still.wait_for_connection()
            while not turns.under_way:
                await asyncio.sleep(0)
            assert await channel.unary_unary(INFER)(b"me", timeout=30) == b"heard me"
            with pytest.raises(
                grpc.aio.AioRpcError, match=r"did not arrive within .* of its turn; send it again"
            ) as refused:
                await still.read()
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert (turns.under_way, turns.waiting) == (0, 0)

    asyncio.run(run())


@pytest.mark.parametrize("headers", [{}, SMALL_REQUEST], ids=["clip", "small"])
def test_a_call_without_a_message_is_refused(headers):
    async def run() -> None:
        async with gated() as (channel, turns):
            empty = channel.stream_stream(INFER)(metadata=tuple(headers.items()))
            await empty.done_writing()
            with pytest.raises(grpc.aio.AioRpcError, match="the call holds no message; send one") as refused:
                await empty.read()
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert await channel.unary_unary(INFER)(b"me", timeout=30) == b"heard me"
            assert turns.under_way == 0

    asyncio.run(run())


async def with_one_under_way(channel: grpc.aio.Channel, answers: Answers) -> tuple[Any, Any]:
    """What sends a request, and one that has its turn until `answers.go`."""
    infer = channel.unary_unary(INFER)
    first = infer(b"wait", timeout=30)
    while not answers.heard:
        await asyncio.sleep(0)
    return infer, first


def test_a_request_whose_deadline_passes_in_the_queue_is_turned_away_before_and_never_begun():
    async def run() -> None:
        answers = Answers()
        async with gated(answers) as (channel, turns):
            infer, first = await with_one_under_way(channel, answers)
            unbound = infer(b"unbound")
            while not turns.waiting:
                await asyncio.sleep(0)
            with pytest.raises(grpc.aio.AioRpcError, match=r"too late for a deadline in .* s; try again later") as late:
                await infer(b"late", timeout=0.4)
            assert late.value.code() is grpc.StatusCode.UNAVAILABLE  # not DEADLINE_EXCEEDED: it was not tried
            assert (turns.under_way, turns.waiting, answers.heard) == (1, 1, [b"wait"])
            answers.go.set()
            assert (await first, await unbound) == (b"heard wait", b"heard unbound")
            assert answers.heard == [b"wait", b"unbound"]
            assert (turns.under_way, turns.waiting) == (0, 0)

    asyncio.run(run())


@pytest.mark.parametrize("timeout_s", [-1.0, 0.0, 1e-9, 1e9, 1e300, float("inf"), float("nan")])
def test_deadlines_that_make_no_sense_disturb_nobody(timeout_s: float):
    async def run() -> None:
        answers = Answers()
        async with gated(answers) as (channel, turns):
            infer, first = await with_one_under_way(channel, answers)
            strange = infer(b"strange", timeout=timeout_s)
            if timeout_s == 1e9:
                while not turns.waiting:
                    await asyncio.sleep(0)
            else:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await strange
                assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            answers.go.set()
            assert await first == b"heard wait"
            assert await infer(b"me", timeout=30) == b"heard me"
            assert answers.heard == [b"wait", *([b"strange"] if timeout_s == 1e9 else []), b"me"]
            assert (turns.under_way, turns.waiting) == (0, 0)

    asyncio.run(run())


def test_starts_beside_files_named_like_modules(tmp_path: Path):
    for name in ("random", "struct", "grpc"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')", encoding="utf-8")
    command = [*DIES_WITH_PARENT, *GATE_COMMAND, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--triton" in done.stdout


def test_the_gate_loads_nothing_of_the_client_but_what_it_needs():
    """77 MB with everything, 30 without."""
    ran = subprocess.run(
        [sys.executable, "-c", "import sys, fv2es; fv2es.errors.UsageError; import fv2es.gate; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert {"numpy", "av", "tritonclient"}.isdisjoint(ran.stdout.split())
    assert "grpc" in ran.stdout.split()


def test_all_public_names_can_be_had():
    assert all(getattr(fv2es, name) is not None for name in fv2es.__all__)
    assert set(fv2es.__all__) <= set(dir(fv2es))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fv2es.nothing
