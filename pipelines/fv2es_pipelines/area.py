"""Area averaging, exact: the true box filter for face pictures, and pooling over whole pixels for the detector."""

import itertools
import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Sums = npt.NDArray[np.uint32]
Cells = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]

_BLOCK_NUMBERS = 2**18
"""So many sums are worked on at once, 1 MB: they stay in a processor's cache from step to step."""
_BLOCK_BOXES = 32
_BAND_ROWS = 2
"""Rows of the result of `area_resize` that are made at once: more of them multiply more by zero, and BLAS would start threads for them."""


class Scratch:
    """Memory that is wanted for a moment, kept from call to call: new pages take several times as long as what is done in them. One user at a time."""

    def __init__(self) -> None:
        self._held: dict[str, Sums] = {}

    def sums(self, name: str, *shape: int) -> Sums:
        """An array of that shape, valid until the same name is asked for again; its numbers are anything."""
        size = math.prod(shape)
        if name not in self._held or len(self._held[name]) < size:
            self._held[name] = np.empty(size, np.uint32)
        return self._held[name][:size].reshape(shape)

    def floats(self, name: str, *shape: int) -> npt.NDArray[np.float32]:
        """As `sums`, float32."""
        return self.sums(name, *shape).view(np.float32)


@lru_cache(maxsize=256)
def _weights(source_px: int, target_px: int) -> npt.NDArray[np.float32]:
    """Share of each source pixel in each target pixel along one axis; float32 [target_px, source_px], rows sum to 1."""
    edges = np.arange(target_px + 1, dtype=np.float64) * source_px / target_px
    pixels = np.arange(source_px, dtype=np.float64)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)  # [target, source]
    shares: npt.NDArray[np.float32] = (np.maximum(overlap, 0) * target_px / source_px).astype(np.float32)
    return shares


def area_resize(picture: npt.NDArray[np.uint8], width_px: int, height_px: int) -> npt.NDArray[np.uint8]:
    """The picture averaged over boxes of equal, generally fractional size, rounded to the nearest value.

    Args:
        picture: uint8 [H, W, 3].
        width_px: width of the result; may exceed W.
        height_px: height of the result; may exceed H.

    Returns:
        uint8 [height_px, width_px, 3].
    """
    height, width, channels = picture.shape
    flat, shares = picture.reshape(height, width * channels), _weights(height, height_px)
    rows = np.empty((height_px, width * channels), np.float32)
    for first in range(0, height_px, _BAND_ROWS):  # a band of the result needs a band of the picture alone
        last = min(first + _BAND_ROWS, height_px)
        top, bottom = first * height // height_px, -(-last * height // height_px)
        np.matmul(shares[first:last, top:bottom], flat[top:bottom].astype(np.float32), out=rows[first:last])
    columns = _weights(width, width_px) @ rows.reshape(height_px, width, channels)  # [height_px, width_px, 3]
    return np.clip(np.rint(columns), 0, 255).astype(np.uint8)


def num_sums(width_px: int, height_px: int) -> int:
    """Numbers in the summed-area table of a picture."""
    return 3 * (height_px + 1) * (width_px + 1)


