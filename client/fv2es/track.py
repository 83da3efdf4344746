"""A finer track: windows that slide over the features of an utterance. Nothing is decoded or encoded for it; `fusion` is asked again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fv2es.errors import UsageError
from fv2es.result import LEAST_EVIDENCE, MODALITIES, TrackPoint
from fv2es.utterances import Utterance

FRAME_STEP_S = 0.5
"""Distance of the pictures that are looked at (the model's sampling)."""
PIECE_S = 0.4
"""Sound under one piece of the spectrum: 32 windows, 200 samples apart, at 16 kHz."""
MAX_WINDOWS = 512
"""Most windows in one request: as many rows as `fusion` takes on the gpu profile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackRule:
    """How windows slide over an utterance. Times: seconds."""

    step_s: float = 1.0
    """Distance of the windows' starts; >= 0.5, the distance of the pictures."""
    window_s: float = 2.0
    """Length of a window; >= `step_s`. The last ones of an utterance are cut at its end, as long as a step is left."""

    def __post_init__(self) -> None:
        if not self.step_s >= FRAME_STEP_S:
            raise UsageError(
                f"step_s={self.step_s:g} s must be at least {FRAME_STEP_S:g} s: the pictures lie that far apart"
            )
        if not self.window_s >= self.step_s:
            raise UsageError(f"window_s={self.window_s:g} s must be at least step_s={self.step_s:g} s")

    def windows(self, start_s: float, end_s: float) -> Iterator[tuple[float, float]]:
        """The windows of an utterance [start_s, end_s), each inside it; at least one."""
        number = 0
        while not number or start_s + (number + 1) * self.step_s <= end_s + 1e-9:
            begin_s = start_s + number * self.step_s
            yield begin_s, min(begin_s + self.window_s, end_s)
            number += 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What `fusion` takes of a clip: F faces, P pieces, U utterances. Names and shapes are those of its inputs."""

    arrays: Mapping[str, npt.NDArray[Any]]
    frame_times_s: npt.NDArray[np.float64]
    """[K], when each sampled picture is shown, by utterance, then by time, on the clip's clock."""
    frame_utterance: npt.NDArray[np.int32]
    """[K]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One window of one utterance of a clip."""

    row: int
    """The utterance's place in the clip."""
    start_s: float
    end_s: float


def windows_of(utterances: Sequence[Utterance], rule: TrackRule) -> list[Window]:
    """All windows of a clip's utterances, in order; seconds on the utterances' clock."""
    return [
        Window(row=row, start_s=start_s, end_s=end_s)
        for row, utterance in enumerate(utterances)
        for start_s, end_s in rule.windows(utterance.start_s, utterance.end_s)
    ]


def fusion_arrays(
    features: Features, utterances: Sequence[Utterance], windows: Sequence[Window]
) -> dict[str, npt.NDArray[Any]]:
    """The inputs of `fusion` for W windows.

    A picture belongs to the windows in which it is shown first, a piece of sound to those in which it begins, words to all windows of
    their utterance.
    """
    faces, pieces = [], []
    for window in windows:
        start_s = utterances[window.row].start_s
        is_last = (
            window.end_s >= utterances[window.row].end_s
        )  # then it takes what is left, such as a last scrap of sound
        end_s = np.inf if is_last else window.end_s - 1e-9
        shown_s = np.maximum(features.frame_times_s[features.frame_utterance == window.row], start_s)  # [k]
        faces.append(_chosen("FACE", features, window.row, (shown_s >= window.start_s - 1e-9) & (shown_s < end_s)))
        begin_s = start_s + PIECE_S * np.arange(features.arrays["PIECE_INDEX"].shape[1])  # [M]
        pieces.append(_chosen("PIECE", features, window.row, (begin_s >= window.start_s - 1e-9) & (begin_s < end_s)))
    rows = [window.row for window in windows]
    face_index, face_mask = _padded(faces)
    piece_index, piece_mask = _padded(pieces)
    return {
        "VISUAL": features.arrays["VISUAL"],
        "FACE_INDEX": face_index,
        "FACE_MASK": face_mask,
        "ACOUSTIC": features.arrays["ACOUSTIC"],
        "PIECE_INDEX": piece_index,
        "PIECE_MASK": piece_mask,
        "TEXT": features.arrays["TEXT"][rows],
        "WORDS_MASK": features.arrays["WORDS_MASK"][rows],
    }


def _chosen(
    kind: str, features: Features, row: int, wanted: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Index and mask of those of an utterance's pictures or pieces that are wanted, [n] each."""
    inside = np.flatnonzero(wanted)
    return features.arrays[f"{kind}_INDEX"][row, inside], features.arrays[f"{kind}_MASK"][row, inside]


def _padded(
    rows: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Rows of different lengths as int64 and bool [W, longest >= 1]."""
    length = max(1, *(len(index) for index, _ in rows))
    indices, masks = np.zeros((len(rows), length), np.int64), np.zeros((len(rows), length), np.bool_)
    for row, (index, mask) in enumerate(rows):
        indices[row, : len(index)], masks[row, : len(mask)] = index, mask
    return indices, masks


def track_points(
    windows: Sequence[Window], outputs: Mapping[str, npt.NDArray[Any]], labels: Sequence[str]
) -> list[list[TrackPoint]]:
    """What `fusion` said of W windows, by the utterance's place in the clip."""
    points: list[list[TrackPoint]] = [[] for _ in range(max(window.row for window in windows) + 1)]
    for number, window in enumerate(windows):
        points[window.row].append(
            TrackPoint(
                start_s=window.start_s,
                end_s=window.end_s,
                probabilities=dict(zip(labels, outputs["PROBABILITIES"][number].tolist(), strict=True)),
                is_clear=bool(outputs["LOGITS"][number].max() >= LEAST_EVIDENCE),
                present=tuple(
                    name for name, there in zip(MODALITIES, outputs["PRESENT"][number], strict=True) if there
                ),
            )
        )
    return points
