import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fv2es_pipelines import boxes as boxes_module
from fv2es_pipelines.boxes import face_region, overlaps, pixel_bounds, squared, suppressed


def greedy(boxes, scores, threshold, by_smaller):
    """Non-maximum suppression by its definition."""
    kept = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        pairs = [(boxes[index], boxes[other]) for other in kept]
        if all(overlap(one, other, by_smaller) <= threshold for one, other in pairs):
            kept.append(index)
    return kept


def overlap(one, other, by_smaller):
    extra = 1 if by_smaller else 0
    width = min(one[2], other[2]) - max(one[0], other[0]) + extra
    height = min(one[3], other[3]) - max(one[1], other[1]) + extra
    common = max(width, 0) * max(height, 0)
    first, second = ((box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (one, other))
    return common / (min(first, second) if by_smaller else first + second - common)


def random_boxes(count, seed):
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 60, (count, 2))
    return np.concatenate([corners, corners + random.uniform(15, 40, (count, 2))], axis=1)


@pytest.mark.parametrize("all_pairs_up_to", [0, 1024])
@pytest.mark.parametrize("by_smaller", [False, True])
@given(count=st.integers(0, 60), seed=st.integers(0, 10**6), threshold=st.sampled_from([0.3, 0.5, 0.7]))
def test_suppression_is_greedy(by_smaller, all_pairs_up_to, count, seed, threshold):
    boxes = random_boxes(count, seed)
    scores = np.random.default_rng(seed + 1).permutation(count).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boxes_module, "_MATRIX_ROWS", all_pairs_up_to)
        kept = suppressed(boxes, scores, threshold, by_smaller=by_smaller)
    assert kept.tolist() == greedy(boxes, scores, threshold, by_smaller)


def test_overlap_of_known_boxes():
    one, other = np.array([[0.0, 0.0, 10.0, 10.0]]), np.array([[5.0, 0.0, 15.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
    assert overlaps(one, other)[0] == pytest.approx([50 / 150, 0.0])


def test_squares_keep_the_centre():
    assert squared(np.array([[10.0, 20.0, 30.0, 60.0]])).tolist() == [[0.0, 20.0, 40.0, 60.0]]


def test_pixels_are_counted_from_one_and_clipped():
    found = pixel_bounds(np.array([[-3.0, 1.0, 20.9, 30.0], [5.5, 6.5, 7.5, 400.0]]), 100, 50)
    assert found.tolist() == [[0, 0, 20, 30], [4, 5, 7, 50]]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((100.0, 50.0, 192.0, 142.0), (98, 48, 194, 144)),  # 2 / 46 of 92 is 4 px: 2 on each side
        ((-10.0, -5.0, 82.0, 87.0), (0, 0, 84, 89)),
        ((580.0, 300.0, 672.0, 392.0), (578, 298, 640, 360)),
        ((639.5, 359.5, 639.7, 359.9), (639, 359, 640, 360)),
        ((700.0, 400.0, 720.0, 420.0), (639, 359, 640, 360)),
    ],
)
def test_the_region_of_a_face(box, expected):
    assert face_region(box, 640, 360) == expected