def summed(picture: npt.NDArray[np.uint8], memory: Sums | None = None) -> Sums:
    """Summed-area table of a picture [H, W, 3]: uint32 [H + 1, 3, W + 1]. Sums may wrap; their differences do not.

    Args:
        picture: uint8 [H, W, 3].
        memory: uint32 [>= num_sums(W, H)] to make the table in, as new pages cost about as much time as the sums; None: new memory.
    """
    height, width, _ = picture.shape
    size = num_sums(width, height)
    flat = np.empty(size, np.uint32) if memory is None else memory[:size]
    table = flat.reshape(height + 1, 3, width + 1)
    lines = list(flat.reshape(height + 1, -1))
    table[0] = 0
    at_once = max(1, _BLOCK_NUMBERS // len(lines[0]))
    for first in range(0, height, at_once):
        rows = table[first + 1 : first + 1 + at_once]
        rows[:, :, 0] = 0
        rows[:, :, 1:] = picture[first : first + at_once].transpose(0, 2, 1)
        np.cumsum(rows, axis=2, out=rows)
        # Whole rows at once: faster than a cumulative sum down the columns.
        for above, row in itertools.pairwise(lines[first : first + 1 + at_once]):
            np.add(row, above, out=row)
    return table


def pooled(table: Sums, width_px: int, height_px: int) -> npt.NDArray[np.float32]:
    """The whole picture pooled to a size, cell i over pixels floor(i n / m) to ceil((i + 1) n / m): float32 [3, h, w].

    This is the `area` mode of torch's `interpolate`, which facenet-pytorch's detector resizes with.
    """
    height, width = table.shape[0] - 1, table.shape[2] - 1
    return pooled_cells(table, rows=cells(height, height_px), columns=cells(width, width_px))


def pooled_cells(
    table: Sums,
    *,
    rows: Cells,
    columns: Cells,
    out: npt.NDArray[np.float32] | None = None,
    scratch: Scratch | None = None,
) -> npt.NDArray[np.float32]:
    """Means over a grid of cells, float32 [3, h, w]; the cells are given in pixels of the table's picture.

    Args:
        table: `summed` of the picture.
        rows: [h] each.
        columns: [w] each.
        out: float32 [3, h, w] to write them to; None: new memory.
        scratch: None: new memory.
    """
    (top, bottom), (left, right) = rows, columns
    scratch = scratch or Scratch()
    height, width = len(top), len(left)
    means = np.empty((3, height, width), np.float32) if out is None else out
    counts = ((bottom - top)[:, None] * (right - left)).astype(np.float32)  # [h, w]
    line_length = table.shape[1] * table.shape[2]
    lines = table.reshape(-1, line_length)
    at_once = max(1, _BLOCK_NUMBERS // line_length)
    for first in range(0, height, at_once):
        block = slice(first, min(first + at_once, height))
        num_rows = block.stop - first
        band = scratch.sums("band", num_rows, line_length)
        for into, low, high in zip(band, top[block].tolist(), bottom[block].tolist(), strict=True):
            np.subtract(lines[high], lines[low], out=into)
        band = band.reshape(num_rows, *table.shape[1:])
        sums, before = (scratch.sums(name, num_rows, 3, width) for name in ("sums", "before"))
        np.take(band, right, axis=2, out=sums, mode="clip")
        sums -= np.take(band, left, axis=2, out=before, mode="clip")
        _divide(sums.transpose(1, 0, 2), counts[block], means[:, block])
    return means


def pooled_boxes(
    table: Sums, boxes: npt.NDArray[np.int64], side_px: int, scratch: Scratch | None = None
) -> npt.NDArray[np.float32]:
    """Regions of a picture, each pooled to a square as in `pooled`.

    Args:
        table: `summed` of the picture.
        boxes: int64 [n, 4], x0 y0 x1 y1 in pixels, inside the picture and not empty.
        side_px: side of the squares.
        scratch: None: new memory.

    Returns:
        float32 [3, n, side_px, side_px].
    """
    scratch = scratch or Scratch()
    _, channels, row_length = table.shape
    flat = table.reshape(-1)
    means = np.empty((channels, len(boxes), side_px, side_px), np.float32)
    for start in range(0, len(boxes), _BLOCK_BOXES):
        few = boxes[start : start + _BLOCK_BOXES]
        left, right = _box_cells(few[:, 0], few[:, 2], side_px)  # [n, side]
        top, bottom = _box_cells(few[:, 1], few[:, 3], side_px)
        counts = ((bottom - top)[:, :, None] * (right - left)[:, None, :]).astype(np.float32)
        upper, lower = (edge[:, :, None] * (channels * row_length) for edge in (top, bottom))  # [n, side, 1]
        left_edge, right_edge = left[:, None, :], right[:, None, :]  # [n, 1, side]
        corners = (lower + right_edge, upper + right_edge, lower + left_edge, upper + left_edge)
        sums, other = (scratch.sums(name, *counts.shape) for name in ("sums", "before"))
        for channel, into in enumerate(means[:, start : start + _BLOCK_BOXES]):
            own = flat[channel * row_length :]
            np.take(own, corners[0], out=sums, mode="clip")
            sums -= np.take(own, corners[1], out=other, mode="clip")
            sums -= np.take(own, corners[2], out=other, mode="clip")
            sums += np.take(own, corners[3], out=other, mode="clip")
            _divide(sums, counts, into)
    return means


def _divide(sums: Sums, counts: npt.NDArray[np.float32], means: npt.NDArray[np.float32]) -> None:
    np.copyto(means, sums, casting="unsafe")
    means /= counts


def cells(source_px: int, target_px: int) -> Cells:
    """First pixel, and first pixel after, of each cell of `pooled` along one axis; int64 [target_px] each."""
    index = np.arange(target_px, dtype=np.int64)
    return index * source_px // target_px, -(-(index + 1) * source_px // target_px)


def _box_cells(
    start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], side_px: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    index = np.arange(side_px, dtype=np.int64)
    length = (stop - start)[:, None]  # [n, 1]
    return start[:, None] + index * length // side_px, start[:, None] - (-(index + 1) * length // side_px)
