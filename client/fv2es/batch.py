"""Many sources: a result file for each, none done twice, none lost with another."""

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fv2es
from fv2es.analysis import Progress
from fv2es.client import Client
from fv2es.errors import Fv2esError, JournalError, ResultsNotWritten, ServerError, SourceError, UsageError
from fv2es.files import FORMATS, check_output, read_results, write_results, write_whole
from fv2es.journal import FOLDER, Journal, Ledger
from fv2es.plain import is_utf8, printable
from fv2es.result import ModelInfo, Result
from fv2es.scoring import NO_MEDIA
from fv2es.sources import Source, changed, result_names

MANIFEST = "fv2es-run.json"
MANIFEST_VERSION = 1

DONE, SKIPPED, FAILED = "done", "skipped", "failed"
"""What became of a source; skipped: it was done already."""

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRule:
    """Where results go, and what is kept of earlier ones."""

    folder: Path
    """Of the results; it is made if its parent is there."""
    formats: tuple[str, ...] = ()
    """Endings such as ".srt", beside ".json", which is always written."""
    resume: bool = False
    """Leave out what an earlier run in this folder has done."""
    key_frames: bool = False
    """Pictures in .html reports."""

    @property
    def endings(self) -> tuple[str, ...]:
        """Of the files of one source; JSON first."""
        return tuple(dict.fromkeys((".json", *self.formats)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one source."""

    source: Source
    state: str
    sha256: str | None = None
    """Of the source's content; None where it could not be read."""
    files: tuple[str, ...] = ()
    """Result files, relative to the folder."""
    result: Result | None = None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As in the manifest."""
        exact = {} if is_utf8(self.source.path) else {"path_hex": os.fsencode(self.source.path).hex()}
        return {
            "path": printable(self.source.path),
            **exact,
            "sha256": self.sha256,
            "state": self.state,
            "files": [printable(each) for each in self.files],
            "utterances": len(self.result.utterances) if self.result else 0,
            "lost": len(self.result.lost) if self.result else 0,
            "error": printable(self.error),
        }


class Batch:
    """Analyses sources one after the other and keeps each result as soon as it is there.

    Args:
        client: of a server.
        rule: where results go.
        sources: files, each once.
        transcript: of the source, where it is one.

    Raises:
        UsageError: the folder can't be written to, or a result would overwrite a source.
    """

    def __init__(
        self, client: Client, rule: BatchRule, sources: Sequence[Source], *, transcript: Path | None = None
    ) -> None:
        self._client, self._rule, self._transcript = client, rule, transcript
        self._sources = sources
        self._names = check_batch(rule, sources, transcript)
        self.outcomes: list[Outcome] = []
        """Of the sources so far."""

    def run(self, progress: Callable[[str], AbstractContextManager[OnProgress]]) -> Iterator[Outcome]:
        """The outcomes, one after the other; the manifest is written at the end, also where an error ends the run.

        Args:
            progress: gives, for a source's name, what is to be called with its progress.

        Raises:
            ServerError: the server can't be used; what is done stays.
            JournalError: the journal of an earlier run can't be gone on with.
            UsageError: another run works in the folder.
            ResultsNotWritten: nothing more can be written, as on a full disk; what is done stays.
        """
        started = datetime.now(UTC)
        try:
            with Ledger(self._rule.folder, resume=self._rule.resume) as ledger:
                model, speech = self._client.model(), self._speech()
                try:
                    for source, name in zip(self._sources, self._names, strict=True):
                        with progress(Path(source.path).name) as on_progress:
                            outcome = self._one(source, name, ledger, model, speech, on_progress)
                        self.outcomes.append(outcome)
                        yield outcome
                finally:
                    manifest = self._manifest(model, speech, started)
                    write_whole(self._rule.folder / MANIFEST, f"{json.dumps(manifest, indent=1)}\n".encode())
        except OSError as error:
            raise ResultsNotWritten(printable(self._rule.folder), error.strerror or str(error)) from error

    def _speech(self) -> str | None:
        """Which speech model the results hang on; None: on none."""
        listens = self._client.speech_rule.recognise and self._transcript is None
        return self._client.speech_identity() if listens else None

    def _one(
        self,
        source: Source,
        name: str,
        ledger: Ledger,
        model: ModelInfo,
        speech: str | None,
        on_progress: OnProgress,
    ) -> Outcome:
        sha256 = clips = None
        try:
            is_changed, sha256 = _read(source.path)
            key = self._key(sha256, model, speech)
            if kept := self._kept(name, ledger.done(name, key)):
                return Outcome(source=source, state=SKIPPED, sha256=sha256, files=self._files(name), result=kept)
            clips = ledger.clips_path(name, key)
            with Journal(clips, model_sha256=model.sha256, speech=speech or "") as journal:
                result = self._client.analyze(
                    source.path, transcript=self._transcript, on_progress=on_progress, journal=journal
                )
            if is_changed():
                raise SourceError(source.path, "it was changed while it was analysed; analyse it again")
        except (ServerError, UsageError, JournalError):
            raise
        except Fv2esError as error:
            if clips is not None:
                clips.unlink(missing_ok=True)
            return Outcome(source=source, state=FAILED, sha256=sha256, error=str(error))
        is_same = not journal.is_mixed and self._key(sha256, result.model, speech) == key
        return self._finished(source, name, sha256, key, result, ledger, clips, is_same=is_same)

    def _finished(
        self,
        source: Source,
        name: str,
        sha256: str,
        key: str,
        result: Result,
        ledger: Ledger,
        clips: Path,
        *,
        is_same: bool,
    ) -> Outcome:
        """Write the files of a result; only then it counts as done, if all answers are of the models that it is recorded with."""
        files = self._files(name)
        for each in files:
            self._write(each, result)
        whole = not any(lost.error != NO_MEDIA for lost in result.lost)
        if whole and is_same:
            ledger.add_done(name, key, {each: _sha256(self._rule.folder / each) for each in files})
            clips.unlink(missing_ok=True)
        return Outcome(source=source, state=DONE, sha256=sha256, files=files, result=result)

    def _kept(self, name: str, hashes: dict[str, str] | None) -> Result | None:
        """The result of an earlier run, if its JSON is as it was; forms that are missing or changed are written out of it."""
        path = self._rule.folder / f"{name}.json"
        if hashes is None or not _is(path, hashes.get(f"{name}.json")):
            return None
        (result,) = read_results(path)
        for each in self._files(name)[1:]:
            if not _is(self._rule.folder / each, hashes.get(each)):
                self._write(each, result)
        return result

    def _files(self, name: str) -> tuple[str, ...]:
        return tuple(f"{name}{ending}" for ending in self._rule.endings)

    def _write(self, name: str, result: Result) -> None:
        path = self._rule.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_results(path, [result], key_frames=self._rule.key_frames and path.suffix == ".html")

    def _switches(self) -> dict[str, Any]:
        client = self._client
        return {
            "utterances": dataclasses.asdict(client.utterance_rule),
            "clips": dataclasses.asdict(client.clip_rule),
            "speech": dataclasses.asdict(client.speech_rule),
            "track": dataclasses.asdict(client.track_rule) if client.track_rule else None,
            "transcript_sha256": _sha256(self._transcript) if self._transcript else None,
        }

    def _key(self, sha256: str, model: ModelInfo, speech: str | None) -> str:
        """Hash of all that determines a result."""
        facts = {
            "fv2es": fv2es.__version__,
            "source": sha256,
            "model": model.to_dict(),
            "speech_model": speech,
            "switches": self._switches(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _manifest(self, model: ModelInfo, speech: str | None, started: datetime) -> dict[str, Any]:
        return {
            "manifest_version": MANIFEST_VERSION,
            "versions": {
                "fv2es": fv2es.__version__,
                "python": platform.python_version(),
                "triton": model.server_version,
            },
            "model": model.to_dict(),
            "speech_model": speech,
            "switches": self._switches(),
            "formats": list(self._rule.endings),
            "resumed": self._rule.resume,
            "started": started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "sources": [each.to_dict() for each in self.outcomes],
            "not_reached": [printable(each.path) for each in self._sources[len(self.outcomes) :]],
        }


def check_batch(rule: BatchRule, sources: Sequence[Source], transcript: Path | None) -> list[str]:
    """The names of the results; refuses, before any work, what could not be written.

    Raises:
        UsageError: the folder can't be made or written to, a form is unknown, or a result would overwrite what is read.
        MissingPackage: what a form needs is not installed.
    """
    for each in rule.formats:
        if each not in FORMATS:
            raise UsageError(
                f"--format {each.removeprefix('.')}: must be one of {', '.join(name[1:] for name in FORMATS)}"
            )
    if rule.key_frames and ".html" not in rule.formats:
        raise UsageError("--key-frames shows pictures in a report; add --format html")
    try:
        rule.folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{printable(rule.folder)}: no folder can be made there ({error.strerror}); name another"
        ) from error
    for ending in rule.endings:
        check_output(rule.folder / f"result{ending}")
    names = result_names(sources, taken=[MANIFEST.removesuffix(".json"), FOLDER])
    read = {os.path.realpath(each.path) for each in sources} | ({os.path.realpath(transcript)} if transcript else set())
    for name in names:
        for ending in rule.endings:
            path = rule.folder / f"{name}{ending}"
            if os.path.realpath(path) in read:
                raise UsageError(
                    f"{printable(path)} is read by this very command and would be overwritten; name another folder"
                )
    return names


def _read(path: str) -> tuple[Callable[[], bool], str]:
    """Whether a source changes from now on, and its hash."""
    try:
        return changed(path), _sha256(Path(path))
    except OSError as error:
        raise SourceError(path, f"it can't be read ({error.strerror}); check the name and who may read it") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is(path: Path, sha256: str | None) -> bool:
    return sha256 is not None and path.is_file() and _sha256(path) == sha256
