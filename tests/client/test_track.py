"""Windows that slide over an utterance, and which features belong to each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fv2es import TrackRule
from fv2es.errors import UsageError
from fv2es.track import Features, fusion_arrays, track_points, windows_of
from fv2es.utterances import Utterance


@given(start_s=st.floats(0, 5000), length_s=st.floats(0.05, 60), step_s=st.floats(0.5, 5), longer=st.floats(1, 4))
def test_windows_cover_an_utterance_and_stay_inside(start_s: float, length_s: float, step_s: float, longer: float):
    end_s = start_s + length_s
    windows = list(TrackRule(step_s=step_s, window_s=step_s * longer).windows(start_s, end_s))
    assert windows[0][0] == start_s
    for begin_s, stop_s in windows:
        assert start_s <= begin_s < stop_s <= end_s
        assert stop_s - begin_s <= step_s * longer + 1e-9
    assert np.diff([begin_s for begin_s, _ in windows]) == pytest.approx(step_s)
    assert end_s - windows[-1][1] < step_s  # what is left over is less than a step


@pytest.mark.parametrize("rule", [{"step_s": 0.4}, {"step_s": float("nan")}, {"step_s": 3.0, "window_s": 2.0}])
def test_steps_that_say_nothing(rule: dict[str, float]):
    with pytest.raises(UsageError, match="must be at least"):
        TrackRule(**rule)


def test_features_of_each_window():
    """Two utterances: the first with pictures and sound, the second with sound alone."""
    utterances = [Utterance(index=0, start_s=10.0, end_s=12.0), Utterance(index=1, start_s=13.0, end_s=13.6)]
    features = Features(
        arrays={
            "VISUAL": np.zeros((3, 64), np.float32),
            "FACE_INDEX": np.array([[0, 1, 0, 2], [0, 0, 0, 0]]),
            "FACE_MASK": np.array([[True, True, False, True], [False] * 4]),
            "ACOUSTIC": np.zeros((7, 64), np.float32),
            "PIECE_INDEX": np.array([[0, 1, 2, 3, 4], [5, 6, 0, 0, 0]]),
            "PIECE_MASK": np.array([[True] * 5, [True, True, False, False, False]]),
            "TEXT": np.array([[1.0], [2.0]], np.float32),
            "WORDS_MASK": np.array([True, False]),
        },
        frame_times_s=np.array([9.98, 10.48, 11.0, 11.48]),  # a picture before the start serves the start
        frame_utterance=np.array([0, 0, 0, 0], np.int32),
    )
    windows = windows_of(utterances, TrackRule(step_s=1.0, window_s=1.0))
    assert [(each.row, each.start_s, each.end_s) for each in windows] == [(0, 10, 11), (0, 11, 12), (1, 13, 13.6)]
    arrays = fusion_arrays(features, utterances, windows)
    faces = [index[mask].tolist() for index, mask in zip(arrays["FACE_INDEX"], arrays["FACE_MASK"], strict=True)]
    pieces = [index[mask].tolist() for index, mask in zip(arrays["PIECE_INDEX"], arrays["PIECE_MASK"], strict=True)]
    assert faces == [[0, 1], [2], []]
    assert pieces == [[0, 1, 2], [3, 4], [5, 6]]  # they begin at 10.0, 10.4, 10.8, 11.2, 11.6; 13.0, 13.4
    assert arrays["TEXT"].tolist() == [[1.0], [1.0], [2.0]]
    assert arrays["WORDS_MASK"].tolist() == [True, True, False]
    outputs = {
        "PROBABILITIES": np.array([[0.1], [0.2], [0.3]], np.float32),
        "LOGITS": np.array([[0.0], [3.0], [0.0]], np.float32),
        "PRESENT": np.array([[True, True, True], [False, True, False], [False] * 3]),
    }
    first, second = track_points(windows, outputs, ["anger"])
    assert [each.start_s for each in first] == [10, 11]
    assert [each.is_clear for each in (*first, *second)] == [False, True, False]
    assert first[1].present == ("visual",)
    assert second[0].probabilities == pytest.approx({"anger": 0.3})
