"""Every error that the pipelines raise. One root; facts are attributes; `retryable` is data, never a matter of the text."""

from collections.abc import Sequence


class PipelineError(Exception):
    """Root of all errors of this package."""

    retryable: bool = False
    """True where the same call may succeed later without a change by the caller."""
    code: str = "INVALID_ARG"
    """Triton's code of the error, a name of `TRITONSERVER_Error_Code` without its prefix."""


class NotMedia(PipelineError, ValueError):
    """The bytes are no media that FFmpeg recognises within the allowed containers."""

    def __init__(self, *, num_bytes: int, reason: str) -> None:
        self.num_bytes, self.reason = num_bytes, reason
        super().__init__(
            f"{num_bytes} bytes are no readable media ({reason}); give a whole media file, such as Matroska, NUT or MP4"
        )


class UnsupportedCodec(PipelineError, ValueError):
    """A stream is compressed with a codec outside the allow-list. `kind` is `video` or `audio`."""

    def __init__(self, codec: str, *, kind: str, allowed: Sequence[str]) -> None:
        self.codec, self.kind, self.allowed = codec, kind, tuple(allowed)
        super().__init__(
            f"{kind} codec {codec!r} is not allowed; convert the {kind} to one of: {', '.join(sorted(allowed))}"
        )


class ClipTooLarge(PipelineError, ValueError):
    """A clip exceeds a bound of `MediaLimits`. `what` is the bound's name."""

    def __init__(self, what: str, *, value: float, limit: float) -> None:
        self.what, self.value, self.limit = what, value, limit
        super().__init__(
            f"{what}: {value:.12g} exceeds {limit:.12g}; cut the source into smaller clips or raise the limit"
        )


class InvalidUtterances(PipelineError, ValueError):
    """The utterances' times are not usable. `row` is the first bad one, None if the whole array is wrong."""

    def __init__(self, message: str, *, row: int | None = None) -> None:
        self.row = row
        super().__init__(message if row is None else f"utterance {row}: {message}")


class InvalidWords(PipelineError, ValueError):
    """The words of an utterance are not UTF-8. `row` says which."""

    def __init__(self, message: str, *, row: int) -> None:
        self.row = row
        super().__init__(f"utterance {row}: {message}")


class ModelFileMissing(PipelineError, FileNotFoundError):
    """A file that a pipeline needs (a net of the detector, a tokenizer) can't be read. `path` names it."""

    def __init__(self, path: str, *, remedy: str) -> None:
        self.path = path
        super().__init__(f"{path}: can't be read; {remedy}")


class WordsMismatch(PipelineError, ValueError):
    """There are not as many entries of words as utterances."""

    def __init__(self, *, num_words: int, num_utterances: int) -> None:
        self.num_words, self.num_utterances = num_words, num_utterances
        super().__init__(
            f"{num_words} entries of words for {num_utterances} utterances; give one for each, empty where no words are known"
        )


class Refused(PipelineError):
    """A model upstream could not use the request. `code` and the message are those that it gave."""

    def __init__(self, code: str, reason: str) -> None:
        self.code = code
        super().__init__(reason)


class NotOnDevice(PipelineError):
    """A clip's pictures can't be decoded by the device's decoder; the CPU decodes them instead. `reason` is one word of a few."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(f"{message}; the pictures are decoded on the CPU")


class MissingWeights(PipelineError):
    """A model's folder holds no weights, or other weights than the model needs."""
