"""Every error that fv2es raises. One root; facts are attributes; `retryable` is data, never a matter of the text."""

from collections.abc import Sequence


class Fv2esError(Exception):
    """Root of all errors of this package."""

    retryable: bool = False
    """True where the same call may succeed later without a change by the caller."""


class UsageError(Fv2esError, ValueError):
    """An argument or option is outside its rule."""


class SourceError(Fv2esError):
    """A source file can't be used. `source` names it."""

    def __init__(self, source: str, message: str) -> None:
        self.source = source
        super().__init__(f"{source}: {message}")


class SourceNotFound(SourceError):
    """There is no such file, or it can't be opened for reading."""


class NotMedia(SourceError):
    """The bytes are no media file that FFmpeg recognises, or its index is missing or cut off."""


class UnsupportedMedia(SourceError):
    """The file is media, but of a kind outside the allow-list or without what is needed to cut it."""


class MissingStream(SourceError):
    """The container opened but holds neither pictures nor sound."""

    def __init__(self, source: str, *, wanted: str, found: Sequence[str]) -> None:
        self.wanted, self.found = wanted, tuple(found)
        super().__init__(
            source,
            f"no {wanted} stream (found: {', '.join(found) or 'nothing'}); give a file that has pictures or sound",
        )


class TranscriptError(Fv2esError, ValueError):
    """A transcript can't be read or does not fit the source. `path` and `line` (1-based, None if unknown) say where."""

    def __init__(self, path: str, message: str, *, line: int | None = None) -> None:
        self.path, self.line = path, line
        super().__init__(f"{path}{f':{line}' if line else ''}: {message}")


class ResultError(Fv2esError, ValueError):
    """A result file, or a value read from one, is not of the form that this version reads. `place` says where."""

    def __init__(self, place: str, message: str) -> None:
        self.place = place
        super().__init__(f"{place}: {message}")


class JournalError(Fv2esError):
    """The journal of an earlier run can't be gone on with. `path` names it."""

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}; leave out --resume to begin anew, or name another folder")


class ResultsNotWritten(Fv2esError):
    """Nothing more can be written to a folder of results, as on a full disk. `folder` names it."""

    def __init__(self, folder: str, message: str) -> None:
        self.folder = folder
        super().__init__(
            f"{folder}: results can't be written ({message}); those that are done are there: make room, then go on with --resume"
        )


class MissingPackage(Fv2esError):
    """Something needs a package that is not installed. `package` is its name, `extra` the extra of fv2es that brings it."""

    def __init__(self, subject: str, *, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f"{subject} needs the package {package}; run: pip install 'fv2es[{extra}]'")


class ServerError(Fv2esError):
    """A server did not do what it was asked to. `address` is HOST:PORT."""

    def __init__(self, address: str, message: str) -> None:
        self.address = address
        super().__init__(f"{address}: {message}")


class ServerUnreachable(ServerError):
    """No Triton answered at the address."""

    retryable = True


class ModelUnavailable(ServerError):
    """A Triton answers, but has no `emotion` model that is ready and of the expected form."""


class ServerOverloaded(ServerError):
    """The server's queue was full and stayed so until the deadline."""

    retryable = True


class DeadlineExceeded(ServerError):
    """The answer did not come within the deadline. `timeout_s` is the deadline that was set."""

    retryable = True

    def __init__(self, address: str, message: str, *, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        super().__init__(address, message)


class InferenceFailed(ServerError):
    """The server failed on this clip although it answers others; trying again did not help."""


class ClipRejected(ServerError):
    """The server found the clip's bytes or utterances unusable (INVALID_ARGUMENT)."""


class EmbeddedServerError(Fv2esError):
    """The embedded Triton can't be started or kept running."""


class UtterancesLost(Fv2esError):
    """Some utterances of a source could not be scored; the others are in `result`."""

    def __init__(self, source: str, lost: Sequence[tuple[float, float, str]], result: object = None) -> None:
        self.source, self.lost, self.result = source, tuple(lost), result
        spans = "; ".join(f"[{start_s:.2f}, {end_s:.2f}) s: {why}" for start_s, end_s, why in self.lost)
        super().__init__(f"{source}: {len(self.lost)} utterances were lost: {spans}")
