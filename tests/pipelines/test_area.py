import numpy as np
import pytest

from fv2es_pipelines.area import area_resize, pooled, pooled_boxes, summed


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box_filter(picture, width, height):
    """Area averaging by its definition, in double precision: enlarge by repeating, then average whole blocks."""
    rows = np.repeat(picture.astype(np.float64), height, axis=0).reshape(height, picture.shape[0], -1, 3).mean(axis=1)
    return np.repeat(rows, width, axis=1).reshape(height, width, picture.shape[1], 3).mean(axis=2)


@pytest.mark.parametrize("size", [(96, 96), (97, 131), (48, 48), (300, 51), (47, 20), (1, 1), (7, 200)])
def test_area_resize_is_the_true_box_filter(size):
    picture = noise(*size)
    result = area_resize(picture, 48, 48)
    assert result.dtype == np.uint8
    assert np.abs(result - box_filter(picture, 48, 48)).max() <= 0.5 + 1e-3


def pool(picture, width, height):
    """Adaptive pooling by its definition, cell by cell."""
    source_height, source_width, _ = picture.shape
    cells = np.empty((height, width, 3))
    for row in range(height):
        top, bottom = row * source_height // height, -(-(row + 1) * source_height // height)
        for column in range(width):
            left, right = column * source_width // width, -(-(column + 1) * source_width // width)
            cells[row, column] = picture[top:bottom, left:right].mean(axis=(0, 1))
    return cells


@pytest.mark.parametrize("size", [(20, 12), (33, 21), (60, 41), (70, 50)])
def test_pooling_of_a_whole_picture(size):
    picture = noise(41, 60)
    np.testing.assert_allclose(pooled(summed(picture), *size), pool(picture, *size).transpose(2, 0, 1), rtol=1e-6)


def test_pooling_of_boxes():
    picture = noise(90, 120)
    boxes = np.array([[0, 0, 120, 90], [10, 20, 34, 44], [5, 6, 12, 60], [119, 89, 120, 90]])
    result = pooled_boxes(summed(picture), boxes, 24)
    for box, (x0, y0, x1, y1) in zip(result.swapaxes(0, 1), boxes, strict=True):
        np.testing.assert_allclose(box, pool(picture[y0:y1, x0:x1], 24, 24).transpose(2, 0, 1), rtol=1e-6)


def test_sums_that_wrap_do_no_harm():
    table = summed(np.full((4200, 4100, 3), 255, np.uint8))  # 255 * 4200 * 4100 exceeds 32 bits
    assert table[-1, 0, -1] != 255 * 4200 * 4100
    assert (pooled_boxes(table, np.array([[4000, 4100, 4100, 4200]]), 24) == 255).all()
