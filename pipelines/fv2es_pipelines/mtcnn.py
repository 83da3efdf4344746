"""MTCNN on ONNX Runtime: the largest face of many pictures at once, coarse before fine, or every face at full size.

The cascade (Zhang et al. 2016) and its numbers are those of facenet-pytorch's MTCNN, which the original uses.
"""

import itertools
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from fv2es_pipelines.area import Scratch, Sums, area_resize, cells, num_sums, pooled_boxes, pooled_cells, summed
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
_MARGIN_CELLS = 4  # windows that are missing at the end of a level, beside those of its last two pixels: see `Detector`
_MAX_CROPS_PX = 36_864
"""Most pixels of the crops that R-Net or O-Net takes at once, 64 and 16 crops; O-Net's first layer and its activation make 540 kB of each."""
_MAX_TABLE_PX = 9_000_000
"""Largest picture of which all sums are held, 12 bytes a pixel: 4K. Those of larger ones are made again for each band, eight times
as slowly."""
_MAX_TABLES_PX = 2_100_000
"""Most pixels of pictures whose sums are held at once, where there are several: one of 1080p, nine of 360p."""
_MAX_LEVEL_PX = 100_000
"""Most pixels that P-Net takes at once; it needs about 200 bytes for each."""
_MIN_BAND_BOXES = 8
"""From so many boxes in a band of a large picture on, the sums of the band cost less than those of each box."""


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
    copy_px: int = 9_000_000
    """Larger pictures are first made smaller by a whole divisor, to at most this many pixels. Up to here, 4K, the fast search sees
    the pixels of the search at full size, and gives its box."""
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
    def size_px(self) -> tuple[int, int]:
        """Width and height of that picture."""
        return self.width_px, self.height_px

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
        self._memory = np.empty(0, np.uint32)  # for sums, kept from call to call
        self._scratch = Scratch()
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
            own = [pictures[index] for index in indices]
            searches = fast_searches(width, height, settings)
            for index, face in zip(indices, self._largest(own, [[] for _ in own], searches, settings), strict=True):
                found[index] = face
        return found

    def _largest(
        self,
        pictures: Sequence[Picture],
        proposals: Sequence["_Proposals"],
        searches: Sequence[Search],
        settings: DetectorSettings,
    ) -> list[Face | None]:
        """As `largest_faces`, for pictures of one size, of which earlier searches have made `proposals`."""
        found: list[Face | None] = [None] * len(pictures)
        remaining = list(range(len(pictures)))
        copies: list[_Copy] = []  # of the remaining pictures, at the size of the last search
        for number, search in enumerate(searches):
            most = max(1, _MAX_TABLES_PX // search.num_px)
            if len(remaining) > most:  # go on with a few at a time
                for start in range(0, len(remaining), most):
                    few = remaining[start : start + most]
                    faces = self._largest(
                        [pictures[index] for index in few],
                        [proposals[index] for index in few],
                        searches[number:],
                        settings,
                    )
                    for index, face in zip(few, faces, strict=True):
                        found[index] = face
                return found
            if not copies or copies[0].size_px != search.size_px:
                copies = self._copies([pictures[index] for index in remaining], search)
            faces_of = self._search(copies, [proposals[index] for index in remaining], search, pictures[0], settings)
            for index, own in zip(remaining, faces_of, strict=True):
                found[index] = max(own, key=lambda face: face.area_px, default=None)
            least_px = settings.settled * search.smallest_px
            still = [place for place, index in enumerate(remaining) if not _is_settled(found[index], least_px)]
            copies = [copies[place] for place in still]
            remaining = [remaining[place] for place in still]
            if not remaining:
                break
        return found

    def all_faces(self, picture: Picture) -> list[Face]:
        """Every face of a picture by the plain cascade at full size, largest first: the reference for `largest_faces`."""
        search = full_search(picture.width_px, picture.height_px, self.settings)
        faces = self._search(self._copies([picture], search), [[]], search, picture, self.settings)[0]
        return sorted(faces, key=lambda face: -face.area_px)

    def _copies(self, pictures: Sequence[Picture], search: Search) -> "list[_Copy]":
        """The pictures at the size of a search. Copies that were made before are no longer valid."""
        if search.num_px > _MAX_TABLE_PX:
            memory = self._sums(4 * _MAX_TABLES_PX)
            return [_LargeCopy(picture, search, memory, self._scratch) for picture in pictures]
        size = num_sums(*search.size_px)
        memory = self._sums(size * len(pictures))
        return [
            _SummedCopy(summed(picture.scaled(*search.size_px), memory[number * size :]), self._scratch)
            for number, picture in enumerate(pictures)
        ]

    def _sums(self, count: int) -> Sums:
        """Memory for so many sums, the same from call to call."""
        if len(self._memory) < count:
            self._memory = np.empty(count, np.uint32)
        return self._memory

    def _search(
        self,
        copies: "Sequence[_Copy]",
        proposals: Sequence["_Proposals"],
        search: Search,
        picture: Picture,
        settings: DetectorSettings,
    ) -> list[list[Face]]:
        """Faces of each picture of the size of `picture`, given as copies of the search's size; adds to `proposals`."""
        width, height = picture.width_px, picture.height_px
        likely, refined, certain = settings.thresholds
        for scale in search.scales:
            self._propose(copies, proposals, scale, int(width * scale + 1), int(height * scale + 1), likely)
        candidates = self._refined(copies, _merged(proposals), width, height, refined)
        faces: list[list[Face]] = [[] for _ in copies]
        for frame, boxes, scores in self._output(copies, candidates, width, height, certain):
            faces[frame] = [
                Face(box=(float(x0), float(y0), float(x1), float(y1)), score=float(score))
                for (x0, y0, x1, y1), score in zip(boxes, scores, strict=True)
            ]
        return faces

    def _propose(
        self,
        copies: "Sequence[_Copy]",
        proposals: Sequence["_Proposals"],
        scale: float,
        width: int,
        height: int,
        threshold: float,
    ) -> None:
        """Add what P-Net finds on one level of every picture. Large levels go through it in bands, which changes nothing."""
        num_rows = -(-(height - 2) // DETECTOR_STRIDE_PX) - _MARGIN_CELLS  # of windows
        reach = DETECTOR_CELL_PX - DETECTOR_STRIDE_PX  # by which a window goes beyond its stride
        most_rows = min(_MAX_LEVEL_PX // width, *(copy.max_rows(height) for copy in copies))
        step = num_rows if most_rows >= height else max(reach, (most_rows - reach) // DETECTOR_STRIDE_PX)
        together = max(1, _MAX_LEVEL_PX // (width * height))  # pictures
        hits: list[list[_Hits]] = [[] for _ in copies]
        for first, start in itertools.product(range(0, num_rows, step), range(0, len(copies), together)):
            last, few = min(first + step, num_rows), copies[start : start + together]
            rows = slice(first * DETECTOR_STRIDE_PX, height if last == num_rows else last * DETECTOR_STRIDE_PX + reach)
            level = self._scratch.floats("level", len(few), 3, rows.stop - rows.start, width)
            for copy, into in zip(few, level, strict=True):
                copy.level(width, height, rows, into)
            level -= np.float32(DETECTOR_MEAN)
            level *= np.float32(DETECTOR_SCALE)
            probability, offsets = self._pnet.run(["probability", "offsets"], {"images": level})
            for frame, found in enumerate(probability >= threshold):  # found [h', w']
                row, column = np.nonzero(found)
                if len(row):
                    hits[start + frame].append(
                        _Hits(
                            corners=np.stack([column, row + first], axis=1) * DETECTOR_STRIDE_PX,
                            scores=probability[frame, row, column],
                            shifts=offsets[frame][:, row, column].T,
                        )
                    )
        for own, all_levels in zip(hits, proposals, strict=True):
            if own:
                all_levels.append(_level(own, scale))

    def _refined(
        self, copies: "Sequence[_Copy]", candidates: "_Candidates", width: int, height: int, threshold: float
    ) -> "_Candidates":
        """R-Net on all candidates of all pictures; its boxes, squared."""
        frames, kept = [], []
        for frame, boxes, scores, shifts in self._judged(
            self._rnet, DETECTOR_REFINE_PX, threshold, copies, candidates, width, height
        ):
            keep = suppressed(boxes, scores, _REFINED_OVERLAP)
            kept.append(squared(moved(boxes[keep], shifts[keep], extra_px=1)))
            frames.append(np.full(len(keep), frame))
        return _Candidates.joined(frames, kept)

    def _output(
        self, copies: "Sequence[_Copy]", candidates: "_Candidates", width: int, height: int, threshold: float
    ) -> list[tuple[int, Boxes, npt.NDArray[np.float32]]]:
        """O-Net on all candidates of all pictures: per picture with faces its number, boxes and scores."""
        faces = []
        for frame, boxes, scores, shifts in self._judged(
            self._onet, DETECTOR_OUTPUT_PX, threshold, copies, candidates, width, height
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
        copies: "Sequence[_Copy]",
        candidates: "_Candidates",
        width: int,
        height: int,
    ) -> list[tuple[int, Boxes, npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """Per picture with candidates above the threshold: its number, their boxes, scores and offsets."""
        candidates = candidates.inside(width, height)
        if not len(candidates.frames):
            return []
        bounds = [
            _on_copy(candidates.bounds(frame, width, height), copy.size_px, width, height)
            for frame, copy in enumerate(copies)
        ]
        new = [copy.unjudged(own, side_px) for copy, own in zip(copies, bounds, strict=True)]
        crops = np.concatenate(
            [copy.squares(own, side_px) for copy, own in zip(copies, new, strict=True)], axis=1
        ).swapaxes(0, 1)  # [n, 3, side, side], pictures in order as in `candidates`
        together = _MAX_CROPS_PX // side_px**2
        results = [
            net.run(["probability", "offsets"], {"images": _normalised(crops[start : start + together])})
            for start in range(0, len(crops), together)
        ]
        if results:
            verdicts = np.concatenate([np.concatenate([scores[:, None], shifts], axis=1) for scores, shifts in results])
            stops = np.cumsum([len(own) for own in new])
            for copy, own, part in zip(copies, new, np.split(verdicts, stops[:-1]), strict=True):
                copy.remember(own, side_px, part)
        known = np.concatenate([copy.recalled(own, side_px) for copy, own in zip(copies, bounds, strict=True)])
        scores, shifts = known[:, 0], known[:, 1:]  # [n], [n, 4]
        passed = scores > threshold
        return [
            (frame, candidates.boxes[rows], scores[rows], shifts[rows])
            for frame in range(len(copies))
            if len(rows := np.flatnonzero(passed & (candidates.frames == frame)))
        ]


class _Copy(ABC):
    """A picture at the size of a search, and what R-Net and O-Net said of its parts: later searches ask about the same ones."""

    def __init__(self, size_px: tuple[int, int]) -> None:
        self.size_px = size_px
        self._verdicts: dict[tuple[int, ...], npt.NDArray[np.float32]] = {}

    @abstractmethod
    def max_rows(self, height_px: int) -> int:
        """Most rows of a level of that height that should be asked for at once."""

    @abstractmethod
    def level(self, width_px: int, height_px: int, rows: slice, out: npt.NDArray[np.float32]) -> None:
        """Some rows of the copy pooled to a size, into float32 [3, rows, width_px]."""

    @abstractmethod
    def squares(self, boxes: npt.NDArray[np.int64], side_px: int) -> npt.NDArray[np.float32]:
        """As `pooled_boxes`."""

    def unjudged(self, boxes: npt.NDArray[np.int64], side_px: int) -> npt.NDArray[np.int64]:
        """Those of the boxes [n, 4] of which the net of that side has said nothing yet, each once."""
        new = dict.fromkeys(key for key in _keys(boxes, side_px) if key not in self._verdicts)
        return np.array([key[:4] for key in new], np.int64).reshape(-1, 4)

    def remember(self, boxes: npt.NDArray[np.int64], side_px: int, verdicts: npt.NDArray[np.float32]) -> None:
        """Keep a net's probability and offsets [n, 5] for boxes [n, 4]."""
        self._verdicts.update(zip(_keys(boxes, side_px), verdicts, strict=True))

    def recalled(self, boxes: npt.NDArray[np.int64], side_px: int) -> npt.NDArray[np.float32]:
        """What was remembered of boxes [n, 4]: [n, 5]."""
        found = [self._verdicts[key] for key in _keys(boxes, side_px)]
        return np.array(found, np.float32).reshape(-1, 5)


def _keys(boxes: npt.NDArray[np.int64], side_px: int) -> list[tuple[int, ...]]:
    return [(*box, side_px) for box in boxes.tolist()]


class _SummedCopy(_Copy):
    """A small copy: the sums of all its pixels."""

    def __init__(self, table: Sums, scratch: Scratch) -> None:
        super().__init__((table.shape[2] - 1, table.shape[0] - 1))
        self._table, self._scratch = table, scratch

    def max_rows(self, height_px: int) -> int:
        return height_px

    def level(self, width_px: int, height_px: int, rows: slice, out: npt.NDArray[np.float32]) -> None:
        top, bottom = cells(self.size_px[1], height_px)
        columns = cells(self.size_px[0], width_px)
        pooled_cells(self._table, rows=(top[rows], bottom[rows]), columns=columns, out=out, scratch=self._scratch)

    def squares(self, boxes: npt.NDArray[np.int64], side_px: int) -> npt.NDArray[np.float32]:
        return pooled_boxes(self._table, boxes, side_px, self._scratch)


class _LargeCopy(_Copy):
    """A copy whose sums would fill too much memory: they are made for the part that is asked for, each time anew."""

    def __init__(self, picture: Picture, search: Search, memory: Sums, scratch: Scratch) -> None:
        super().__init__(search.size_px)
        self._memory, self._scratch = memory, scratch
        whole = (picture.width_px, picture.height_px) == self.size_px
        self._picture = picture if whole else ArrayPicture(picture.scaled(*self.size_px))
        self._band_px = max(1, _MAX_TABLES_PX // 2 // self.size_px[0])  # rows whose sums fit well into the memory

    def max_rows(self, height_px: int) -> int:
        return self._band_px * height_px // self.size_px[1]

    def level(self, width_px: int, height_px: int, rows: slice, out: npt.NDArray[np.float32]) -> None:
        width, height = self.size_px
        top, bottom = (edge[rows] for edge in cells(height, height_px))
        first = int(top[0])
        table = self._summed(0, first, width, int(bottom[-1]))
        columns = cells(width, width_px)
        pooled_cells(table, rows=(top - first, bottom - first), columns=columns, out=out, scratch=self._scratch)

    def squares(self, boxes: npt.NDArray[np.int64], side_px: int) -> npt.NDArray[np.float32]:
        result = np.empty((3, len(boxes), side_px, side_px), np.float32)
        for band in self._bands(boxes):
            left, top = boxes[band, :2].min(axis=0).tolist()
            right, bottom = boxes[band, 2:].max(axis=0).tolist()
            table = self._summed(left, top, right, bottom)
            result[:, band] = pooled_boxes(table, boxes[band] - (left, top, left, top), side_px, self._scratch)
        return result

    def _bands(self, boxes: npt.NDArray[np.int64]) -> Iterator[list[int]]:
        """Positions of the boxes, together where many of them lie in a band whose sums fit into the memory."""
        waiting = np.argsort(boxes[:, 1], kind="stable").tolist()
        while waiting:
            end = boxes[waiting[0], 1] + self._band_px
            band = [position for position in waiting if boxes[position, 3] <= end]
            if len(band) < _MIN_BAND_BOXES:
                band = waiting[:1]
            yield band
            taken = set(band)
            waiting = [position for position in waiting if position not in taken]

    def _summed(self, x0: int, y0: int, x1: int, y1: int) -> Sums:
        region = self._picture.region(x0, y0, x1, y1)
        return summed(region, self._memory if num_sums(x1 - x0, y1 - y0) <= len(self._memory) else None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Hits:
    """Windows of P-Net that may hold a face, on a band of a level."""

    corners: npt.NDArray[np.int64]
    """[n, 2], x y in pixels of the level."""
    scores: npt.NDArray[np.float32]
    shifts: npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Level:
    """What P-Net proposes on one level of one picture. Coordinates are those of the full-size picture."""

    boxes: Boxes
    scores: npt.NDArray[np.float32]
    shifts: npt.NDArray[np.float32]


_Proposals = list[_Level]


def _level(bands: Sequence[_Hits], scale: float) -> _Level:
    """What is left of a level's hits when those that overlap better ones are gone."""
    corners = np.concatenate([band.corners for band in bands])
    scores = np.concatenate([band.scores for band in bands])
    low = np.floor((corners + 1) / scale)
    high = np.floor((corners + DETECTOR_CELL_PX) / scale)
    boxes = np.concatenate([low, high], axis=1)  # [n, 4]
    keep = suppressed(boxes, scores, _LEVEL_OVERLAP)
    shifts = np.concatenate([band.shifts for band in bands])
    return _Level(boxes=boxes[keep], scores=scores[keep], shifts=shifts[keep])


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


def _on_copy(bounds: npt.NDArray[np.int64], size_px: tuple[int, int], width: int, height: int) -> npt.NDArray[np.int64]:
    """Bounds in pixels of the full-size picture, moved to its copy and never empty."""
    if size_px == (width, height):
        return bounds
    scale = np.array(size_px) / (width, height)
    low = np.minimum(np.rint(bounds[:, :2] * scale), np.array(size_px) - 1)
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
    options.enable_cpu_mem_arena = False  # would keep 80 MB of them between requests, where `trim_heap` can't reach it
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
