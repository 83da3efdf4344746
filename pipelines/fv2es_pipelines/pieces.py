"""Where pieces of sound lie in a flat batch."""

import numpy as np
import numpy.typing as npt


def piece_places(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Index and mask of pieces that lie one utterance after the other: int64 and bool [U, M >= 1]. `counts`: pieces of each, [U]."""
    length = max(1, int(counts.max(initial=0)))
    mask = np.arange(length) < counts[:, None]  # [U, M]
    firsts = np.cumsum(counts) - counts
    return np.where(mask, firsts[:, None] + np.arange(length), 0), mask
