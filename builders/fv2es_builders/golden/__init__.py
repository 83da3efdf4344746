"""A little real input that travels with the builder: every build is compared with its modules on it.

`golden.npz` is made by `make.py` from the project's test clip, a public-domain portrait by NASA and synthetic speech.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """Three utterances: a face, speech and words."""

    faces: "NDArray[np.uint8]"
    """[6, 48, 48, 3] RGB, two for each utterance; those of the second show no face, in the third it is half out."""
    pieces: "NDArray[np.float32]"
    """[P, 4, 32, 32] power of the mel spectrum, of all utterances one after the other."""
    piece_counts: tuple[int, ...]
    """Number of pieces of each utterance."""
    words: Sequence[str]
    """Words of each utterance."""


def load_golden() -> Golden:
    """The real input."""
    with files(__name__).joinpath("golden.npz").open("rb") as file, np.load(file) as archive:
        return Golden(
            faces=archive["faces"],
            pieces=archive["pieces"].astype(np.float32),
            piece_counts=tuple(int(count) for count in archive["piece_counts"]),
            words=[str(line) for line in archive["words"]],
        )
