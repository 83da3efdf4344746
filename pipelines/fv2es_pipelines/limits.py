"""Bounds on what a request may ask for."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fv2es_pipelines.errors import ClipTooLarge, InvalidUtterances


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaLimits:
    """Bounds on what a stranger's clip may cost. Exceeding one is a `ClipTooLarge`."""

    max_bytes: int = 256 * 2**20
    """Most bytes in a clip."""
    max_streams: int = 32
    """Most streams in a clip, used or not."""
    max_packets: int = 200_000
    """Most packets read from a clip."""
    max_pixels: int = 8192 * 8192
    """Most pixels in a picture."""
    max_duration_s: float = 600.0
    """Longest stretch of sound decoded from a clip."""
    max_utterances: int = 512
    """Most utterances in a request."""
    max_utterance_s: float = 120.0
    """Longest utterance."""
    max_utterances_s: float = 1200.0
    """Most seconds in all utterances of a request together."""


def checked_utterances(utterances_s: npt.ArrayLike, limits: MediaLimits) -> npt.NDArray[np.float64]:
    """Utterances as float64 [U, 2] (start, end; seconds on the clip's clock), checked.

    Raises:
        InvalidUtterances: the shape is not [U >= 1, 2], a time is not finite, or an end is not after its start.
        ClipTooLarge: there are more or longer utterances than `limits` allow.
    """
    array = np.asarray(utterances_s, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise InvalidUtterances(
            f"utterances have shape {array.shape}; give [U, 2] with U >= 1: start and end in seconds"
        )
    for row, (start_s, end_s) in enumerate(array):
        if not (np.isfinite(start_s) and np.isfinite(end_s) and start_s < end_s):
            raise InvalidUtterances(f"[{start_s:g}, {end_s:g}) s is no time range; give finite start < end", row=row)
    lengths_s = array[:, 1] - array[:, 0]  # [U]
    for what, value, limit in (
        ("max_utterances", len(array), limits.max_utterances),
        ("max_utterance_s", float(lengths_s.max()), limits.max_utterance_s),
        ("max_utterances_s", float(lengths_s.sum()), limits.max_utterances_s),
    ):
        if value > limit:
            raise ClipTooLarge(what, value=value, limit=limit)
    return array
