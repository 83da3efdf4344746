"""What is done about a clip that failed: how often, and for how long, it is sent again."""

import time

import pytest

from fv2es import ClientRule
from fv2es.analysis import Attempts, Verdict
from fv2es.errors import (
    ClipRejected,
    DeadlineExceeded,
    Fv2esError,
    InferenceFailed,
    ServerOverloaded,
    ServerUnreachable,
)

RULE = ClientRule(timeout_s=1000.0, request_timeout_s=100.0, max_late=3)


def late(timeout_s: float = 100.0) -> Fv2esError:
    return DeadlineExceeded("a:1", "no answer", timeout_s=timeout_s)


def busy() -> Fv2esError:
    return ServerOverloaded("a:1", "full")


def test_a_clip_that_is_late_is_sent_again_a_few_times():
    attempts = Attempts(rule=RULE)
    verdicts = [attempts.verdict(late()) for _ in range(3)]
    assert verdicts == [Verdict.RECOVER, Verdict.RECOVER, Verdict.LOSE_CLIP]


def test_what_is_late_and_what_is_turned_away_share_the_time():
    attempts = Attempts(rule=RULE)
    assert attempts.request_timeout_s == 100
    assert attempts.verdict(late()) is Verdict.RECOVER
    assert attempts.left_s == pytest.approx(900, abs=5)  # its sending counts
    attempts.hindered_s = time.monotonic() - 950
    assert attempts.verdict(busy()) is Verdict.BACK_OFF
    assert attempts.request_timeout_s == pytest.approx(50, abs=5)
    attempts.hindered_s = time.monotonic() - 1000
    assert attempts.verdict(busy()) is Verdict.LOSE_CLIP
    assert attempts.verdict(late()) is Verdict.LOSE_CLIP


def test_a_clip_that_waited_behind_others_has_all_its_time():
    attempts = Attempts(rule=RULE)
    assert attempts.left_s == 1000
    assert attempts.verdict(busy()) is Verdict.BACK_OFF
    assert attempts.left_s == pytest.approx(1000, abs=5)


def test_a_short_time_is_the_deadline_of_its_only_request():
    attempts = Attempts(rule=ClientRule(timeout_s=10.0))
    assert attempts.request_timeout_s == 10
    assert attempts.verdict(late(10.0)) is Verdict.LOSE_CLIP


def test_waits_stay_short_however_often_it_was_turned_away():
    attempts = Attempts(rule=RULE)
    for _ in range(3000):  # an hour
        assert attempts.verdict(busy()) is Verdict.BACK_OFF
        assert 0 <= attempts.back_off_s() <= 5


def test_other_failures_are_counted_by_themselves():
    attempts = Attempts(rule=RULE)
    assert attempts.verdict(late()) is Verdict.RECOVER
    failed = InferenceFailed("a:1", "crash")
    assert [attempts.verdict(failed) for _ in range(3)] == [Verdict.RECOVER, Verdict.RECOVER, Verdict.LOSE_CLIP]
    assert Attempts(rule=RULE).verdict(ClipRejected("a:1", "no media")) is Verdict.LOSE_CLIP


def test_the_reason_says_how_often_the_server_failed():
    attempts = Attempts(rule=RULE)
    gone = ServerUnreachable("a:1", "Socket closed")
    assert [attempts.verdict(gone) for _ in range(3)][-1] is Verdict.LOSE_CLIP
    reason = attempts.reason(gone)
    assert isinstance(reason, InferenceFailed)
    assert str(reason).startswith(
        "a:1: the server failed on this clip in 3 of 3 tries (Socket closed); it or a worker may"
    )
    rejected = ClipRejected("a:1", "no media")
    assert attempts.reason(rejected) is rejected
