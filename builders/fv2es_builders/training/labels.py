"""Labels of data sets against labels of a preset, always by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from fv2es_builders.errors import TrainingDataError

SYNONYMS: Final[Mapping[str, str]] = {
    "angry": "anger",
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
}
"""Names in data sets that mean a label under another name. A name that the preset itself has goes first."""


def label_positions(names: Sequence[str], labels: Sequence[str], *, source: Path) -> npt.NDArray[np.int64]:
    """Where each of a data set's labels stands among a preset's: int64 [len(names)].

    Raises:
        TrainingDataError: the preset lacks one of the names.
    """
    positions = []
    for name in names:
        own = name if name in labels else SYNONYMS.get(name, name)
        if own not in labels:
            raise TrainingDataError(
                source, f"label {name!r} is none of the preset's ({', '.join(labels)}); choose another preset"
            )
        positions.append(labels.index(own))
    return np.array(positions, np.int64)
