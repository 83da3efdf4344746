"""What has been done in a folder of results, kept such that a run that was killed can be gone on with.

Everything is in the folder's `.fv2es`: `done.jsonl` names the sources that are done, and for each source under way a file of
its own holds the server's answers to the clips that are in. Lines are only ever added, and are on the disk before work goes on.
"""

import base64
import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from tritonclient.grpc import InferResult

from fv2es.cutting import Clip
from fv2es.errors import Fv2esError, JournalError, UsageError
from fv2es.lanes import Lane, Question
from fv2es.plain import printable
from fv2es.seams import Withheld
from fv2es.speech import SPEECH_MODEL, SpeechAnswer
from fv2es.wire import ClipAnswer, Tensor
from fv2es.words import Word

FOLDER = ".fv2es"
_FORM = {"journal": "fv2es", "version": 1}


class Lines:
    """A file of JSON lines that grows. A last line that was not written to its end is cut off.

    Raises:
        JournalError: it is of another form or version, or damaged.
        OSError: it can't be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: list[dict[str, Any]] = []
        is_new = not path.exists()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._read()
        except BaseException:
            os.close(self._descriptor)
            raise
        if is_new:
            sync_folder(path.parent)

    def _read(self) -> None:
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        os.ftruncate(self._descriptor, len(whole))
        os.lseek(self._descriptor, len(whole), os.SEEK_SET)
        if not whole:
            self._write(_FORM)
            return
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                value = json.loads(line)
            except ValueError as error:
                raise JournalError(str(self.path), f"line {number} is no JSON ({error})") from error
            if number == 1:
                if value != _FORM:
                    raise JournalError(str(self.path), f"it begins with {line[:60]!r}, not with {json.dumps(_FORM)}")
            elif not isinstance(value, dict):
                raise JournalError(str(self.path), f"line {number} holds no object")
            else:
                self.values.append(value)

    def add(self, value: dict[str, Any]) -> None:
        """Add a line; it is on the disk afterwards."""
        self._write(value)
        self.values.append(value)

    def _write(self, value: dict[str, Any]) -> None:
        data = json.dumps(value, allow_nan=True).encode() + b"\n"
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class Journal:
    """The answers to the clips of one source.

    Args:
        path: its file.
        model_sha256: of the weights; what others answered is not kept.
        speech: identity of the speech model, likewise.
    """

    def __init__(self, path: Path, *, model_sha256: str, speech: str = "") -> None:
        self._model_sha256, self._speech = model_sha256, speech
        self.is_mixed = False
        """Whether another speech model than the journal's has answered."""
        self._lines = Lines(path)
        try:
            self._answers = {
                (each["model"], each["clip"]): (
                    _decoded(each["model"], each["answer"]),
                    [{name: _decoded_value(array) for name, array in part.items()} for part in each["further"]],
                )
                for each in self._lines.values
            }
        except (KeyError, TypeError, ValueError) as error:
            self._lines.close()
            raise JournalError(str(path), f"an answer in it can't be read ({error!r})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lines.close()

    def answer(self, model: str, clip: Clip) -> tuple[Any, list[Any]] | None:
        """The answer to a clip, and those to further questions about it; None where it is not known."""
        return self._answers.get((model, _clip_id(clip)))

    def keep(self, model: str, clip: Clip, answer: Any, further: Sequence[Mapping[str, Any]] = ()) -> None:
        """Keep an answer, and those to further questions; one that says that the server can't, or is of other weights, is left out."""
        if isinstance(answer, SpeechAnswer):
            if answer.identity != self._speech:
                self.is_mixed = True
                return
            if answer.missing:
                return
        elif answer.manifest["sha256"] != self._model_sha256:
            return
        parts = [{name: _encoded_value(array) for name, array in part.items()} for part in further]
        self._lines.add({"model": model, "clip": _clip_id(clip), "answer": _encoded(answer), "further": parts})


class Journalled:
    """A lane whose clips are not sent again where their answers are known, and whose new answers are kept."""

    def __init__(self, lane: Lane, journal: Journal) -> None:
        self._lane, self._journal = lane, journal
        self.model_name = lane.model_name

    def next_clip(self) -> Clip | None:
        """The next clip that has to be sent."""
        while (clip := self._lane.next_clip()) is not None:
            known = self._journal.answer(self.model_name, clip)
            if known is None:
                return clip
            self._lane.add_answer(clip, *known)
        return None

    def encode(self, clip: Clip) -> list[Tensor]:
        """The request for a clip."""
        return self._lane.encode(clip)

    def decode(self, response: InferResult, *, address: str) -> Any:
        """The answer in a response."""
        return self._lane.decode(response, address=address)

    def questions(self, clip: Clip, answer: Any) -> Iterator[Question]:
        """What else is to be asked about a clip, now that it is answered."""
        return self._lane.questions(clip, answer)

    def add_answer(self, clip: Clip, answer: Any, further: Sequence[Any]) -> list[Any]:
        """Keep an answer, then take it in."""
        self._journal.keep(self.model_name, clip, answer, further)
        return self._lane.add_answer(clip, answer, further)

    def add_failure(self, clip: Clip, error: Fv2esError) -> list[Any]:
        """Take in that a clip is lost; it is not kept, so that going on tries it again."""
        return self._lane.add_failure(clip, error)

    def close(self) -> None:
        """Cut no more, and let go of the file."""
        self._lane.close()


class Ledger:
    """The folder's record of what is done. One run at a time.

    Args:
        folder: of the results.
        resume: keep what is known; else begin anew.

    Raises:
        UsageError: another run works in the folder.
        JournalError: the journal can't be used.
        OSError: nothing can be written there.
    """

    def __init__(self, folder: Path, *, resume: bool) -> None:
        self._folder = folder / FOLDER
        self._folder.mkdir(exist_ok=True)
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._take_lock(folder)
            if not resume:
                for each in self._folder.glob("*.jsonl"):
                    each.unlink()
            self._lines = Lines(self._folder / "done.jsonl")
        except BaseException:
            os.close(self._lock)
            raise

    def _take_lock(self, folder: Path) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another run writes its results to {printable(folder)}; wait for it, or name another folder"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lines.close()
        os.close(self._lock)

    def done(self, name: str, key: str) -> dict[str, str] | None:
        """The sha256 of the result files by their names, where the source is done; None where it is not.

        Args:
            name: of the result.
            key: hash of all that determines it.
        """
        last = next((each for each in reversed(self._lines.values) if each.get("name") == name), None)
        files = last.get("files") if last and last.get("key") == key else None
        return files if isinstance(files, dict) else None

    def add_done(self, name: str, key: str, files: dict[str, str]) -> None:
        """Record that a source is done."""
        self._lines.add({"name": name, "key": key, "files": files})

    def clips_path(self, name: str, key: str) -> Path:
        """Where the answers to a source's clips are kept while it is under way."""
        return self._folder / f"{hashlib.sha256(f'{key} {name}'.encode(errors='surrogateescape')).hexdigest()}.jsonl"


def sync_folder(folder: Path) -> None:
    """Make names in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clip_id(clip: Clip) -> str:
    """Of a clip within its source: where it lies and what is asked about it."""
    asked = [(each.index, each.start_s, each.end_s, each.text) for each in clip.utterances]
    return hashlib.sha256(json.dumps([clip.start_s, clip.end_s, asked]).encode()).hexdigest()


def _encoded(answer: ClipAnswer | SpeechAnswer) -> dict[str, Any]:
    if isinstance(answer, SpeechAnswer):
        return dataclasses.asdict(answer)
    plain = dataclasses.replace(answer, features={})  # large, and needed for further questions alone
    return {each.name: _encoded_value(getattr(plain, each.name)) for each in dataclasses.fields(plain)}


def _encoded_value(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
    return {"dtype": value.dtype.str, "shape": list(value.shape), "base64": data}


def _decoded(model: str, value: dict[str, Any]) -> ClipAnswer | SpeechAnswer:
    if model == SPEECH_MODEL:
        return SpeechAnswer(
            **value
            | {
                "words": tuple(Word(**each) for each in value["words"]),
                "speech_s": tuple((start_s, end_s) for start_s, end_s in value["speech_s"]),
                "withheld": tuple(Withheld(**each) for each in value["withheld"]),
            }
        )
    return ClipAnswer(**{name: _decoded_value(each) for name, each in value.items()})


def _decoded_value(value: Any) -> Any:
    if not (isinstance(value, dict) and "base64" in value):
        return value
    data = base64.b64decode(value["base64"], validate=True)
    return np.frombuffer(data, np.dtype(value["dtype"])).reshape(value["shape"])
