"""How a model inside the ensemble says that it can't use a request: in an output, never as an error.

Triton 2.51 answers a request once for each of an ensemble's steps that ends after the first error. gRPC has put the request's place to
another use by then, so the second answer goes to a stranger: numbers of other requests, crashes and hangs follow. (Mended in Triton's
core in 2026, and still better avoided: the other steps would work for nothing.) So a model that refuses hands on a stand-in with nothing
in it, and `manifest`, which runs when all others are done, fails the request.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fv2es_pipelines.adapter import Arrays, Worker, one_by_one
from fv2es_pipelines.errors import PipelineError, Refused
from fv2es_pipelines.limits import MediaLimits, checked_utterances

log = logging.getLogger("fv2es_pipelines")

INTERNAL: Final = "INTERNAL"
"""Code of an error that is none of the caller's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a request can't be used."""

    code: str = ""
    """Triton's code of the error; empty: it can be used."""
    reason: str = ""

    def to_array(self) -> npt.NDArray[np.object_]:
        """As a tensor, [2]."""
        return np.array([self.code.encode(), self.reason.encode()], np.object_)

    @classmethod
    def from_array(cls, array: npt.NDArray[np.object_]) -> "Refusal":
        """From a tensor, [2]."""
        code, reason = (each.decode() if isinstance(each, bytes) else str(each) for each in array)
        return cls(code=code, reason=reason)


NONE: Final = Refusal()


def refusing(answer: Callable[[Arrays], Arrays], stand_in: Callable[[Arrays], Arrays], *, output: str) -> Worker:
    """A worker that answers each request by itself and never fails one.

    Args:
        answer: the outputs of a request, without the refusal; what it raises becomes the refusal. An error that is no `PipelineError`
            is logged and refused as INTERNAL.
        stand_in: outputs of the declared form with nothing in them, for inputs that `answer` can't use.
        output: name of the output that holds the refusal.
    """

    def with_refusal(request: Arrays) -> Arrays:
        try:
            return {**answer(request), output: NONE.to_array()}
        except PipelineError as error:
            refusal = Refusal(code=error.code, reason=str(error))
        except Exception as error:
            # Anything that got out of here would be answered twice by Triton 2.51, to a stranger the second time.
            log.exception("an error that should have been a PipelineError")
            refusal = Refusal(code=INTERNAL, reason=f"{type(error).__name__}: {error}")
        return {**stand_in(request), output: refusal.to_array()}

    return one_by_one(with_refusal)


def raise_refusals(request: Arrays, *names: str) -> None:
    """Fail a request that was refused.

    Args:
        request: inputs by name.
        names: those that hold refusals.

    Raises:
        Refused: with the first of them; others are not told.
    """
    for name in names:
        refusal = Refusal.from_array(request[name])
        if refusal.code:
            raise Refused(refusal.code, refusal.reason)


def num_rows(utterances_s: npt.NDArray[Any]) -> int:
    """Utterances in a stand-in for UTTERANCES that may be of any length; all models must agree on it."""
    return min(max(len(utterances_s), 1), MediaLimits().max_utterances)


def usable_utterances(utterances_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Utterances [U, 2] to make a stand-in for: the given ones, or as many of one second where they can't be used."""
    try:
        return checked_utterances(utterances_s, MediaLimits())
    except PipelineError:
        return np.array([[0.0, 1.0]] * num_rows(utterances_s))
