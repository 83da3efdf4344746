"""What clients say to a server, in which order, and what they do when it fails; `Client` and `AsyncClient` differ in how they wait alone."""

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tritonclient.grpc import InferResult

from fv2es import health
from fv2es.analysis import Analysis, Attempts, ClientRule, Progress, Verdict
from fv2es.cutting import ClipRule
from fv2es.errors import DeadlineExceeded, Fv2esError, InferenceFailed, ServerOverloaded, ServerUnreachable
from fv2es.journal import Journal
from fv2es.lanes import Lane, Request
from fv2es.planning import Outline, Plan, outline
from fv2es.result import ModelInfo
from fv2es.scoring import Item
from fv2es.speech import SPEECH_MODEL, SpeechRule, decode_speech, encode_speech_request
from fv2es.track import TrackRule
from fv2es.utterances import UtteranceRule
from fv2es.wire import (
    CONNECT_TIMEOUT_S,
    MANIFEST_MODEL,
    MODEL,
    Tensor,
    decode_manifest,
    encode_manifest_request,
)


class Pending(Protocol):
    """An inference that has been asked for."""

    def done(self) -> bool:
        """Whether it is answered or has failed."""

    def result(self) -> InferResult:
        """The answer, once it is done; raises a typed error where it failed."""


P = TypeVar("P", bound=Pending)
T = TypeVar("T")


class Transport(Protocol[P]):
    """How a client reaches its server, and waits. One that blocks waits inside its coroutines, which then never give way."""

    address: str

    def infer(self, model_name: str, inputs: list[Tensor], *, timeout_s: float, small: bool = False) -> P:
        """Ask for an inference; comes back at once. `small`: it need not wait where clips do, see `fv2es.gate`."""

    async def wait(self, pending: Sequence[P], *, for_all: bool = False) -> None:
        """Until one of them, or all, are done."""

    async def drop(self, pending: Sequence[P]) -> None:
        """Give up requests."""

    async def ask(self, name: str, *arguments: str) -> Any:
        """The answer to a method of tritonclient's client; raises typed errors."""

    async def call(self, function: Callable[[], T]) -> T:
        """What a function gives that reads files or blocks."""

    async def sleep(self, length_s: float) -> None:
        """Wait."""


@dataclass(kw_only=True, slots=True)
class _Sent(Generic[P]):
    """A clip on its way."""

    request: Request
    attempts: Attempts
    pending: P


