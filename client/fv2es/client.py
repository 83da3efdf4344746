"""The client for ordinary code; `fv2es.aio` has the same for asyncio."""

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tritonclient.grpc as triton

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
from fv2es.cutting import Clip, ClipRule
from fv2es.embedded import EmbeddedServer
from fv2es.errors import Fv2esError, InferenceFailed, ServerOverloaded, ServerUnreachable
from fv2es.journal import Journal, Journalled
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

CONNECT_TIMEOUT_S = 10.0
"""For the small questions: which model, is it alive."""


@dataclass(kw_only=True, slots=True)
class _Sent:
    """A clip on its way."""

    clip: Clip
    attempts: Attempts
    answer: "Future[Any]"
    cancel: Callable[[], Any]


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
        self._triton = triton.InferenceServerClient(self.address, channel_args=CHANNEL_ARGUMENTS)
        self._headers = {CLIENT_HEADER: uuid.uuid4().hex}
        self._was_reached = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._triton.close()

    def model(self) -> ModelInfo:
        """Which weights the server has.

        Raises:
            ServerUnreachable: nobody answers at the address.
            ModelUnavailable: a server answers that has no `emotion` ready.
        """
        try:
            metadata = self._triton.get_server_metadata(client_timeout=CONNECT_TIMEOUT_S)
            self._triton.get_model_metadata(MODEL, client_timeout=CONNECT_TIMEOUT_S)
            answer = self._triton.infer(
                MANIFEST_MODEL, encode_manifest_request(), client_timeout=CONNECT_TIMEOUT_S, headers=SMALL_REQUEST
            )
        except triton.InferenceServerException as error:
            raise self._typed(error, CONNECT_TIMEOUT_S) from error
        manifest = decode_manifest(answer, address=self.address)
        return ModelInfo.from_manifest(manifest, server_version=metadata.version, address=self.address)

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
            on_progress: called after each clip.
            journal: holds the answers of an earlier, unfinished call for the same source and takes in the new ones.

        Returns:
            The result; look at its `lost`: utterances that could not be scored are named there.

        Raises:
            SourceError: the file can't be used.
            TranscriptError: the transcript can't be used.
            ServerError: no answer can be had.
        """
        analysis = self._begin(source, transcript, journal)
        for _ in self._run(_kept(analysis, journal), on_progress):
            pass
        return analysis.result()

    def stream(
        self,
        source: Path | str,
        *,
        transcript: Path | str | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Iterator[Item]:
        """Utterances in order, as soon as they are known; arguments and errors as in `analyze`."""
        return self._run(self._begin(source, transcript), on_progress)

    def _begin(self, source: Path | str, transcript: Path | str | None, journal: Journal | None = None) -> Analysis:
        outlined = outline(source, transcript, self.utterance_rule, self.speech_rule)
        model = self._recovered_model()
        return Analysis(plan(outlined, self._heard(outlined, journal)), self.clip_rule, model, self.track_rule)

    def _heard(self, outlined: Outline, journal: Journal | None = None) -> Hearing | None:
        """What is said in a source; None where its utterances don't come from speech."""
        if outlined.source is not None:
            return None
        try:
            if not self._triton.is_model_ready(SPEECH_MODEL, client_timeout=CONNECT_TIMEOUT_S):
                return Hearing(missing=f"the server {self.address} has no model `{SPEECH_MODEL}`")
        except triton.InferenceServerException as error:
            raise self._typed(error, CONNECT_TIMEOUT_S) from error
        recognition = Recognition(outlined.info, outlined.speech_rule)
        for _ in self._run(_kept(recognition, journal), None):
            pass
        return recognition.hearing()

    def _recovered_model(self) -> ModelInfo:
        """The model, also where a server that answered before is just being restarted."""
        try:
            model = self.model()
        except (ServerUnreachable, InferenceFailed) as error:
            if not self._was_reached:
                raise
            self._recover(error)
            model = self.model()
        self._was_reached = True
        return model

    def _run(self, work: Work, on_progress: Callable[[Progress], None] | None) -> Iterator[Item]:
        """Keep up to `max_in_flight` clips under way; settle them in order."""
        waiting: deque[_Sent] = deque()
        clips = work.clips()
        try:
            more = True
            while more or waiting:
                while more and len(waiting) < self.rule.max_in_flight:
                    clip = next(clips, None)
                    if clip is None:
                        more = False
                    else:
                        waiting.append(self._send(clip, Attempts(rule=self.rule), work))
                if waiting:
                    yield from self._settle(waiting, work)
                    if on_progress and (progress := work.progress):
                        on_progress(progress)
            yield from work.remainder()
        finally:
            for sent in waiting:
                sent.cancel()

    def _settle(self, waiting: deque[_Sent], work: Work) -> list[Item]:
        """Wait for the oldest clip, sending it again as long as that makes sense; it stays in `waiting` until then."""
        while True:
            sent = waiting[0]
            try:
                answer = sent.answer.result()
                further = [self._ask(each) for each in work.questions(sent.clip, answer)]
            except Fv2esError as error:
                failure = self._told_apart(error)
                verdict = sent.attempts.verdict(failure)
                if verdict is Verdict.STOP:
                    raise failure from error
                if verdict is Verdict.LOSE_CLIP:
                    waiting.popleft()
                    return work.add_failure(sent.clip, failure)
                if verdict is Verdict.BACK_OFF:
                    time.sleep(sent.attempts.back_off_s())
                else:
                    # A clip that kills the server must not take others with it again: let those end, then send it alone.
                    wait([other.answer for other in waiting])
                    self._recover(failure)
                waiting[0] = self._send(sent.clip, sent.attempts, work)
                if verdict is Verdict.RECOVER:
                    wait([waiting[0].answer])
            else:
                waiting.popleft()
                return work.add_answer(sent.clip, answer, further)

    def _send(self, clip: Clip, attempts: Attempts, work: Work) -> _Sent:
        inputs = work.encode(clip)
        future: Future[Any] = Future()

        def on_answer(result: Any, error: Any) -> None:
            if error is not None:
                future.set_exception(self._typed(error, self.rule.timeout_s))
                return
            try:
                future.set_result(work.decode(result, address=self.address))
            except Fv2esError as unusable:
                future.set_exception(unusable)

        call = self._triton.async_infer(
            work.model_name,
            inputs,
            on_answer,
            client_timeout=self.rule.timeout_s,
            headers=self._headers,
        )
        return _Sent(clip=clip, attempts=attempts, answer=future, cancel=call.cancel)

    def _ask(self, question: Question) -> Any:
        try:
            response = self._triton.infer(
                question.model_name, question.inputs, client_timeout=self.rule.timeout_s, headers=SMALL_REQUEST
            )
        except triton.InferenceServerException as error:
            raise self._typed(error, self.rule.timeout_s) from error
        return question.decode(response, address=self.address)

    def _typed(self, error: triton.InferenceServerException, timeout_s: float) -> Fv2esError:
        return error_from_status(error.status(), error.message(), address=self.address, timeout_s=timeout_s)

    def _told_apart(self, error: Fv2esError) -> Fv2esError:
        """UNAVAILABLE from a server that is alive means that a queue is full."""
        if not isinstance(error, ServerUnreachable):
            return error
        try:
            alive = self._triton.is_server_ready(client_timeout=CONNECT_TIMEOUT_S)
        except triton.InferenceServerException:
            return error
        return ServerOverloaded(self.address, str(error)) if alive else error

    def _recover(self, cause: Fv2esError) -> None:
        """Wait until an inference succeeds.

        Raises:
            Fv2esError: the last error, if `recovery_s` went by.
        """
        deadline_s = time.monotonic() + self.rule.recovery_s
        for error in health.prove_ready(self.address, deadline_s=deadline_s):
            if time.monotonic() > deadline_s:
                raise error from cause
            time.sleep(0.2)
        # The proof had a connection of its own. This client's may still be waiting to connect anew, and fails until then.
        while time.monotonic() <= deadline_s:
            try:
                self._triton.is_server_live(client_timeout=CONNECT_TIMEOUT_S)
            except triton.InferenceServerException:
                time.sleep(0.2)
            else:
                return


def _kept(work: Work, journal: Journal | None) -> Work:
    return work if journal is None else Journalled(work, journal)


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
