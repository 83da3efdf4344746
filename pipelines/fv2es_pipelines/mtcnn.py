"""MTCNN on ONNX Runtime: the largest face of many pictures at once, coarse before fine, or every face at full size.

The cascade (Zhang et al. 2016) and its numbers are those of facenet-pytorch's MTCNN, which the original uses.
"""

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from fv2es_pipelines.area import Sums, area_resize, pooled, pooled_boxes, summed
from fv2es_pipelines.boxes import Boxes, moved, pixel_bounds, squared, suppressed
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
)
from fv2es_pipelines.errors import ModelFileMissing
from fv2es_pipelines.picture import Picture, Rgb

_LEVEL_OVERLAP, _FRAME_OVERLAP, _REFINED_OVERLAP, _FINAL_OVERLAP = 0.5, 0.7, 0.7, 0.7  # facenet-pytorch's detect_face
_MAX_CROPS = 256
_MAX_BATCH_PX = 2_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """A detected face."""

    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the full-size picture; may reach a little beyond its edges."""
    score: float
    """Probability that this is a face, by O-Net, in (0.7, 1]."""

    @property
    def area_px(self) -> float:
        """Area of the box."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorSettings:
    """What counts as a face, and how coarse the fast search begins."""

    min_face_px: int = DETECTOR_MIN_FACE_PX
    """Smallest face looked for, in pixels of the full-size picture."""
    thresholds: tuple[float, float, float] = DETECTOR_THRESHOLDS
    """Least probability after P-Net, R-Net and O-Net."""
    factor: float = DETECTOR_PYRAMID_FACTOR
    """Ratio of sides between two levels of the pyramid; in (0, 1)."""
    first_window: float = 0.2
    """The first search covers faces from this fraction of the picture's shorter side upwards."""
    settled: float = 1.5
    """A face ends the search once it is this many times as large as the smallest that was looked for: what is smaller by more can
    neither outgrow it nor move its box."""
    levels_per_search: int = 2
    """Levels of the pyramid that each further search adds."""
    copy_px: int = 1_000_000
    """Larger pictures are first made smaller by a whole divisor, to at most this many pixels. Up to here the fast search gives
    the box of the search at full size, but for rare cases."""
    window_px: int = 32
    """Least pixels across the smallest face of a search in such a copy: goes before `copy_px`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """One search for faces: levels of the pyramid, all made from one picture of a given size."""

    width_px: int
    height_px: int
    scales: tuple[float, ...]
    """Sides of the levels, relative to the full-size picture."""

    @property
    def smallest_px(self) -> float:
        """Side of the smallest face looked for, in pixels of the full-size picture."""
        return DETECTOR_CELL_PX / max(self.scales)

    @property
    def num_px(self) -> int:
        """Pixels of the picture that it is made on."""
        return self.width_px * self.height_px


def full_search(width_px: int, height_px: int, settings: DetectorSettings) -> Search:
    """The whole pyramid on the full-size picture, finest level first. No level where the picture is too small."""
    scale = DETECTOR_CELL_PX / settings.min_face_px
    scales = []
    while min(width_px, height_px) * scale >= DETECTOR_CELL_PX:
        scales.append(scale)
        scale *= settings.factor
    return Search(width_px=width_px, height_px=height_px, scales=tuple(scales))


def fast_searches(width_px: int, height_px: int, settings: DetectorSettings) -> tuple[Search, ...]:
    """The levels of `full_search` split into searches, large faces first, each on a picture as small as it allows."""
    scales = full_search(width_px, height_px, settings).scales[::-1]  # coarsest first
    first = sum(DETECTOR_CELL_PX / scale >= settings.first_window * min(width_px, height_px) for scale in scales)
    starts = [0, *range(max(first, 1), len(scales), settings.levels_per_search), len(scales)]
    searches = []
    for start, stop in itertools.pairwise(starts):
        if start == stop:
            continue
        by_area = math.ceil(math.sqrt(width_px * height_px / settings.copy_px))
        by_window = int(DETECTOR_CELL_PX / max(scales[start:stop]) / settings.window_px)
        divisor = max(1, min(by_area, by_window))
        width, height = (-(-side // divisor) for side in (width_px, height_px))
        searches.append(Search(width_px=width, height_px=height, scales=tuple(scales[start:stop])))
    return tuple(searches)


class ArrayPicture:
    """A `Picture` over an array: uint8 [H, W, 3], red first."""

    def __init__(self, rgb: Rgb) -> None:
        self._rgb = rgb
        self.height_px, self.width_px = rgb.shape[:2]

    def scaled(self, width_px: int, height_px: int) -> Rgb:
        """As `Picture.scaled`."""
        same = (height_px, width_px) == self._rgb.shape[:2]
        return self._rgb if same else area_resize(self._rgb, width_px, height_px)

    def region(self, x0: int, y0: int, x1: int, y1: int) -> Rgb:
        """As `Picture.region`."""
        return self._rgb[y0:y1, x0:x1]


class Detector:
    """The three nets and the cascade round them. One call at a time.

    The nets take `images` float32 [B, 3, H, W], red first, normalised as (x - 127.5) / 128, and give `probability` and
    `offsets` (edges' shifts as fractions of the box): [B, h, w] and [B, 4, h, w] for P-Net, [B] and [B, 4] for R-Net and O-Net.
    """

    def __init__(self, directory: Path, *, threads: int = 0, settings: DetectorSettings | None = None) -> None:
        """Load `pnet.onnx`, `rnet.onnx` and `onet.onnx`.

        Args:
            directory: where they lie.
            threads: threads of ONNX Runtime; 0: as many as this process may use.
            settings: None for the original's numbers.

        Raises:
            ModelFileMissing: one of them can't be read.
        """
        self.settings = settings or DetectorSettings()
        self._pnet, self._rnet, self._onet = (
            _session(directory / f"{name}.onnx", threads) for name in ("pnet", "rnet", "onet")
        )

    def largest_faces(self, pictures: Sequence[Picture], settings: DetectorSettings | None = None) -> list[Face | None]:
        """The largest face of each picture, None where there is none.

        Large faces are looked for first, on small copies of the pictures; smaller ones only where no large one was found.

        Args:
            pictures: of any sizes.
            settings: for these alone; None: the detector's own.
        """
        settings = settings or self.settings
        found: list[Face | None] = [None] * len(pictures)
        sizes: dict[tuple[int, int], list[int]] = {}
        for index, picture in enumerate(pictures):
            sizes.setdefault((picture.width_px, picture.height_px), []).append(index)
        for (width, height), indices in sizes.items():
            searches = fast_searches(width, height, settings)
            if not searches:  # smaller than the smallest face
                continue
            batch = max(1, _MAX_BATCH_PX // searches[0].num_px)
            for start in range(0, len(indices), batch):
                chunk = indices[start : start + batch]
                faces = self._largest([pictures[index] for index in chunk], searches, settings, [[] for _ in chunk])
                for index, face in zip(chunk, faces, strict=True):
                    found[index] = face
        return found

    def _largest(
        self,
        pictures: Sequence[Picture],
        searches: Sequence[Search],
        settings: DetectorSettings,
        proposals: list["_Proposals"],
    ) -> list[Face | None]:
        """As `largest_faces`, for pictures of one size and with what earlier searches proposed for each of them."""
        found: list[Face | None] = [None] * len(pictures)
        remaining = list(range(len(pictures)))
        tables: list[Sums] = []  # of the remaining pictures, at the size of the last search
        width, height = pictures[0].width_px, pictures[0].height_px
        for number, search in enumerate(searches):
            if not tables or tables[0].shape[1:] != (search.height_px + 1, search.width_px + 1):
                tables = []
                batch = max(1, _MAX_BATCH_PX // search.num_px)
                if len(remaining) > batch:  # copies are larger now: fewer of them at once
                    for start in range(0, len(remaining), batch):
                        part = remaining[start : start + batch]
                        own_proposals = proposals[start : start + batch]
                        faces = self._largest([pictures[at] for at in part], searches[number:], settings, own_proposals)
                        for index, face in zip(part, faces, strict=True):
                            found[index] = face
                    break
                tables = [summed(pictures[index].scaled(search.width_px, search.height_px)) for index in remaining]
            for index, own in zip(remaining, self._search(tables, proposals, search, width, height), strict=True):
                found[index] = max(own, key=lambda face: face.area_px, default=None)
            least_px = settings.settled * search.smallest_px
            open_ones = [
                position for position, index in enumerate(remaining) if not _is_settled(found[index], least_px)
            ]
            tables = [tables[position] for position in open_ones]
            proposals = [proposals[position] for position in open_ones]
            remaining = [remaining[position] for position in open_ones]
            if not remaining:
                break
        return found

    def all_faces(self, picture: Picture) -> list[Face]:
        """Every face of a picture by the plain cascade at full size, largest first: the reference for `largest_faces`."""
        search = full_search(picture.width_px, picture.height_px, self.settings)
        table = summed(picture.scaled(search.width_px, search.height_px))
        faces = self._search([table], [[]], search, picture.width_px, picture.height_px)[0]
        return sorted(faces, key=lambda face: -face.area_px)

    def _search(
        self, tables: Sequence[Sums], proposals: Sequence["_Proposals"], search: Search, width: int, height: int
    ) -> list[list[Face]]:
        """Faces of each picture, whose copies at the search's size are given as summed areas; adds to `proposals`."""
        self._propose(tables, proposals, search, width, height)
        candidates = _merged(proposals)
        candidates = self._refined(tables, candidates, width, height)
        faces: list[list[Face]] = [[] for _ in tables]
        for frame, boxes, scores in self._output(tables, candidates, width, height):
            faces[frame] = [
                Face(box=(float(x0), float(y0), float(x1), float(y1)), score=float(score))
                for (x0, y0, x1, y1), score in zip(boxes, scores, strict=True)
            ]
        return faces

    def _propose(
        self, tables: Sequence[Sums], proposals: Sequence["_Proposals"], search: Search, width: int, height: int
    ) -> None:
        """Add what P-Net finds on every level of every picture."""
        for scale in search.scales:
            size = int(width * scale + 1), int(height * scale + 1)
            level = np.stack([pooled(table, *size) for table in tables])  # [F, 3, h, w]
            probability, offsets = self._pnet.run(["probability", "offsets"], {"images": _normalised(level)})
            for frame, found in enumerate(probability >= self.settings.thresholds[0]):  # found [h', w']
                rows, columns = np.nonzero(found)
                if not len(rows):
                    continue
                corner = np.stack([columns, rows], axis=1) * DETECTOR_STRIDE_PX  # [n, 2] x y
                low = np.floor((corner + 1) / scale)
                high = np.floor((corner + DETECTOR_CELL_PX) / scale)
                boxes = np.concatenate([low, high], axis=1)  # [n, 4]
                scores = probability[frame, rows, columns]
                keep = suppressed(boxes, scores, _LEVEL_OVERLAP)
                shifts = offsets[frame][:, rows, columns].T  # [n, 4]
                proposals[frame].append(_Level(boxes=boxes[keep], scores=scores[keep], shifts=shifts[keep]))

    def _refined(self, tables: Sequence[Sums], candidates: "_Candidates", width: int, height: int) -> "_Candidates":
        """R-Net on all candidates of all pictures; its boxes, squared."""
        frames, kept = [], []
        for frame, boxes, scores, shifts in self._judged(
            self._rnet, DETECTOR_REFINE_PX, self.settings.thresholds[1], tables, candidates, width, height
        ):
            keep = suppressed(boxes, scores, _REFINED_OVERLAP)
            kept.append(squared(moved(boxes[keep], shifts[keep], extra_px=1)))
            frames.append(np.full(len(keep), frame))
        return _Candidates.joined(frames, kept)

    def _output(
        self, tables: Sequence[Sums], candidates: "_Candidates", width: int, height: int
    ) -> list[tuple[int, Boxes, npt.NDArray[np.float32]]]:
        """O-Net on all candidates of all pictures: per picture with faces its number, boxes and scores."""
        faces = []
        for frame, boxes, scores, shifts in self._judged(
            self._onet, DETECTOR_OUTPUT_PX, self.settings.thresholds[2], tables, candidates, width, height
        ):
            final = moved(boxes, shifts, extra_px=1)
            keep = suppressed(final, scores, _FINAL_OVERLAP, by_smaller=True)
            faces.append((frame, final[keep], scores[keep]))
        return faces

    def _judged(
        self,
        net: onnxruntime.InferenceSession,
        side_px: int,
        threshold: float,
        tables: Sequence[Sums],
        candidates: "_Candidates",
        width: int,
        height: int,
    ) -> list[tuple[int, Boxes, npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Per picture with candidates above the threshold: its number, their boxes, scores and offsets."""
        candidates = candidates.inside(width, height)
        if not len(candidates.frames):
            return []
        crops = np.concatenate(
            [
                pooled_boxes(table, _on_copy(candidates.bounds(frame, width, height), table, width, height), side_px)
                for frame, table in enumerate(tables)
            ],
            axis=1,
        ).swapaxes(0, 1)  # [n, 3, side, side], pictures in order as in `candidates`
        results = [
            net.run(["probability", "offsets"], {"images": _normalised(crops[start : start + _MAX_CROPS])})
            for start in range(0, len(crops), _MAX_CROPS)
        ]
        scores, shifts = (np.concatenate(parts) for parts in zip(*results, strict=True))  # [n], [n, 4]
        passed = scores > threshold
        return [
            (frame, candidates.boxes[rows], scores[rows], shifts[rows])
            for frame in range(len(tables))
            if len(rows := np.flatnonzero(passed & (candidates.frames == frame)))
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Level:
    """What P-Net proposes on one level of one picture. Coordinates are those of the full-size picture."""

    boxes: Boxes
    scores: npt.NDArray[np.float32]
    shifts: npt.NDArray[np.float32]


_Proposals = list[_Level]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidates:
    """Boxes that may be faces, pictures in order. Coordinates are those of the full-size picture."""

    frames: npt.NDArray[np.int64]
    """Which picture each belongs to; [n], ascending."""
    boxes: Boxes
    """[n, 4]."""

    @classmethod
    def joined(cls, frames: Sequence[npt.NDArray[np.int64]], boxes: Sequence[Boxes]) -> "_Candidates":
        if not frames:
            return cls(frames=np.zeros(0, np.int64), boxes=np.zeros((0, 4)))
        return cls(frames=np.concatenate(frames), boxes=np.concatenate(boxes))

    def inside(self, width: int, height: int) -> "_Candidates":
        bounds = pixel_bounds(self.boxes, width, height)
        keep = (bounds[:, 2:] > bounds[:, :2]).all(axis=1)
        return _Candidates(frames=self.frames[keep], boxes=self.boxes[keep])

    def bounds(self, frame: int, width: int, height: int) -> npt.NDArray[np.int64]:
        return pixel_bounds(self.boxes[self.frames == frame], width, height)


def _merged(proposals: Sequence[_Proposals]) -> _Candidates:
    """The proposals of all levels of each picture, thinned out, moved and squared."""
    frames, kept = [], []
    for frame, levels in enumerate(proposals):
        if levels:
            boxes = np.concatenate([level.boxes for level in levels])
            keep = suppressed(boxes, np.concatenate([level.scores for level in levels]), _FRAME_OVERLAP)
            shifts = np.concatenate([level.shifts for level in levels])
            kept.append(squared(moved(boxes[keep], shifts[keep], extra_px=0)))
            frames.append(np.full(len(keep), frame))
    return _Candidates.joined(frames, kept)


def _is_settled(face: Face | None, least_px: float) -> bool:
    return face is not None and face.area_px >= least_px**2


def _on_copy(bounds: npt.NDArray[np.int64], table: Sums, width: int, height: int) -> npt.NDArray[np.int64]:
    """Bounds in pixels of the full-size picture, moved to its copy and never empty."""
    copy_height, copy_width = table.shape[1] - 1, table.shape[2] - 1
    if (copy_width, copy_height) == (width, height):
        return bounds
    scale = np.array([copy_width / width, copy_height / height])
    low = np.minimum(np.rint(bounds[:, :2] * scale), (copy_width - 1, copy_height - 1))
    high = np.maximum(np.rint(bounds[:, 2:] * scale), low + 1)
    moved_bounds: npt.NDArray[np.int64] = np.concatenate([low, high], axis=1).astype(np.int64)
    return moved_bounds


def _normalised(pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[B, 3, H, W] on the scale 0..255 -> about -1..1, contiguous."""
    scaled = np.subtract(pictures, np.float32(DETECTOR_MEAN), order="C")
    scaled *= np.float32(DETECTOR_SCALE)
    return scaled


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise ModelFileMissing(str(path), remedy="build the detector's nets first: fv2es build")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # levels have many shapes, and a plan of memory would be kept for each
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
