"""What clients ask about: lanes, one for each model to which clips are sent."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tritonclient.grpc import InferResult

from fv2es.cutting import Clip
from fv2es.errors import Fv2esError
from fv2es.wire import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A small request about a clip that is answered already."""

    model_name: str
    inputs: list[Tensor]
    decode: Callable[..., Any]
    """Takes the response, and the server's `address` for errors."""


class Lane(Protocol):
    """Clips of one source that are sent to one model, in order, and answers that come back in that order."""

    model_name: str

    def next_clip(self) -> Clip | None:
        """The next clip, cut now; None where there is none, now or ever."""

    def encode(self, clip: Clip) -> list[Tensor]:
        """The request for a clip."""

    def decode(self, response: InferResult, *, address: str) -> Any:
        """The answer in a response."""

    def questions(self, clip: Clip, answer: Any) -> Iterator[Question]:
        """What else is to be asked about a clip, now that it is answered."""

    def add_answer(self, clip: Clip, answer: Any, further: Sequence[Any]) -> list[Any]:
        """Take in an answer, and the answers to `questions`; gives what may be shown now."""

    def add_failure(self, clip: Clip, error: Fv2esError) -> list[Any]:
        """Take in that a clip is lost; gives what may be shown now."""

    def close(self) -> None:
        """Cut no more, and let go of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A clip and where it goes."""

    lane: Lane
    clip: Clip
