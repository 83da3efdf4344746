"""Arithmetic on boxes as MTCNN does it. A box is x0 y0 x1 y1 in pixels; arrays are float64 [n, 4]."""

import numpy as np
import numpy.typing as npt

from fv2es_pipelines.constants import FACE_MARGIN_PX, FACE_SIZE_PX

Boxes = npt.NDArray[np.float64]

_MATRIX_ROWS = 1024  # up to here all pairs are compared at once


def suppressed(
    boxes: Boxes, scores: npt.NDArray[np.float32], threshold: float, *, by_smaller: bool = False
) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression: positions of the boxes that stay, best score first.

    Args:
        boxes: [n, 4].
        scores: [n].
        threshold: a box goes when it overlaps a better one by more than this.
        by_smaller: overlap is intersection over the smaller area, pixels counted inclusively (MTCNN's last
            step); else intersection over union.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = boxes[order]
    if len(order) <= _MATRIX_ROWS:
        beats = np.triu(overlaps(ranked, ranked, by_smaller=by_smaller) > threshold, 1)  # [n, n], row beats column
        keep = np.ones(len(order), bool)
        while True:  # the first k are right after k rounds, in practice all are after a few
            left = ~beats[keep].any(axis=0)
            if np.array_equal(left, keep):
                best_first: npt.NDArray[np.intp] = order[keep]
                return best_first
            keep = left
    kept: list[int] = []
    rest = np.arange(len(order))
    while len(rest):
        kept.append(int(rest[0]))
        overlap = overlaps(ranked[rest[:1]], ranked[rest[1:]], by_smaller=by_smaller)[0]
        rest = rest[1:][overlap <= threshold]
    return order[kept]


def overlaps(first: Boxes, second: Boxes, *, by_smaller: bool = False) -> npt.NDArray[np.float64]:
    """Overlap of every box of `first` with every one of `second`, as in `suppressed`: float64 [n, m] in [0, 1]."""
    extra = 1.0 if by_smaller else 0.0
    low = np.maximum(first[:, None, :2], second[None, :, :2])  # [n, m, 2]
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(high - low + extra, 0, None).prod(axis=2)  # [n, m]
    areas = [(boxes[:, 2:] - boxes[:, :2] + extra).prod(axis=1) for boxes in (first, second)]
    if by_smaller:
        whole = np.minimum(areas[0][:, None], areas[1][None, :])
    else:
        whole = areas[0][:, None] + areas[1][None, :] - common
    ratio: npt.NDArray[np.float64] = common / np.maximum(whole, 1e-9)
    return ratio


def squared(boxes: Boxes) -> Boxes:
    """Each box grown to a square of its longer side round its centre."""
    sides = boxes[:, 2:] - boxes[:, :2]
    side = sides.max(axis=1, keepdims=True)
    low = boxes[:, :2] + sides / 2 - side / 2
    return np.concatenate([low, low + side], axis=1)


def moved(boxes: Boxes, offsets: npt.NDArray[np.float32], *, extra_px: float) -> Boxes:
    """Each box's edges moved by `offsets` [n, 4], which are fractions of its sides plus `extra_px`."""
    sides = boxes[:, 2:] - boxes[:, :2] + extra_px
    result: Boxes = boxes + offsets * np.concatenate([sides, sides], axis=1)
    return result


def pixel_bounds(boxes: Boxes, width_px: int, height_px: int) -> npt.NDArray[np.int64]:
    """Pixels of a picture that a box covers, clipped to it: int64 [n, 4], half-open. MTCNN counts pixels from 1."""
    whole = np.trunc(boxes).astype(np.int64)
    low = np.maximum(whole[:, :2], 1) - 1
    high = np.minimum(whole[:, 2:], (width_px, height_px))
    return np.concatenate([low, high], axis=1)


def face_region(box: npt.ArrayLike, width_px: int, height_px: int) -> tuple[int, int, int, int]:
    """Pixels to crop for a face: the box with its margin, clipped to the picture, never empty.

    The box grows by `margin * side / (size - margin)`, half on each side, so that the margin is
    `FACE_MARGIN_PX` wide in the picture of `FACE_SIZE_PX` that is made of it. Source: facenet-pytorch's `extract_face`.

    Returns:
        x0, y0, x1, y1 in whole pixels, half-open.
    """
    x0, y0, x1, y1 = (float(edge) for edge in np.asarray(box, np.float64))
    half = FACE_MARGIN_PX / (FACE_SIZE_PX - FACE_MARGIN_PX) / 2
    grow_x, grow_y = half * (x1 - x0), half * (y1 - y0)
    left = min(int(max(x0 - grow_x, 0)), width_px - 1)
    top = min(int(max(y0 - grow_y, 0)), height_px - 1)
    right, bottom = int(min(x1 + grow_x, width_px)), int(min(y1 + grow_y, height_px))
    return left, top, max(right, left + 1), max(bottom, top + 1)
