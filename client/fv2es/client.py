"""The client for ordinary code; `fv2es.aio` has the same for asyncio."""

import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import tritonclient.grpc as triton
from tritonclient.grpc import InferResult

from fv2es.address import checked_address
from fv2es.analysis import Analysis, ClientRule, Progress
from fv2es.conversation import Conversation, Rules
from fv2es.cutting import ClipRule
from fv2es.embedded import EmbeddedServer
from fv2es.errors import Fv2esError
from fv2es.headers import SMALL_REQUEST, client_headers
from fv2es.journal import Journal
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


class _Inference(Future[InferResult]):
    """One inference."""

    def __init__(self) -> None:
        super().__init__()
        self.give_up: Callable[[], Any] = lambda: None


class _Blocking:
    """A transport that blocks: its coroutines never give way."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.triton = triton.InferenceServerClient(address, channel_args=CHANNEL_ARGUMENTS)
        self._channel = grpc.insecure_channel(address, options=CHANNEL_ARGUMENTS)
        self._infer = self._channel.stream_unary(INFER_METHOD, response_deserializer=decode_message)
        self._headers = client_headers()

    def close(self) -> None:
        self._channel.close()
        self.triton.close()

    def infer(self, model_name: str, inputs: list[Tensor], *, timeout_s: float, small: bool = False) -> _Inference:
        inference = _Inference()

        def on_answer(call: Any) -> None:
            try:
                inference.set_result(call.result())
            except grpc.RpcError:
                inference.set_exception(self._typed(str(call.code()), call.details(), timeout_s))
            except grpc.FutureCancelledError:
                inference.set_exception(self._typed(str(grpc.StatusCode.CANCELLED), "given up", timeout_s))

        headers = SMALL_REQUEST if small else self._headers
        call = self._infer.future(
            iter([encode_message(model_name, inputs)]), timeout=timeout_s, metadata=tuple(headers.items())
        )
        call.add_done_callback(on_answer)
        inference.give_up = call.cancel
        return inference

    async def wait(self, pending: Sequence[_Inference], *, for_all: bool = False) -> None:
        wait(pending, return_when=ALL_COMPLETED if for_all else FIRST_COMPLETED)

    async def drop(self, pending: Sequence[_Inference]) -> None:
        for each in pending:
            each.give_up()

    async def ask(self, name: str, *arguments: str) -> Any:
        try:
            return getattr(self.triton, name)(*arguments, client_timeout=CONNECT_TIMEOUT_S)
        except triton.InferenceServerException as error:
            raise self._typed(error.status(), error.message(), CONNECT_TIMEOUT_S) from error

    async def call(self, function: Callable[[], T]) -> T:
        return function()

    async def sleep(self, length_s: float) -> None:
        time.sleep(length_s)

    def _typed(self, status: str | None, message: str | None, timeout_s: float) -> Fv2esError:
        return error_from_status(status, message or "", address=self.address, timeout_s=timeout_s)


def _ended(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine gives that never gives way."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise RuntimeError("a transport that blocks gave way")


class Client:
    """Analyses media files on a Triton server that serves `emotion`. Thread-safe; reuse it.

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
        self._transport = _Blocking(self.address)
        rules = Rules(
            client=self.rule,
            utterances=self.utterance_rule,
            clips=self.clip_rule,
            speech=self.speech_rule,
            track=self.track_rule,
        )
        self._conversation = Conversation(self._transport, rules)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def model(self) -> ModelInfo:
        """Which weights the server has.

        Raises:
            ServerUnreachable: nobody answers at the address.
            ModelUnavailable: a server answers that has no `emotion` ready.
        """
        return _ended(self._conversation.model())

    def speech_identity(self) -> str:
        """Which speech model the server has: its name, weights, device and type of arithmetic; "" where it recognises no speech.

        Raises:
            ServerError: no answer can be had.
        """
        return _ended(self._conversation.speech_identity())

    def analyze(
        self,
        source: Path | str,
        *,
        transcript: Path | str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        journal: Journal | None = None,
    ) -> Result:
        """The emotions of a whole file.

        Args:
            source: a media file.
            transcript: SRT, WebVTT, `start<TAB>end<TAB>text`, or JSON of Whisper or WhisperX; without it, subtitles in the file,
                recognised speech, or fixed windows, see `speech_rule`.
            on_progress: called after each clip that is scored and each stretch that is recognised.
            journal: holds the answers of an earlier, unfinished call for the same source and takes in the new ones.

        Returns:
            The result; look at its `lost`: utterances that could not be scored are named there.

        Raises:
            SourceError: the file can't be used.
            TranscriptError: the transcript can't be used.
            ServerError: no answer can be had.
        """
        analysis = _ended(self._conversation.begin(source, transcript, journal))
        for _ in self._items(analysis, on_progress):
            pass
        return analysis.result()

    def stream(
        self,
        source: Path | str,
        *,
        transcript: Path | str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[Item]:
        """Utterances in order, as soon as they are known; arguments and errors as in `analyze`. None is kept once it is given out."""
        return self._items(_ended(self._conversation.begin(source, transcript, kept=False)), on_progress)

    def _items(self, analysis: Analysis, on_progress: Callable[[Progress], None] | None) -> Iterator[Item]:
        items = self._conversation.run(analysis, on_progress)
        try:
            while True:
                try:
                    item = _ended(items.__anext__())
                except StopAsyncIteration:
                    return
                yield item
        finally:
            _ended(items.aclose())


def analyze(
    source: Path | str,
    *,
    server: str | None = None,
    transcript: Path | str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """The emotions of one file, with everything that is needed to get them.

    Args:
        source: a media file.
        server: HOST:PORT of a Triton; None: an embedded one is started and stopped. For several files, keep an
            `EmbeddedServer` and a `Client` open.
        transcript: as in `Client.analyze`.
        on_progress: as in `Client.analyze`.

    Raises:
        Fv2esError: as `Client.analyze` and `EmbeddedServer.start`.
    """
    if server is not None:
        with Client(server) as client:
            return client.analyze(source, transcript=transcript, on_progress=on_progress)
    with EmbeddedServer() as embedded, Client(embedded.address) as client:
        return client.analyze(source, transcript=transcript, on_progress=on_progress)
