from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fv2es.errors import TranscriptError, UsageError
from fv2es.source import SourceInfo
from fv2es.transcript import Cue
from fv2es.utterances import UtteranceRule, plan_utterances, utterances_from_words
from fv2es.words import Word, divided

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


def spoken(plan):
    return [each for each in spans(plan) if each[2]]


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
    assert largest_hole_s(plan.utterances, info) < rule.min_silence_s


def largest_hole_s(utterances, info):
    """The longest time of the source that no utterance covers."""
    at_s, holes_s = info.start_s, [0.0]
    for each in utterances:
        holes_s.append(each.start_s - at_s)
        at_s = max(at_s, each.end_s)
    return max(*holes_s, info.end_s - at_s)


word_lists = st.lists(
    st.tuples(st.floats(0, 4), st.floats(0.02, 2), st.sampled_from(["word", "word,", "end.", "Mr.", "what?"])),
    max_size=60,
)


def words_from(rows, start_s=0.0):
    """Words that follow each other: pause before, length, text."""
    words, at_s = [], start_s
    for pause_s, length_s, text in rows:
        words.append(Word(start_s=at_s + pause_s, end_s=at_s + pause_s + length_s, text=text))
        at_s += pause_s + length_s
    return words


@given(rows=word_lists, max_length_s=st.floats(5, 20), margin_s=st.floats(0, 0.3))
def test_recognised_words_fill_the_source(rows, max_length_s, margin_s):
    words = words_from(rows, 3.0)
    info = source(3.0, (words[-1].end_s if words else 3.0) - 3.0 + 2.0)
    rule = UtteranceRule(max_length_s=max_length_s, margin_s=margin_s)
    speech = [(each.start_s, each.end_s) for each in words]
    utterances = utterances_from_words(info, words, rule, speech)
    assert [word for each in utterances for word in each.text.split()] == [each.text for each in words]
    assert largest_hole_s(utterances, info) < rule.min_silence_s + 1e-9
    assert [each.index for each in utterances] == list(range(len(utterances)))
    assert all(left.end_s <= right.start_s + 1e-9 for left, right in pairwise(utterances))
    at = 0
    for each in utterances:
        assert 0 < each.end_s - each.start_s <= max_length_s + 1e-6
        assert 0 <= each.speech_share <= 1
        own = words[at : at + len(each.text.split())]
        at += len(own)
        if own:
            assert -1e-9 <= own[0].start_s - each.start_s <= margin_s + 1e-9
            assert -1e-9 <= each.end_s - own[-1].end_s <= margin_s + 1e-9
            assert each.speech_share > 0


@given(rows=word_lists, pause_s=st.floats(0.1, 2), max_length_s=st.floats(3, 20), min_length_s=st.floats(0, 3))
def test_runs_hold_every_word_once_and_no_pause(rows, pause_s, max_length_s, min_length_s):
    words = words_from(rows)
    runs = divided(words, pause_s=pause_s, max_length_s=max_length_s, min_length_s=min_length_s)
    assert [word for run in runs for word in run] == words
    for run in runs:
        assert len(run) == 1 or run[-1].end_s - run[0].start_s <= max_length_s + 1e-9
        assert all(right.start_s - left.end_s < pause_s for left, right in pairwise(run))


def test_sentences_pauses_and_abbreviations():
    words = words_from(
        [
            *((0.05, 0.4, text) for text in ["I", "met", "Mr.", "Smith", "in", "town", "today."]),
            *((0.05, 0.4, text) for text in ["He", "was", "not", "well", "at", "all,"]),
            (0.9, 0.4, "so"),
            *((0.05, 0.4, text) for text in ["we", "went", "home.", "Yes.", "It", "rained."]),
        ]
    )
    texts = [each.text for each in utterances_from_words(source(0, 20), words, UtteranceRule()) if each.text]
    assert texts == [
        "I met Mr. Smith in town today.",
        "He was not well at all,",
        "so we went home. Yes. It rained.",
    ]


def test_a_long_sentence_is_cut_at_its_longest_gap():
    words = words_from([(0.5 if place == 17 else 0.05, 0.5, f"w{place}") for place in range(30)])
    first, second = (
        each.text.split() for each in utterances_from_words(source(0, 17), words, UtteranceRule()) if each.text
    )
    assert (first[-1], second[0]) == ("w16", "w17")


def test_speech_without_words_has_windows_of_its_own():
    utterances = utterances_from_words(source(0, 20), [], UtteranceRule(), [(4.0, 9.0), (9.2, 9.4)])
    assert [(each.start_s, each.end_s) for each in utterances if each.speech_share == 1] == [(4, 9)]
    assert sum(each.end_s - each.start_s for each in utterances) == pytest.approx(20)


def test_cues_with_words_are_cut_anew():
    words = words_from([(0.05, 0.4, text) for text in ["This", "is", "one.", "And", "this", "another"]], 1.0)
    cues = [
        Cue(start_s=1, end_s=4, text="This is one. And this another", line=1, path="w.json", words=tuple(words)),
        Cue(start_s=4, end_s=5, text="one.", line=2, path="w.json", words=(Word(start_s=4.0, end_s=4.5, text="one."),)),
    ]
    assert [text for _, _, text in spoken(plan_utterances(source(), cues, UtteranceRule()))] == [
        "This is one.",
        "And this another one.",
    ]


def test_words_beyond_the_source_are_named():
    inside, outside = Word(start_s=58, end_s=59, text="in"), Word(start_s=61, end_s=62, text="out")
    both = Cue(start_s=58, end_s=62, text="in out", line=1, path="w.json", words=(inside, outside))
    plan = plan_utterances(source(), [both], UtteranceRule())
    assert [text for _, _, text in spoken(plan)] == ["in"]
    assert any("1 words of the cues lie beyond the source" in note for note in plan.notes)


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
    assert spoken(plan) == [
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
    assert spans(plan)[2:3] == [(9, 14, "")]
    assert spoken(plan) == [(0, 3, "a b"), (3, 9, "c")]
    assert plan.notes == ()


def test_a_long_cue_is_divided_with_its_words():
    plan = plan_utterances(
        source(0, 18), [cue(0, 18, "Here we go now, all of us. Then we talk on, as one does")], UtteranceRule()
    )
    assert [text for *_, text in spans(plan)] == ["Here we go now, all of us.", "Then we talk on, as one does"]
    assert [(plan.utterances[0].start_s, plan.utterances[1].end_s)] == [(0, 18)]
    assert "divided into" in plan.notes[0]


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
