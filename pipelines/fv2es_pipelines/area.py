"""Area averaging, exact: the true box filter for face pictures, and pooling over whole pixels for the detector."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Sums = npt.NDArray[np.uint32]


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
    rows = _weights(height, height_px) @ picture.reshape(height, width * channels).astype(np.float32)
    columns = _weights(width, width_px) @ rows.reshape(height_px, width, channels)  # [height_px, width_px, 3]
    return np.clip(np.rint(columns), 0, 255).astype(np.uint8)


def summed(picture: npt.NDArray[np.uint8]) -> Sums:
    """Summed-area table of a picture [H, W, 3]: uint32 [3, H + 1, W + 1]. Sums may wrap; their differences do not."""
    height, width, channels = picture.shape
    table = np.zeros((channels, height + 1, width + 1), np.uint32)
    np.cumsum(picture.transpose(2, 0, 1), axis=2, dtype=np.uint32, out=table[:, 1:, 1:])
    for row in range(2, height + 1):  # whole rows at once: faster than a cumulative sum down the columns
        table[:, row] += table[:, row - 1]
    return table


def pooled(table: Sums, width_px: int, height_px: int) -> npt.NDArray[np.float32]:
    """The whole picture pooled to a size, cell i over pixels floor(i n / m) to ceil((i + 1) n / m): float32 [3, h, w].

    This is the `area` mode of torch's `interpolate`, which facenet-pytorch's detector resizes with.
    """
    height, width = table.shape[1] - 1, table.shape[2] - 1
    (top, bottom), (left, right) = _cells(height, height_px), _cells(width, width_px)
    bands = np.take(table, bottom, axis=1)  # [3, h, W + 1]
    bands -= np.take(table, top, axis=1)
    sums = np.take(bands, right, axis=2)  # [3, h, w]
    sums -= np.take(bands, left, axis=2)
    return _means(sums, (bottom - top)[:, None] * (right - left)[None, :])


def pooled_boxes(table: Sums, boxes: npt.NDArray[np.int64], side_px: int) -> npt.NDArray[np.float32]:
    """Regions of a picture, each pooled to a square as in `pooled`.

    Args:
        table: `summed` of the picture.
        boxes: int64 [n, 4], x0 y0 x1 y1 in pixels, inside the picture and not empty.
        side_px: side of the squares.

    Returns:
        float32 [3, n, side_px, side_px].
    """
    left, right = _box_cells(boxes[:, 0], boxes[:, 2], side_px)  # [n, side]
    top, bottom = _box_cells(boxes[:, 1], boxes[:, 3], side_px)
    row_length = table.shape[2]
    flat = table.reshape(len(table), -1)  # [3, (H + 1) (W + 1)]
    upper, lower = top[:, :, None] * row_length, bottom[:, :, None] * row_length  # [n, side, 1]
    left_edge, right_edge = left[:, None, :], right[:, None, :]  # [n, 1, side]
    sums = np.take(flat, lower + right_edge, axis=1)  # [3, n, side, side]
    sums -= np.take(flat, upper + right_edge, axis=1)
    sums -= np.take(flat, lower + left_edge, axis=1)
    sums += np.take(flat, upper + left_edge, axis=1)
    return _means(sums, (bottom - top)[:, :, None] * (right - left)[:, None, :])


def _means(sums: Sums, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    means: npt.NDArray[np.float32] = sums.astype(np.float32)
    means /= counts.astype(np.float32)
    return means


def _cells(source_px: int, target_px: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    index = np.arange(target_px, dtype=np.int64)
    return index * source_px // target_px, -(-(index + 1) * source_px // target_px)


def _box_cells(
    start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], side_px: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    index = np.arange(side_px, dtype=np.int64)
    length = (stop - start)[:, None]  # [n, 1]
    return start[:, None] + index * length // side_px, start[:, None] - (-(index + 1) * length // side_px)
