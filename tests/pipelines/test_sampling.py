import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fv2es_pipelines.constants import FRAME_STEP_S, TIMESTAMP_TOLERANCE_S
from fv2es_pipelines.sampling import PictureChooser, sample_times


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (0.0, 2.0, [0.0, 0.5, 1.0, 1.5]),
        (0.0, 2.01, [0.0, 0.5, 1.0, 1.5, 2.0]),
        (3600.25, 3600.5, [3600.25]),
        (0.1, 5.1, [0.1 + 0.5 * k for k in range(10)]),
        (-0.7, 0.4, [-0.7, -0.2, 0.3]),
        (1.0, 1.0000001, [1.0]),
    ],
)
def test_sample_times(start_s, end_s, expected):
    assert sample_times(start_s, end_s) == pytest.approx(expected, abs=1e-9)


@given(st.floats(-1e5, 1e5), st.floats(1e-3, 120))
def test_sample_times_are_steps_inside_the_utterance(start_s, length_s):
    times_s = sample_times(start_s, start_s + length_s)
    assert times_s[0] == start_s
    assert np.allclose(np.diff(times_s), FRAME_STEP_S)
    assert times_s[-1] < start_s + length_s
    assert times_s[-1] >= start_s + length_s - FRAME_STEP_S - 1e-5


def served_by(times_s, pictures_s, end_s):
    """What `PictureChooser` decides: for each wanted time the timestamp of its picture, None without."""
    chooser = PictureChooser(np.array(times_s, np.float64))
    served = [None] * len(times_s)
    shown = None
    for pts_s in pictures_s:
        for position in chooser.arrive(pts_s):
            served[position] = shown
        shown = pts_s
    for position in chooser.finish(end_s):
        served[position] = shown
    return served


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=30, unique=True).map(sorted),
    st.lists(st.integers(-50, 450), min_size=1, max_size=30).map(sorted),
)
def test_each_time_gets_the_last_picture_before_it(picture_hundredths, time_hundredths):
    pictures_s = [hundredth / 100 for hundredth in picture_hundredths]
    times_s = [hundredth / 100 for hundredth in time_hundredths]
    end_s = pictures_s[-1] + 0.04
    expected = [
        max((pts_s for pts_s in pictures_s if pts_s <= time_s), default=None) if time_s < end_s else None
        for time_s in times_s
    ]
    assert served_by(times_s, pictures_s, end_s) == expected


def test_a_timestamp_rounded_up_by_less_than_the_tolerance_still_serves():
    late = TIMESTAMP_TOLERANCE_S * 0.6
    assert served_by([0.5], [0.0, 0.5 + late], 1.0) == [0.5 + late]
    assert served_by([0.5], [0.0, 0.5 + 2 * TIMESTAMP_TOLERANCE_S], 1.0) == [0.0]


def test_a_clock_that_jumps_back_neither_fails_nor_serves_twice():
    assert served_by([0.0, 0.5, 1.0, 1.5], [0.0, 0.4, 0.8, 0.1, 0.6, 1.2], 1.6) == [0.0, 0.4, 0.6, 1.2]


def test_nothing_is_shown_before_the_first_picture_or_after_the_last():
    assert served_by([0.0, 0.99, 1.0, 1.4], [1.0, 1.2], 1.4) == [None, None, 1.0, None]
    assert served_by([0.0], [], 1.0) == [None]
