"""Which picture shows when: arithmetic on timestamps alone, never on counted frames."""

from bisect import bisect_left

import numpy as np
import numpy.typing as npt

from fv2es_pipelines.constants import FRAME_STEP_S, TIMESTAMP_TOLERANCE_S

_END_SLACK_S = 1e-6  # a sample this close before the end is the end itself, blurred by arithmetic


def sample_times(start_s: float, end_s: float, *, step_s: float = FRAME_STEP_S) -> npt.NDArray[np.float64]:
    """Times at which an utterance [start_s, end_s) is looked at: `start_s + k * step_s` before the end. Never empty.

    Returns:
        Seconds, ascending, float64 [n >= 1].
    """
    count = int(np.ceil((end_s - start_s) / step_s))
    times_s: npt.NDArray[np.float64] = start_s + step_s * np.arange(max(count, 1), dtype=np.float64)  # [n]
    keep = times_s < end_s - _END_SLACK_S
    keep[0] = True
    return times_s[keep]


class PictureChooser:
    """Decides, while pictures arrive in the order they are shown, which of them serve the wanted times.

    The picture at time `t` is the last one stamped `t` or earlier (1 ms of tolerance, for containers that round). Before the
    first picture, and from the end of the last one on, there is none. Where timestamps jump back, the earlier
    showing of a time wins.
    """

    def __init__(self, times_s: npt.NDArray[np.float64]) -> None:
        """Wanted times: seconds, ascending, float64 [n]."""
        self._times_s: list[float] = [float(time_s) for time_s in times_s]
        self._served = [False] * len(self._times_s)
        self._shown_s: float | None = None

    def arrive(self, pts_s: float) -> list[int]:
        """A picture stamped `pts_s` arrives: the positions of the wanted times that the picture before it serves."""
        shown_s, self._shown_s = self._shown_s, pts_s
        return (
            [] if shown_s is None else self._serve(shown_s, bisect_left(self._times_s, pts_s - TIMESTAMP_TOLERANCE_S))
        )

    def finish(self, end_s: float) -> list[int]:
        """No picture comes any more and the last is shown until `end_s`: the positions of the times that it serves."""
        shown_s, self._shown_s = self._shown_s, None
        return [] if shown_s is None else self._serve(shown_s, bisect_left(self._times_s, end_s))

    @property
    def done(self) -> bool:
        """True once the last wanted time is served and so nothing later is needed."""
        return not self._served or self._served[-1]

    def _serve(self, shown_s: float, stop: int) -> list[int]:
        first = bisect_left(self._times_s, shown_s - TIMESTAMP_TOLERANCE_S)
        chosen = [position for position in range(first, stop) if not self._served[position]]
        for position in chosen:
            self._served[position] = True
        return chosen
