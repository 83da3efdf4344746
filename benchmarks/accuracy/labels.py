"""Names of emotions: the same one goes by several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.accuracy.errors import RepeatedLabels, UnknownLabels

SYNONYMS: Final = (
    frozenset({"anger", "angry", "ang"}),
    frozenset({"happiness", "happy", "joy", "hap"}),
    frozenset({"neutral", "neu"}),
    frozenset({"sadness", "sad"}),
)
"""Names of one label, in FER2013, GoEmotions, EmoDB, CMU-MOSEI and IEMOCAP. A name that the model itself has goes first."""


def label_positions(names: Sequence[str], labels: Sequence[str], *, path: Path) -> list[int]:
    """Where each of the data's labels stands among the model's: as many positions as names, no two alike.

    Raises:
        UnknownLabels: the model lacks some; all of them are named. `path` says whose labels they are.
        RepeatedLabels: several names are equal, or mean the same label of the model.
    """
    found = [_position(name, labels) for name in names]
    if missing := [name for name, position in zip(names, found, strict=True) if position is None]:
        raise UnknownLabels(path, missing, labels)
    positions = [position for position in found if position is not None]
    if repeated := [name for name, own in zip(names, positions, strict=True) if positions.count(own) > 1]:
        raise RepeatedLabels(path, repeated)
    return positions


def _position(name: str, labels: Sequence[str]) -> int | None:
    if name in labels:
        return labels.index(name)
    same = next((group for group in SYNONYMS if name in group), frozenset[str]())
    return next((position for position, label in enumerate(labels) if label in same), None)
