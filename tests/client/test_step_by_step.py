"""What is decided while stretches are recognised is what would be decided once all are: words, utterances, borders, shares."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from whole_film import joined, utterances

from fv2es.seams import Joining, Stretch, Withheld
from fv2es.source import SourceInfo
from fv2es.speech import SpeechRule, stretches_of
from fv2es.utterances import Heard, Planner, UtteranceRule, merged
from fv2es.words import Word

slowly = settings(suppress_health_check=[HealthCheck.too_slow])
"""A film is large for a random value, and the machine may be busy."""

TEXTS = ["word", "word,", "end.", "so", "what?", "Mr."]


def source(duration_s: float, start_s: float = 0.0) -> SourceInfo:
    return SourceInfo(
        path=__file__, size_bytes=1, container="mov", start_s=start_s, duration_s=duration_s, video=None, audio=None
    )


@st.composite
def films(draw) -> tuple[SourceInfo, list[Stretch], list[tuple[float, float]]]:
    """A source and what is heard in its stretches: neighbours that agree, differ, contradict each other, and fail."""
    info = source(draw(st.floats(0.5, 150)), draw(st.sampled_from([0.0, 1.4, 3600.0])))
    rule = SpeechRule(
        stretch_s=draw(st.floats(12, 60)), first_stretch_s=draw(st.floats(8, 30)), overlap_s=draw(st.floats(0, 6))
    )
    spans_s = stretches_of(info, rule)
    said, at_s = [], info.start_s
    dense = draw(st.booleans())
    while at_s < info.end_s and len(said) < 150:
        pause_s = draw(st.sampled_from([0.0, 0.05, 0.3] if dense else [0.0, 0.1, 0.59, 0.61, 2.0, 13.0, 40.0]))
        length_s = draw(st.sampled_from([0.0, 0.2, 0.4, 0.9]))
        said.append(
            Word(
                start_s=at_s + pause_s,
                end_s=at_s + pause_s + length_s,
                text=draw(st.sampled_from(TEXTS[: 3 if dense else 6])),
            )
        )
        at_s = said[-1].end_s
        if not length_s and not pause_s:
            at_s += 0.01
    stretches = []
    for start_s, end_s in spans_s:
        if draw(st.integers(0, 9)) == 0:
            stretches.append(Stretch(start_s=start_s, end_s=end_s, failure="it broke"))
            continue
        shift_s = draw(st.sampled_from([0.0, 0.0, 0.03, -0.2]))
        odd = draw(st.integers(0, 4)) == 0
        heard = [
            Word(start_s=each.start_s + shift_s, end_s=each.end_s + shift_s, text="other" if odd else each.text)
            for each in said
            if start_s - (1.0 if odd else 0.0) <= each.start_s and each.end_s <= end_s
        ]
        voices = [(each.start_s, each.end_s + 0.1) for each in heard]
        if draw(st.booleans()):
            low_s = draw(st.floats(start_s, end_s))
            voices.append((low_s, min(low_s + draw(st.sampled_from([0.5, 3.0, 28.0])), end_s)))
        withheld = tuple(
            Withheld(start_s=a, end_s=b, reason="noise") for a, b in voices if a < b and draw(st.integers(0, 7)) == 0
        )
        voices = tuple((max(a, start_s), min(b, end_s)) for a, b in sorted(voices) if max(a, start_s) < min(b, end_s))
        stretches.append(Stretch(start_s=start_s, end_s=end_s, words=tuple(heard), speech_s=voices, withheld=withheld))
    return info, stretches, spans_s


def steps(info: SourceInfo, stretches: list[Stretch]) -> tuple[Joining, list[Heard]]:
    joining = Joining(info.start_s)
    following = [*(each.start_s for each in stretches[1:]), None]
    return joining, [
        joining.add(each, start_s=each.start_s, end_s=each.end_s, next_s=next_s)
        for each, next_s in zip(stretches, following, strict=True)
    ]


def all_of(heard: list[Heard]) -> Heard:
    return Heard(
        words=tuple(word for each in heard for word in each.words),
        speech_s=merged(span for each in heard for span in each.speech_s),
        unheard_s=merged(span for each in heard for span in each.unheard_s),
        until_s=heard[-1].until_s,
    )


@slowly
@given(film=films())
def test_joining_gives_out_what_all_stretches_come_to(film):
    info, stretches, _ = film
    joining, heard = steps(info, [replace(each, withheld=()) for each in stretches])
    together, whole = all_of(heard), joined(stretches)
    assert together.words == whole.words
    assert together.speech_s == whole.speech_s
    assert joining.num_words == len(whole.words)
    for before, after in pairwise(heard):
        assert all(each.start_s >= before.until_s for each in after.words)
        assert all(start_s >= before.until_s for start_s, _ in after.speech_s)
        assert after.until_s >= before.until_s


@slowly
@given(film=films())
def test_what_was_not_understood_is_joined_too(film):
    info, stretches, _ = film
    joining, _ = steps(info, stretches)
    assert joining.withheld == list(joined(stretches).withheld)


rules = st.builds(
    UtteranceRule,
    window_s=st.sampled_from([0.5, 2.0, 5.0]),
    min_tail_s=st.sampled_from([0.0, 0.5]),
    max_length_s=st.sampled_from([5.0, 10.0]),
    pause_s=st.sampled_from([0.1, 0.6, 2.0]),
    min_length_s=st.sampled_from([0.0, 1.0, 4.0]),
    min_silence_s=st.sampled_from([0.3, 1.0, 7.0, float("inf")]),
    margin_s=st.sampled_from([0.0, 0.25, 1.0]),
)


@slowly
@given(film=films(), rule=rules)
def test_utterances_known_early_are_those_of_the_whole_film(film, rule):
    info, stretches, _ = film
    _, heard = steps(info, stretches)
    planner, found, late_s = Planner(info, rule), [], []
    for place, each in enumerate(heard, start=1):
        found += planner.advance(each, is_all=place == len(heard))
        if place < len(heard):
            assert not found or found[-1].end_s <= each.until_s
            late_s.append(each.until_s - (found[-1].end_s if found else info.start_s))
    whole = all_of(heard)
    words = [
        replace(each, start_s=max(each.start_s, info.start_s), end_s=min(each.end_s, info.end_s))
        for each in whole.words
    ]
    assert found == utterances(info, words, rule, whole.speech_s, whole.unheard_s)
    assert [each.start_s for each in found] == sorted(each.start_s for each in found)


@slowly
@given(rows=st.lists(st.floats(0.05, 0.59), min_size=200, max_size=400))
def test_one_who_never_pauses_is_not_waited_for(rows):
    """No sentence ends, no pause: what is known lags behind what is heard by some multiples of the longest utterance."""
    rule, words, at_s = UtteranceRule(), [], 0.0
    for pause_s in rows:
        words.append(Word(start_s=at_s + pause_s, end_s=at_s + pause_s + 0.2, text="on"))
        at_s = words[-1].end_s
    planner, last_s = Planner(source(at_s + 1), rule), 0.0
    for word in words:
        heard = Heard(words=(word,), speech_s=(), unheard_s=(), until_s=word.end_s)
        for each in planner.advance(heard):
            last_s = each.end_s
        assert word.end_s - last_s <= 4 * rule.max_length_s


def test_silence_is_not_waited_for():
    planner, found = Planner(source(3600), UtteranceRule()), []
    for at_s in range(15, 3600, 15):
        found += planner.advance(Heard(words=(), speech_s=(), unheard_s=(), until_s=at_s))
        assert found
        assert at_s - found[-1].end_s <= 13
    assert [(each.start_s, each.end_s) for each in found[:2]] == [(0, 5), (5, 10)]


def test_a_hole_in_what_was_heard_has_no_share_of_speech():
    stretches = [
        Stretch(start_s=0, end_s=20, words=(Word(start_s=1.0, end_s=2.0, text="Here."),), speech_s=((1.0, 2.0),)),
        Stretch(start_s=15, end_s=50, failure="it broke"),
        Stretch(start_s=45, end_s=60),
    ]
    info = source(60.0)
    planner, found = Planner(info, UtteranceRule()), []
    _, heard = steps(info, stretches)
    for place, each in enumerate(heard, start=1):
        found += planner.advance(each, is_all=place == 3)
    assert all_of(heard).unheard_s == ((20.0, 45.0),)
    for each in found:
        assert (each.speech_share is None) == (each.end_s > 20 and each.start_s < 45)
