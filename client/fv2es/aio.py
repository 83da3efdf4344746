"""The client for asyncio: the same as `fv2es.client`, on gRPC's own asyncio transport."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import tritonclient.grpc.aio as triton
from tritonclient.grpc import InferResult
from tritonclient.utils import InferenceServerException

from fv2es.address import checked_address
from fv2es.analysis import ClientRule, Progress
from fv2es.conversation import Conversation, Rules
from fv2es.cutting import ClipRule
from fv2es.headers import SMALL_REQUEST, client_headers
from fv2es.result import ModelInfo, Result
from fv2es.scoring import Item
from fv2es.speech import SpeechRule
from fv2es.track import TrackRule
from fv2es.utterances import UtteranceRule
from fv2es.wire import (
    CHANNEL_ARGUMENTS,
    CONNECT_TIMEOUT_S,
    INFER_METHOD,
    Tensor,
    decode_message,
    encode_message,
    error_from_status,
)

T = TypeVar("T")


class _Asyncio:
    """A transport that gives way to the event loop. Files are read in threads."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._open: tuple[triton.InferenceServerClient, grpc.aio.Channel] | None = None
        self._headers = client_headers()

    def _opened(self) -> tuple[triton.InferenceServerClient, grpc.aio.Channel]:
        """For questions and for inferences. Made at first use: gRPC ties them to the running event loop."""
        if self._open is None:
            self._open = (
                triton.InferenceServerClient(self.address, channel_args=CHANNEL_ARGUMENTS),
                grpc.aio.insecure_channel(self.address, options=CHANNEL_ARGUMENTS),
            )
        return self._open

    async def close(self) -> None:
        if self._open is not None:
            for each in self._open:
                await each.close()
            self._open = None

    def infer(
        self, model_name: str, inputs: list[Tensor], *, timeout_s: float, small: bool = False
    ) -> "asyncio.Task[InferResult]":
        headers = SMALL_REQUEST if small else self._headers
        return asyncio.create_task(self._infer(iter([encode_message(model_name, inputs)]), timeout_s, headers))

    async def _infer(self, message: Iterator[bytes], timeout_s: float, headers: dict[str, str]) -> InferResult:
        """A call that begins and ends with its task; the message is let go as soon as it is sent."""
        _, channel = self._opened()
        send = channel.stream_unary(INFER_METHOD, response_deserializer=decode_message)
        with self._typed_errors(timeout_s):
            answer: InferResult = await send(message, timeout=timeout_s, metadata=tuple(headers.items()))
        return answer

    async def wait(self, pending: "Sequence[asyncio.Task[InferResult]]", *, for_all: bool = False) -> None:
        await asyncio.wait(pending, return_when=asyncio.ALL_COMPLETED if for_all else asyncio.FIRST_COMPLETED)

    async def drop(self, pending: "Sequence[asyncio.Task[InferResult]]") -> None:
        for each in pending:
            each.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def ask(self, name: str, *arguments: str) -> Any:
        with self._typed_errors(CONNECT_TIMEOUT_S):
            client, _ = self._opened()
            return await getattr(client, name)(*arguments, client_timeout=CONNECT_TIMEOUT_S)

    async def call(self, function: Callable[[], T]) -> T:
        return await asyncio.to_thread(function)

    async def sleep(self, length_s: float) -> None:
        await asyncio.sleep(length_s)

    @contextlib.contextmanager
    def _typed_errors(self, timeout_s: float) -> Iterator[None]:
        """Errors of tritonclient, and those of gRPC that its asyncio client lets through, as typed ones."""
        try:
            yield
        except InferenceServerException as error:
            raise error_from_status(
                error.status(), error.message(), address=self.address, timeout_s=timeout_s
            ) from error
        except grpc.aio.AioRpcError as error:
            raise error_from_status(
                str(error.code()), error.details() or "", address=self.address, timeout_s=timeout_s
            ) from error


class AsyncClient:
    """As `fv2es.Client`, for asyncio. Belongs to the event loop in which it is first used; reading files runs in threads.

    Args:
        server: HOST:PORT of the server's gRPC.
        rule: deadlines, retries, clips in flight.
        utterance_rule: how a source is divided into utterances.
        speech_rule: where words may come from when no transcript is given.
        clip_rule: how a source is cut into requests.
        track_rule: windows for a finer track within utterances; None: none.

    Raises:
        UsageError: `server` is no HOST:PORT.
    """

    def __init__(
        self,
        server: str,
        *,
        rule: ClientRule | None = None,
        utterance_rule: UtteranceRule | None = None,
        clip_rule: ClipRule | None = None,
        speech_rule: SpeechRule | None = None,
        track_rule: TrackRule | None = None,
    ) -> None:
        self.address = checked_address(server)
        self.rule = rule or ClientRule()
        self.utterance_rule = utterance_rule or UtteranceRule()
        self.clip_rule = clip_rule or ClipRule()
        self.speech_rule = speech_rule or SpeechRule()
        self.track_rule = track_rule
        self._transport = _Asyncio(self.address)
        rules = Rules(
            client=self.rule,
            utterances=self.utterance_rule,
            clips=self.clip_rule,
            speech=self.speech_rule,
            track=self.track_rule,
        )
        self._conversation = Conversation(self._transport, rules)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._transport.close()

    async def model(self) -> ModelInfo:
        """Which weights the server has; errors as in `Client.model`."""
        return await self._conversation.model()

    async def analyze(
        self,
        source: Path | str,
        *,
        transcript: Path | str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Result:
        """The emotions of a whole file; arguments, result and errors as in `Client.analyze`."""
        analysis = await self._conversation.begin(source, transcript)
        async with contextlib.aclosing(self._conversation.run(analysis, on_progress)) as items:
            async for _ in items:
                pass
        return analysis.result()

    async def stream(
        self,
        source: Path | str,
        *,
        transcript: Path | str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> AsyncGenerator[Item, None]:
        """Utterances in order, as soon as they are known; arguments and errors as in `Client.analyze`. None is kept once it is given out."""
        analysis = await self._conversation.begin(source, transcript, kept=False)
        async with contextlib.aclosing(self._conversation.run(analysis, on_progress)) as items:
            async for item in items:
                yield item
