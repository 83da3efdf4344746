"""Utterances that overlap, laid beside each other."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fv2es.files.lanes import lanes
from fv2es.result import Result

ONE = Result.from_dict(json.loads((Path(__file__).parent / "results" / "astronaut.json").read_text())).utterances[0]
SPANS = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)), max_size=12)


@given(SPANS)
def test_as_few_lanes_as_overlap_at_once(spans: list[tuple[int, int]]):
    items = [
        dataclasses.replace(ONE, index=index, start_s=float(start), end_s=float(start + length))
        for index, (start, length) in enumerate(spans)
    ]
    filled = lanes(items)
    assert sorted(each.index for lane in filled for each in lane) == list(range(len(items)))
    for lane in filled:
        assert all(one.end_s <= two.start_s for one, two in pairwise(lane))
    most = max((sum(each.start_s <= time < each.end_s for each in items) for time in range(31)), default=0)
    assert len(filled) == most
