"""MTCNN picture by picture on the full-size picture with the whole pyramid, as facenet-pytorch does it.

Thresholds, overlaps and rounding are facenet-pytorch's; the arithmetic on boxes is that of `fv2es_pipelines.boxes`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from benchmarks.peers.answer import Box
from benchmarks.peers.media import Rgb
from fv2es_pipelines.area import area_resize, pooled, pooled_boxes, summed
from fv2es_pipelines.boxes import Boxes, face_region, moved, pixel_bounds, squared, suppressed
from fv2es_pipelines.constants import (
    DETECTOR_CELL_PX,
    DETECTOR_MEAN,
    DETECTOR_MIN_FACE_PX,
    DETECTOR_OUTPUT_PX,
    DETECTOR_PYRAMID_FACTOR,
    DETECTOR_REFINE_PX,
    DETECTOR_SCALE,
    DETECTOR_STRIDE_PX,
    DETECTOR_THRESHOLDS,
    FACE_SIZE_PX,
)

Floats = npt.NDArray[np.float32]
Net = Callable[[Floats], tuple[Floats, Floats]]
"""Normalised pictures [B, 3, H, W] to probability and offsets, as `fv2es_builders.detector` has them."""

_LEVEL_OVERLAP, _FRAME_OVERLAP, _REFINED_OVERLAP, _FINAL_OVERLAP = 0.5, 0.7, 0.7, 0.7  # facenet-pytorch's detect_face


class Shrinker(Protocol):
    """A picture that is reduced by area averaging over whole pixels, as torch's `interpolate` does in its mode `area`."""

    def whole(self, width_px: int, height_px: int) -> Floats:
        """All of it: [3, height_px, width_px] on the scale 0..255."""

    def squares(self, bounds: npt.NDArray[np.int64], side_px: int) -> Floats:
        """Regions [n, 4] of whole pixels, each a square: [n, 3, side_px, side_px] on the scale 0..255."""


class TorchShrinker:
    """By PyTorch, region by region: facenet-pytorch's way."""

    def __init__(self, rgb: Rgb) -> None:
        self._picture = torch.from_numpy(rgb).permute(2, 0, 1)[None].float()  # [1, 3, H, W]

    def whole(self, width_px: int, height_px: int) -> Floats:
        """As `Shrinker.whole`."""
        reduced: Any = functional.interpolate(self._picture, (height_px, width_px), mode="area")[0].numpy()
        return np.asarray(reduced, np.float32)

    def squares(self, bounds: npt.NDArray[np.int64], side_px: int) -> Floats:
        """As `Shrinker.squares`."""
        parts = [
            functional.interpolate(self._picture[:, :, y0:y1, x0:x1], (side_px, side_px), mode="area")
            for x0, y0, x1, y1 in bounds.tolist()
        ]
        joined: Any = torch.cat(parts).numpy()
        return np.asarray(joined, np.float32)


class SumsShrinker:
    """By summed-area tables in numpy: the same numbers without PyTorch, and faster."""

    def __init__(self, rgb: Rgb) -> None:
        self._sums = summed(rgb)

    def whole(self, width_px: int, height_px: int) -> Floats:
        """As `Shrinker.whole`."""
        return pooled(self._sums, width_px, height_px)

    def squares(self, bounds: npt.NDArray[np.int64], side_px: int) -> Floats:
        """As `Shrinker.squares`."""
        return pooled_boxes(self._sums, bounds, side_px).swapaxes(0, 1)


class Cascade:
    """The largest face of a picture.

    Args:
        nets: pnet, rnet and onet.
        shrinker: makes what reduces a picture.
    """

    def __init__(self, nets: Mapping[str, Net], shrinker: Callable[[Rgb], Shrinker]) -> None:
        self._nets, self._shrinker = nets, shrinker

    def __call__(self, rgb: Rgb) -> Box | None:
        """Its box, of a picture uint8 [H, W, 3]; None: no face."""
        height, width = rgb.shape[:2]
        picture = self._shrinker(rgb)
        boxes = self._proposed(picture, width, height)
        for name, side_px, threshold in (
            ("rnet", DETECTOR_REFINE_PX, DETECTOR_THRESHOLDS[1]),
            ("onet", DETECTOR_OUTPUT_PX, DETECTOR_THRESHOLDS[2]),
        ):
            bounds = pixel_bounds(boxes, width, height)
            inside = (bounds[:, 2:] > bounds[:, :2]).all(axis=1)
            boxes, bounds = boxes[inside], bounds[inside]
            if not len(boxes):
                return None
            scores, shifts = self._nets[name](_normalised(picture.squares(bounds, side_px)))  # [n], [n, 4]
            passed = scores > threshold
            boxes, scores, shifts = boxes[passed], scores[passed], shifts[passed]
            if name == "rnet":
                keep = suppressed(boxes, scores, _REFINED_OVERLAP)
                boxes = squared(moved(boxes[keep], shifts[keep], extra_px=1))
            else:
                boxes = moved(boxes, shifts, extra_px=1)
                boxes = boxes[suppressed(boxes, scores, _FINAL_OVERLAP, by_smaller=True)]
        if not len(boxes):
            return None
        x0, y0, x1, y1 = max(boxes.tolist(), key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        return x0, y0, x1, y1

    def _proposed(self, picture: Shrinker, width: int, height: int) -> Boxes:
        """What P-Net finds on all levels, thinned out, moved and squared."""
        found: list[Boxes] = [np.zeros((0, 4))]
        all_scores: list[Floats] = [np.zeros(0, np.float32)]
        all_shifts: list[Floats] = [np.zeros((0, 4), np.float32)]
        for scale in _scales(width, height):
            level = picture.whole(int(width * scale + 1), int(height * scale + 1))[None]  # [1, 3, h, w]
            probability, offsets = self._nets["pnet"](_normalised(level))
            rows, columns = np.nonzero(probability[0] >= DETECTOR_THRESHOLDS[0])
            corner = np.stack([columns, rows], axis=1) * DETECTOR_STRIDE_PX  # [n, 2], x y
            boxes = np.concatenate(
                [np.floor((corner + 1) / scale), np.floor((corner + DETECTOR_CELL_PX) / scale)], axis=1
            )
            scores = probability[0, rows, columns]
            keep = suppressed(boxes, scores, _LEVEL_OVERLAP)
            found.append(boxes[keep])
            all_scores.append(scores[keep])
            all_shifts.append(offsets[0][:, rows, columns].T[keep])
        boxes, scores, shifts = np.concatenate(found), np.concatenate(all_scores), np.concatenate(all_shifts)
        keep = suppressed(boxes, scores, _FRAME_OVERLAP)
        return squared(moved(boxes[keep], shifts[keep], extra_px=0))


def _scales(width: int, height: int) -> Iterator[float]:
    """Sides of the pyramid's levels relative to the picture, finest first."""
    scale = DETECTOR_CELL_PX / DETECTOR_MIN_FACE_PX
    while min(width, height) * scale >= DETECTOR_CELL_PX:
        yield scale
        scale *= DETECTOR_PYRAMID_FACTOR


def _normalised(pictures: Floats) -> Floats:
    result: Floats = np.ascontiguousarray((pictures - np.float32(DETECTOR_MEAN)) * np.float32(DETECTOR_SCALE))
    return result


def crop(rgb: Rgb, box: Box) -> Rgb:
    """The face with its margin, area-averaged: uint8 [48, 48, 3]."""
    x0, y0, x1, y1 = face_region(box, rgb.shape[1], rgb.shape[0])
    return area_resize(rgb[y0:y1, x0:x1], FACE_SIZE_PX, FACE_SIZE_PX)
