from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fv2es.errors import TranscriptError, UsageError
from fv2es.source import SourceInfo
from fv2es.transcript import Cue
from fv2es.utterances import UtteranceRule, plan_utterances

seconds = st.floats(min_value=0, max_value=20_000, allow_nan=False)
lengths = st.floats(min_value=0.01, max_value=20_000, allow_nan=False)


def source(start_s=0.0, duration_s=60.0, notes=()):
    return SourceInfo(
        path=Path("clip.mp4"),
        size_bytes=1,
        container="mov",
        start_s=start_s,
        duration_s=duration_s,
        video=None,
        audio=None,
        notes=notes,
    )


def cue(start_s, end_s, text="some words here", line=1):
    return Cue(start_s=start_s, end_s=end_s, text=text, line=line, path="words.srt")


def spans(plan):
    return [(each.start_s, each.end_s, each.text) for each in plan.utterances]


def test_windows_on_the_sources_clock():
    plan = plan_utterances(source(100.0, 12.0, ("a note",)), None, UtteranceRule())
    assert spans(plan) == [(100.0, 105.0, ""), (105.0, 110.0, ""), (110.0, 112.0, "")]
    assert plan.notes == ("a note",)


@pytest.mark.parametrize(
    ("duration_s", "ends_s"),
    [(10.0, [5, 10]), (10.4, [5, 10.4]), (10.5, [5, 10, 10.5]), (0.3, [0.3]), (5.0, [5.0]), (0.04, [0.04])],
)
def test_a_short_remainder_is_joined(duration_s, ends_s):
    plan = plan_utterances(source(0.0, duration_s), None, UtteranceRule())
    assert [each.end_s for each in plan.utterances] == ends_s


@given(start_s=seconds, duration_s=lengths, window_s=st.floats(0.5, 30), share=st.floats(0, 1))
def test_windows_cover_the_source_without_overlap(start_s, duration_s, window_s, share):
    rule = UtteranceRule(window_s=window_s, min_tail_s=window_s * share, max_length_s=30)
    info = source(start_s, duration_s)
    windows = plan_utterances(info, None, rule).utterances
    assert (windows[0].start_s, windows[-1].end_s) == (info.start_s, info.end_s)
    assert all(left.end_s == right.start_s for left, right in pairwise(windows))
    assert all(each.end_s > each.start_s for each in windows)
    assert [each.index for each in windows] == list(range(len(windows)))
    assert max(each.end_s - each.start_s for each in windows) <= window_s * (1 + share) + 1e-6


cue_lists = st.lists(
    st.builds(cue, st.floats(0, 90), st.floats(0, 90), st.sampled_from(["", "one", "two words", "a b c d e f g"])),
    min_size=1,
    max_size=12,
)


@given(cues=cue_lists, max_length_s=st.floats(5, 40))
def test_every_word_within_the_source_is_kept_and_every_loss_named(cues, max_length_s):
    info, rule = source(10.0, 50.0), UtteranceRule(max_length_s=max_length_s)
    usable = [each for each in cues if each.text and each.start_s < min(each.end_s, 60) and each.end_s > 10]
    if not usable:
        with pytest.raises(TranscriptError, match="none of"):
            plan_utterances(info, cues, rule)
        return
    plan = plan_utterances(info, cues, rule)
    kept = sorted(word for each in plan.utterances for word in each.text.split())
    assert kept == sorted(word for each in usable for word in each.text.split())
    assert sum("left out" in note for note in plan.notes) == len(cues) - len(usable)
    assert all(10.0 <= each.start_s < each.end_s <= 60.0 for each in plan.utterances)
    assert max(each.end_s - each.start_s for each in plan.utterances) <= max_length_s + 1e-6
    assert [each.start_s for each in plan.utterances] == sorted(each.start_s for each in plan.utterances)
    again = plan_utterances(
        info, [cue(each.start_s, each.end_s, each.text) for each in plan.utterances if each.text], rule
    )
    assert spans(again) == [each for each in spans(plan) if each[2]]


def test_repairs_are_named():
    cues = [
        cue(20, 25, "later", line=2),
        cue(1, 4, "first", line=5),
        cue(3, 6, "over the first", line=8),
        cue(58, 70, "past the end", line=11),
        cue(80, 81, "never", line=14),
        cue(9, 8, "backwards", line=17),
        cue(9, 9, "no length", line=20),
        cue(30, 31, " ", line=23),
    ]
    plan = plan_utterances(source(), cues, UtteranceRule())
    assert spans(plan) == [
        (1, 4, "first"),
        (3, 6, "over the first"),
        (20, 25, "later"),
        (58, 60, "past the end"),
    ]
    text = "\n".join(plan.notes)
    for expected in (
        "not in the order of time",
        "line 11 [58.00, 70.00) s reaches beyond the source: cut to [58.00, 60.00)",
        "line 14 [80.00, 81.00) s lies past the end",
        "line 17 [9.00, 8.00) s ends before it begins",
        "line 20 [9.00, 9.00) s has no length",
        "line 23 [30.00, 31.00) s has no words",
        "1 cues begin before the one before them ends",
    ):
        assert expected in text


def test_a_clean_transcript_gets_no_note():
    plan = plan_utterances(source(), [cue(0, 3, "a b"), cue(3, 9, "c")], UtteranceRule())
    assert spans(plan) == [(0, 3, "a b"), (3, 9, "c")]
    assert plan.notes == ()


def test_a_long_cue_is_divided_with_its_words():
    words = "one two three four five six seven"
    plan = plan_utterances(source(0, 100), [cue(0, 70, words)], UtteranceRule())
    assert [(round(a, 3), round(b, 3), text) for a, b, text in spans(plan)] == [
        (0, 23.333, "one two"),
        (23.333, 46.667, "three four"),
        (46.667, 70, "five six seven"),
    ]
    assert "divided into 3" in plan.notes[0]


def test_a_transcript_on_another_clock_is_an_error():
    with pytest.raises(TranscriptError, match=r"\[3600\.00, 3660\.00\) s.*own clock"):
        plan_utterances(source(3600.0), [cue(0, 4)], UtteranceRule())


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"window_s": 0}, "window_s=0 s must be above 0"),
        ({"window_s": float("nan")}, "window_s=nan"),
        ({"min_tail_s": 6}, r"min_tail_s=6 s must lie in \[0, window_s=5\]"),
        ({"max_length_s": 4}, "max_length_s=4 s must be at least window_s=5"),
    ],
)
def test_rules_are_checked(wrong, match):
    with pytest.raises(UsageError, match=match):
        UtteranceRule(**wrong)
