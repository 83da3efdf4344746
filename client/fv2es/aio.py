"""The client for asyncio: the same as `fv2es.client`, on gRPC's own asyncio transport."""

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from fv2es import health
from fv2es.address import checked_address
from fv2es.analysis import (
    Analysis,
    Attempts,
    ClientRule,
    Item,
    Outline,
    Progress,
    Question,
    Verdict,
    Work,
    outline,
    plan,
)
from fv2es.client import CONNECT_TIMEOUT_S
from fv2es.cutting import Clip, ClipRule
from fv2es.errors import Fv2esError, InferenceFailed, ServerOverloaded, ServerUnreachable
from fv2es.result import ModelInfo, Result
from fv2es.speech import SPEECH_MODEL, Hearing, Recognition, SpeechRule
from fv2es.track import TrackRule
from fv2es.utterances import UtteranceRule
from fv2es.wire import (
    CHANNEL_ARGUMENTS,
    CLIENT_HEADER,
    MANIFEST_MODEL,
    MODEL,
    SMALL_REQUEST,
    decode_manifest,
    encode_manifest_request,
    error_from_status,
)


@dataclass(kw_only=True, slots=True)
class _Sent:
    """A clip on its way."""

    clip: Clip
    attempts: Attempts
    answer: asyncio.Task[Any]


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
        self._open_triton: triton.InferenceServerClient | None = None
        self._headers = {CLIENT_HEADER: uuid.uuid4().hex}
        self._was_reached = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _triton(self) -> triton.InferenceServerClient:
        """Made at first use: gRPC ties it to the running event loop."""
        if self._open_triton is None:
            self._open_triton = triton.InferenceServerClient(self.address, channel_args=CHANNEL_ARGUMENTS)
        return self._open_triton

    async def close(self) -> None:
        """Close the connection."""
        if self._open_triton is not None:
            await self._open_triton.close()
            self._open_triton = None

    async def model(self) -> ModelInfo:
        """Which weights the server has; errors as in `Client.model`."""
        with self._typed_errors(CONNECT_TIMEOUT_S):
            metadata = await self._triton.get_server_metadata(client_timeout=CONNECT_TIMEOUT_S)
            await self._triton.get_model_metadata(MODEL, client_timeout=CONNECT_TIMEOUT_S)
            answer = await self._triton.infer(
                MANIFEST_MODEL, encode_manifest_request(), client_timeout=CONNECT_TIMEOUT_S, headers=SMALL_REQUEST
            )
        manifest = decode_manifest(answer, address=self.address)
        return ModelInfo.from_manifest(manifest, server_version=metadata.version, address=self.address)

    async def analyze(
        self,
        source: Path | str,
        *,
        transcript: Path | str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Result:
        """The emotions of a whole file; arguments, result and errors as in `Client.analyze`."""
        analysis = await self._begin(source, transcript)
        async with contextlib.aclosing(self._run(analysis, on_progress)) as items:
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
        """Utterances in order, as soon as they are known; arguments and errors as in `Client.analyze`."""
        async with contextlib.aclosing(self._run(await self._begin(source, transcript), on_progress)) as items:
            async for item in items:
                yield item

    async def _begin(self, source: Path | str, transcript: Path | str | None) -> Analysis:
        outlined = await asyncio.to_thread(outline, source, transcript, self.utterance_rule, self.speech_rule)
        model = await self._recovered_model()
        return Analysis(plan(outlined, await self._heard(outlined)), self.clip_rule, model, self.track_rule)

    async def _heard(self, outlined: Outline) -> Hearing | None:
        """What is said in a source; None where its utterances don't come from speech."""
        if outlined.source is not None:
            return None
        with self._typed_errors(CONNECT_TIMEOUT_S):
            if not await self._triton.is_model_ready(SPEECH_MODEL, client_timeout=CONNECT_TIMEOUT_S):
                return Hearing(missing=f"the server {self.address} has no model `{SPEECH_MODEL}`")
        recognition = Recognition(outlined.info, outlined.speech_rule)
        async with contextlib.aclosing(self._run(recognition, None)) as items:
            async for _ in items:
                pass
        return recognition.hearing()

    async def _recovered_model(self) -> ModelInfo:
        """The model, also where a server that answered before is just being restarted."""
        try:
            model = await self.model()
        except (ServerUnreachable, InferenceFailed) as error:
            if not self._was_reached:
                raise
            await self._recover(error)
            model = await self.model()
        self._was_reached = True
        return model

    async def _run(self, work: Work, on_progress: Callable[[Progress], None] | None) -> AsyncGenerator[Item, None]:
        """Keep up to `max_in_flight` clips under way; settle them in order."""
        waiting: deque[_Sent] = deque()
        clips = work.clips()
        try:
            more = True
            while more or waiting:
                while more and len(waiting) < self.rule.max_in_flight:
                    clip = await asyncio.to_thread(next, clips, None)
                    if clip is None:
                        more = False
                    else:
                        waiting.append(self._send(clip, Attempts(rule=self.rule), work))
                if waiting:
                    for item in await self._settle(waiting, work):
                        yield item
                    if on_progress and (progress := work.progress):
                        on_progress(progress)
            for item in work.remainder():
                yield item
        finally:
            for sent in waiting:
                sent.answer.cancel()
            await asyncio.gather(*(sent.answer for sent in waiting), return_exceptions=True)

    async def _settle(self, waiting: deque[_Sent], work: Work) -> list[Item]:
        """Wait for the oldest clip, sending it again as long as that makes sense; it stays in `waiting` until then."""
        while True:
            sent = waiting[0]
            try:
                answer = await sent.answer
                further = [await self._ask(each) for each in work.questions(sent.clip, answer)]
            except Fv2esError as error:
                failure = await self._told_apart(error)
                verdict = sent.attempts.verdict(failure)
                if verdict is Verdict.STOP:
                    raise failure from error
                if verdict is Verdict.LOSE_CLIP:
                    waiting.popleft()
                    return work.add_failure(sent.clip, failure)
                if verdict is Verdict.BACK_OFF:
                    await asyncio.sleep(sent.attempts.back_off_s())
                else:
                    # A clip that kills the server must not take others with it again: let those end, then send it alone.
                    await asyncio.wait([other.answer for other in waiting])
                    await self._recover(failure)
                waiting[0] = self._send(sent.clip, sent.attempts, work)
                if verdict is Verdict.RECOVER:
                    await asyncio.wait([waiting[0].answer])
            else:
                waiting.popleft()
                return work.add_answer(sent.clip, answer, further)

    def _send(self, clip: Clip, attempts: Attempts, work: Work) -> _Sent:
        return _Sent(clip=clip, attempts=attempts, answer=asyncio.create_task(self._infer(clip, work)))

    async def _infer(self, clip: Clip, work: Work) -> Any:
        with self._typed_errors(self.rule.timeout_s):
            answer = await self._triton.infer(
                work.model_name, work.encode(clip), client_timeout=self.rule.timeout_s, headers=self._headers
            )
        return work.decode(answer, address=self.address)

    async def _ask(self, question: Question) -> Any:
        with self._typed_errors(self.rule.timeout_s):
            response = await self._triton.infer(
                question.model_name, question.inputs, client_timeout=self.rule.timeout_s, headers=SMALL_REQUEST
            )
        return question.decode(response, address=self.address)

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

    async def _told_apart(self, error: Fv2esError) -> Fv2esError:
        """UNAVAILABLE from a server that is alive means that a queue is full."""
        if not isinstance(error, ServerUnreachable):
            return error
        try:
            with self._typed_errors(CONNECT_TIMEOUT_S):
                alive = await self._triton.is_server_ready(client_timeout=CONNECT_TIMEOUT_S)
        except Fv2esError:
            return error
        return ServerOverloaded(self.address, str(error)) if alive else error

    async def _recover(self, cause: Fv2esError) -> None:
        """Wait until an inference succeeds.

        Raises:
            Fv2esError: the last error, if `recovery_s` went by.
        """
        deadline_s = time.monotonic() + self.rule.recovery_s
        tries = health.prove_ready(self.address, deadline_s=deadline_s)
        while (error := await asyncio.to_thread(next, tries, None)) is not None:
            if time.monotonic() > deadline_s:
                raise error from cause
            await asyncio.sleep(0.2)
        # The proof had a connection of its own. This client's may still be waiting to connect anew, and fails until then.
        while time.monotonic() <= deadline_s:
            try:
                with self._typed_errors(CONNECT_TIMEOUT_S):
                    await self._triton.is_server_live(client_timeout=CONNECT_TIMEOUT_S)
            except ServerUnreachable:
                await asyncio.sleep(0.2)
            else:
                return
