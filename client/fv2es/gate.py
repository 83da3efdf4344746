"""The gate before the embedded Triton: clips wait outside, where they cost nothing, and are served in turn.

Triton 2.51 takes in whatever is sent, clip by clip into its memory, has no queue that may be full (in an ensemble a full one crashes it),
and can crash when a request is cancelled. So this process stands before it and speaks the same gRPC:

- A clip's bytes are read when its turn comes; until then gRPC's flow control keeps them with the client.
- As many requests are under way in Triton as keep it busy. Others wait, first come, first served; where too many wait, or so long that
  the turn would come too late for the request's deadline, the answer is UNAVAILABLE, and clients come again later.
- A client that vanishes while it waits leaves the queue at once. What Triton has begun it ends, and nobody cancels it.
"""

import argparse
import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

import grpc

from fv2es.headers import CLIENT_HEADER, SMALL_BYTES, SMALL_HEADER
from fv2es.pulse import say_busy
from fv2es.shared_memory import sweep
from fv2es.turns import TurnedAway, TurnRule, Turns

_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_STREAM: Final = "/inference.GRPCInferenceService/ModelStreamInfer"
_UNDER_WAY_S: Final = 3600.0
"""What is not answered by then never will be: the last resort, should the supervisor not notice what hangs (`fv2es.pulse`)."""
_MOST_SENDING_S: Final = 120.0
"""A request whose turn has come must be here by then: the largest takes seconds on loopback, also on a busy machine."""
_WINDOW_BYTES: Final = 64 * 1024
"""Of a request that waits, gRPC takes in no more than about this."""
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_UNLIMITED: Final = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
_SERVER_ARGUMENTS: Final = (
    *_UNLIMITED,
    ("grpc.so_reuseport", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
)
_CHANNEL_ARGUMENTS: Final = (
    *_UNLIMITED,
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Gate(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc is untyped here
    """Hands every call on to a Triton; those that carry clips in turn.

    Args:
        channel: of gRPC's asyncio, to the Triton.
        turns: who may send.
        most_sending_s: how long a request may take to arrive once its turn has come: whoever stands still keeps the others waiting.
    """

    def __init__(self, channel: Any, turns: Turns, *, most_sending_s: float = _MOST_SENDING_S) -> None:
        self._channel, self._turns, self._most_sending_s = channel, turns, most_sending_s
        self._under_way: dict[asyncio.Task[bytes], int] = {}
        """By number, the oldest first."""
        self._num_begun = 0
        self._has_answered = False
        """Whether a clip was answered well."""
        self._say()

    def service(self, details: Any) -> Any:
        """All methods are taken as streams of bytes, so that a message is read when it is wanted."""
        behaviours = {_INFER: self._infer, _STREAM: self._stream}
        behaviour = behaviours.get(details.method) or self._small(details.method)
        return grpc.stream_stream_rpc_method_handler(behaviour)

    async def _infer(self, _: Any, context: Any) -> None:
        headers = dict(context.invocation_metadata())
        if SMALL_HEADER in headers:
            message = await self._message(context)
            if len(message) > SMALL_BYTES:
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"{len(message)} bytes are more than the {SMALL_BYTES} that may go ahead; leave out the header {SMALL_HEADER}",
                )
            await self._answer(context, self._begin(_INFER, message))
            return
        try:
            await self._turns.take(headers.get(CLIENT_HEADER) or context.peer(), context.time_remaining())
        except TurnedAway as refusal:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(refusal))
        try:
            task = self._begin(_INFER, await self._message(context))
        except BaseException:
            self._turns.leave()
            raise
        task.add_done_callback(self._turn_ended)
        await self._answer(context, task)

    async def _message(self, context: Any) -> bytes:
        """The call's one message, read now."""
        try:
            message = await asyncio.wait_for(context.read(), self._most_sending_s)
        except TimeoutError:
            await context.abort(
                grpc.StatusCode.UNAVAILABLE,
                f"the request did not arrive within {self._most_sending_s:g} s of its turn; send it again",
            )
        if message is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call holds no message; send one")
        whole: bytes = message
        return whole

    def _begin(self, method: str, message: Any) -> "asyncio.Task[bytes]":
        """Send a message on in a task of its own, which ends by itself whatever becomes of the caller."""
        call = self._channel.unary_unary(method)
        task: asyncio.Task[bytes] = asyncio.ensure_future(_awaited(call(message, timeout=_UNDER_WAY_S)))
        self._num_begun += 1
        self._under_way[task] = self._num_begun
        self._say()
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[bytes]") -> None:
        del self._under_way[task]
        self._say()
        if not task.cancelled():
            task.exception()  # where the caller is gone, nobody else asks for it

    def _turn_ended(self, task: "asyncio.Task[bytes]") -> None:
        self._turns.leave()
        if not task.cancelled() and task.exception() is None:
            self._has_answered = True
            self._say()

    def _say(self) -> None:
        say_busy(next(iter(self._under_way.values()), None), has_answered=self._has_answered)

    async def _answer(self, context: Any, task: "asyncio.Task[bytes]") -> None:
        try:
            answer = await asyncio.shield(task)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        await context.write(answer)

    def _small(self, method: str) -> Callable[[Any, Any], Awaitable[None]]:
        async def hand_on(_: Any, context: Any) -> None:
            await self._answer(context, self._begin(method, await self._message(context)))

        return hand_on

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Only for models of other repositories: none of ours answers more than once."""
        try:
            async for answer in self._channel.stream_stream(_STREAM)(requests):
                await context.write(answer)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")


async def _awaited(call: Any) -> bytes:
    answer: bytes = await call
    return answer


def end_with_parent(parent: int, shared_memory: str) -> None:
    """End this process with its parent, and free the shared memory of the Triton that ends with it as well: nobody else is left to do so.

    To be called in a running event loop. Until then the kernel ends this process by itself, see `fv2es.embedded`.

    Args:
        parent: its process id.
        shared_memory: how the names of the regions begin.
    """

    def end() -> None:
        sweep(shared_memory)
        os._exit(1)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, end)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    if os.getppid() != parent:
        end()


async def serve(listen: str, triton: str, rule: TurnRule, *, shared_memory: str | None = None) -> None:
    """Stand before a Triton until this process is told to end.

    Args:
        listen: HOST:PORT for clients.
        triton: HOST:PORT of the Triton's gRPC.
        rule: how many at once.
        shared_memory: of the Triton, to be freed when this process's parent ends; None: this process does not end with its parent.

    Raises:
        RuntimeError: the port is taken.
    """
    parent = os.getppid()
    channel = grpc.aio.insecure_channel(triton, options=_CHANNEL_ARGUMENTS)
    server = grpc.aio.server(options=_SERVER_ARGUMENTS)
    server.add_generic_rpc_handlers((Gate(channel, Turns(rule)),))
    server.add_insecure_port(listen)
    await server.start()
    if shared_memory:
        end_with_parent(parent, shared_memory)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(grace=None)
    await channel.close()


def usual_rule() -> TurnRule:
    """Two requests a core are enough to keep all busy; at least four, since a request is on one core now and then."""
    return TurnRule(limit=min(max(4, 2 * len(os.sched_getaffinity(0))), 64))


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m fv2es.gate --listen HOST:PORT --triton HOST:PORT`: the embedded server runs it."""
    parser = argparse.ArgumentParser(prog="python -m fv2es.gate", description=main.__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--triton", required=True)
    parser.add_argument("--shared-memory")
    options = parser.parse_args(argv)
    asyncio.run(serve(options.listen, options.triton, usual_rule(), shared_memory=options.shared_memory))
    return 0


if __name__ == "__main__":
    sys.exit(main())