Flight = dict[Lane, deque[_Sent[P]]]
"""What is under way, by lane, in the order of sending."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """All that a client goes by."""

    client: ClientRule
    utterances: UtteranceRule
    clips: ClipRule
    speech: SpeechRule
    track: TrackRule | None


class Conversation(Generic[P]):
    """A client's talks with one server."""

    def __init__(self, transport: Transport[P], rules: Rules) -> None:
        self._transport, self._rules = transport, rules
        self._was_reached = False

    async def model(self) -> ModelInfo:
        """Which weights the server has."""
        transport = self._transport
        metadata = await transport.ask("get_server_metadata")
        await transport.ask("get_model_metadata", MODEL)
        answer = await self._infer(MANIFEST_MODEL, encode_manifest_request(), CONNECT_TIMEOUT_S)
        manifest = decode_manifest(answer, address=transport.address)
        return ModelInfo.from_manifest(manifest, server_version=metadata.version, address=transport.address)

    async def speech_identity(self) -> str:
        """Which speech model the server has, see `SpeechAnswer.identity`: it is asked about a moment of a hum."""
        if not await self._transport.ask("is_model_ready", SPEECH_MODEL):
            return ""
        inputs = encode_speech_request(health.probe_clip(), (0.0, 0.5))
        answer = await self._infer(SPEECH_MODEL, inputs, self._rules.client.request_timeout_s)
        return decode_speech(answer, address=self._transport.address).identity

    async def begin(
        self,
        source: Path | str,
        transcript: Path | str | None,
        journal: Journal | None = None,
        *,
        kept: bool = True,
    ) -> Analysis:
        """Look at the source and at the server; nothing is sent yet. `kept` as in `Analysis`."""
        started_s, rules = time.monotonic(), self._rules
        outlined = await self._transport.call(lambda: outline(source, transcript, rules.utterances, rules.speech))
        model = await self._recovered_model()
        return Analysis(
            Plan(outlined, missing=await self._missing(outlined)),
            model,
            clip_rule=rules.clips,
            track_rule=rules.track,
            journal=journal,
            started_s=started_s,
            kept=kept,
        )

    async def _missing(self, outlined: Outline) -> str:
        """Why the server can't listen, where somebody has to."""
        if outlined.source is not None or await self._transport.ask("is_model_ready", SPEECH_MODEL):
            return ""
        return f"the server {self._transport.address} has no model `{SPEECH_MODEL}`"

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

    async def run(
        self, analysis: Analysis, on_progress: Callable[[Progress], None] | None
    ) -> AsyncGenerator[Item, None]:
        """Keep as many clips under way as `ClientRule` admits; settle those of a lane in order."""
        flight: Flight[P] = {lane: deque() for lane in analysis.lanes}
        try:
            while True:
                while (request := await self._next_request(analysis, flight)) is not None:
                    flight[request.lane].append(self._send(request, Attempts(rule=self._rules.client)))
                oldest = [sent[0] for sent in flight.values() if sent]
                if not oldest:
                    break
                await self._transport.wait([each.pending for each in oldest])
                items = await self._settle(next(each for each in oldest if each.pending.done()), flight)
                oldest.clear()  # lets go of the clip before the next one is cut
                for item in items:
                    yield item
                if on_progress:
                    on_progress(analysis.progress)
            for item in analysis.remainder():
                yield item
        finally:
            analysis.close()
            await self._transport.drop(_pending(flight))

    async def _next_request(self, analysis: Analysis, flight: Flight[P]) -> Request | None:
        """What to send now.

        Sound takes up half of what may be under way, so that clips find room; until a first utterance is there, it is sent only where
        nothing else is under way.
        """
        most, under_way = self._rules.client.max_in_flight, _pending(flight)
        if not self._rules.client.admits([each.request.clip for sent in flight.values() for each in sent]):
            return None
        num_listening = sum(len(flight[lane]) for lane in analysis.lanes[1:])
        may_listen = num_listening < max(most // 2, 1) if analysis.has_begun else not under_way
        return await self._transport.call(lambda: analysis.next_request(may_listen=may_listen))

    async def _settle(self, sent: _Sent[P], flight: Flight[P]) -> list[Item]:
        """What a lane's oldest clip comes to; it is sent again as long as that makes sense, and stays in `flight` until then."""
        transport, lane, clip = self._transport, sent.request.lane, sent.request.clip
        while True:
            try:
                await transport.wait([sent.pending])
                answer = lane.decode(sent.pending.result(), address=transport.address)
                further = [
                    each.decode(
                        await self._infer(each.model_name, each.inputs, sent.attempts.request_timeout_s),
                        address=transport.address,
                    )
                    for each in lane.questions(clip, answer)
                ]
            except Fv2esError as error:
                failure = await self._told_apart(error)
                verdict = sent.attempts.verdict(failure)
                if verdict is Verdict.STOP:
                    raise failure from error
                if verdict is Verdict.LOSE_CLIP:
                    flight[lane].popleft()
                    return lane.add_failure(clip, sent.attempts.reason(failure))
                if verdict is Verdict.BACK_OFF:
                    await transport.sleep(sent.attempts.back_off_s())
                else:
                    # A clip that kills the server must not take others with it again: let those end, then send it alone.
                    await transport.wait(_pending(flight), for_all=True)
                    await transport.sleep(sent.attempts.pause_s)
                    busy_s = sent.attempts.left_s if isinstance(failure, DeadlineExceeded) else 0.0
                    await self._recover(failure, busy_s=busy_s)
                sent = flight[lane][0] = self._send(sent.request, sent.attempts)
            else:
                flight[lane].popleft()
                return lane.add_answer(clip, answer, further)

    def _send(self, request: Request, attempts: Attempts) -> _Sent[P]:
        lane = request.lane
        pending = self._transport.infer(
            lane.model_name,
            lane.encode(request.clip),
            timeout_s=attempts.request_timeout_s,
        )
        return _Sent(request=request, attempts=attempts, pending=pending)

    async def _infer(self, model_name: str, inputs: list[Tensor], timeout_s: float) -> InferResult:
        pending = self._transport.infer(model_name, inputs, timeout_s=timeout_s, small=True)
        try:
            await self._transport.wait([pending])
        except BaseException:
            await self._transport.drop([pending])
            raise
        return pending.result()

    async def _told_apart(self, error: Fv2esError) -> Fv2esError:
        """UNAVAILABLE from a server that is alive means that a queue is full."""
        if not isinstance(error, ServerUnreachable):
            return error
        try:
            alive = await self._transport.ask("is_server_ready")
        except Fv2esError:
            return error
        return ServerOverloaded(self._transport.address, str(error)) if alive else error

    async def _recover(self, cause: Fv2esError, *, busy_s: float = 0.0) -> None:
        """Wait until an inference succeeds.

        Args:
            cause: what failed.
            busy_s: how long a server may be too busy for that.

        Raises:
            Fv2esError: the last error, if `recovery_s` went by, or `busy_s` with a server that takes requests and does not answer.
        """
        recovery_s = self._rules.client.recovery_s
        deadline_s = time.monotonic() + recovery_s
        latest_s = time.monotonic() + max(busy_s, recovery_s)
        tries = health.prove_ready(self._transport.address, deadline_s=latest_s)
        while (error := await self._transport.call(lambda: next(tries, None))) is not None:
            if isinstance(error, DeadlineExceeded):
                deadline_s = min(time.monotonic() + recovery_s, latest_s)
            if time.monotonic() > deadline_s:
                raise error from cause
            await self._transport.sleep(0.2)
        deadline_s = time.monotonic() + recovery_s
        # The proof had a connection of its own. This client's may still be waiting to connect anew, and fails until then.
        while time.monotonic() <= deadline_s:
            try:
                await self._transport.ask("is_server_live")
            except Fv2esError:
                await self._transport.sleep(0.2)
            else:
                return


def _pending(flight: Flight[P]) -> list[P]:
    return [each.pending for sent in flight.values() for each in sent]
