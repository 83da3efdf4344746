"""What may be under way: by number, bytes and seconds."""

import pytest

from fv2es import ClientRule
from fv2es.cutting import Clip
from fv2es.errors import UsageError
from fv2es.utterances import Utterance


def clip(num_bytes: int, length_s: float) -> Clip:
    utterance = Utterance(index=0, start_s=0.0, end_s=length_s)
    return Clip(index=0, data=bytes(num_bytes), container="mp4", utterances=(utterance,), start_s=0.0, end_s=length_s)


def test_each_bound_alone_holds_the_next_clip_back():
    rule = ClientRule(max_in_flight=3, max_in_flight_bytes=1000, max_in_flight_s=60.0)
    small = clip(10, 1.0)
    assert rule.admits([])
    assert rule.admits([small] * 2)
    assert not rule.admits([small] * 3)
    assert rule.admits([clip(999, 1.0)])
    assert not rule.admits([clip(1000, 1.0)])
    assert not rule.admits([clip(500, 1.0), clip(500, 1.0)])
    assert rule.admits([clip(1, 59.0)])
    assert not rule.admits([clip(1, 60.0)])
    assert rule.admits([]), "one clip of any size is always let through"


@pytest.mark.parametrize("name", ["max_in_flight_bytes", "max_in_flight_s", "timeout_s", "request_timeout_s"])
def test_bounds_must_leave_room(name):
    with pytest.raises(UsageError, match=f"{name}=0 must be above 0"):
        ClientRule(**{name: 0})
