"""Stretches of sound, and their answers put together; no server."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from whole_film import joined

from fv2es.cutting import Clip
from fv2es.errors import ClipRejected, UsageError
from fv2es.planning import Plan, outline
from fv2es.seams import Joining, Stretch, Withheld
from fv2es.source import SourceInfo, probe
from fv2es.speech import Recognition, SpeechAnswer, SpeechRule, stretches_of
from fv2es.utterances import Utterance, UtteranceRule
from fv2es.words import Word


def source(start_s=0.0, duration_s=60.0):
    return SourceInfo(
        path=Path("a.mp4"),
        size_bytes=1,
        container="mov",
        start_s=start_s,
        duration_s=duration_s,
        video=None,
        audio=None,
    )


@given(
    start_s=st.floats(0, 1e4), duration_s=st.floats(0.05, 2e4), stretch_s=st.floats(10, 120), overlap_s=st.floats(0, 9)
)
def test_stretches_cover_the_source_and_overlap(start_s, duration_s, stretch_s, overlap_s):
    info = source(start_s, duration_s)
    spans = stretches_of(info, SpeechRule(stretch_s=stretch_s, overlap_s=overlap_s))
    lengths_s = [end_s - start_s for start_s, end_s in spans[:-1]]
    assert lengths_s == pytest.approx([min(20 * 2**place, stretch_s) for place in range(len(lengths_s))], abs=1e-6)
    assert (spans[0][0], spans[-1][1]) == (info.start_s, pytest.approx(info.end_s))
    assert all(0 < end - start <= stretch_s + 1e-6 for start, end in spans)
    assert all(left[1] - right[0] == pytest.approx(overlap_s, abs=1e-5) for left, right in pairwise(spans))


rows = st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 0.8)), min_size=1, max_size=80)


@given(rows=rows, shift_s=st.floats(-0.1, 0.1), overlap_s=st.floats(2, 5))
def test_each_word_once_whatever_lies_on_the_seam(rows, shift_s, overlap_s):
    """Both stretches hear the overlap, the second with other times, and neither hears a word that its edge cuts."""
    words, at_s = [], 0.0
    for place, (pause_s, length_s) in enumerate(rows):
        words.append(Word(start_s=at_s + pause_s, end_s=at_s + pause_s + length_s, text=f"w{place}"))
        at_s += pause_s + length_s
    spans = stretches_of(source(0.0, at_s + 0.5), SpeechRule(stretch_s=12, overlap_s=overlap_s))
    stretches = []
    for number, (start_s, end_s) in enumerate(spans):
        by_s = shift_s if number % 2 else 0.0
        heard = [
            Word(start_s=each.start_s + by_s, end_s=each.end_s + by_s, text=each.text)
            for each in words
            if start_s <= each.start_s + min(by_s, 0) and each.end_s + max(by_s, 0) <= end_s
        ]
        speech = tuple((each.start_s, each.end_s) for each in heard)
        stretches.append(Stretch(start_s=start_s, end_s=end_s, words=tuple(heard), speech_s=speech))
    whole = joined(stretches)
    assert [each.text for each in whole.words] == [each.text for each in words]
    assert all(left.start_s <= right.start_s for left, right in pairwise(whole.words))
    assert all(left[1] <= right[0] + 1e-9 for left, right in pairwise(whole.speech_s))


def words(*pairs):
    return tuple(Word(start_s=start_s, end_s=start_s + 0.3, text=text) for start_s, text in pairs)


def test_words_that_the_two_hear_differently_are_parted_in_a_pause():
    left = Stretch(start_s=0, end_s=10, words=words((1, "so"), (5.5, "their"), (8.0, "house")))
    right = Stretch(start_s=5, end_s=15, words=words((5.6, "there"), (8.1, "mouse"), (12, "ran")))
    assert [each.text for each in joined([left, right]).words] == ["so", "their", "mouse", "ran"]


def test_a_lost_stretch_takes_no_word_of_its_neighbours():
    parts = [
        Stretch(start_s=0, end_s=10, words=words((1, "one"), (9, "two"))),
        Stretch(start_s=5, end_s=15, failure="it broke"),
        Stretch(start_s=10, end_s=20, words=words((11, "three"))),
    ]
    assert [each.text for each in joined(parts).words] == ["one", "two", "three"]


def answer(**changed):
    values = {
        "words": (), "speech_s": (), "withheld": (), "language": "en", "language_probability": 1.0, "missing": "", "model": "tiny.en",
    }  # fmt: skip
    return SpeechAnswer(**(values | changed))


def clip(index, start_s, end_s):
    own = Utterance(index=index, start_s=start_s, end_s=end_s)
    return Clip(index=index, data=b"x", container="mp4", utterances=(own,), start_s=start_s, end_s=end_s)


def utterances(planned):
    """Those that can be known by now."""
    found = []
    for each in planned.utterances():
        if each is None:
            break
        found.append(each)
    return found


def test_what_was_not_understood_is_said_once_and_stays_without_words(astronaut):
    planned = Plan(outline(astronaut, None, UtteranceRule(), SpeechRule()))
    withheld = [
        Withheld(start_s=a, end_s=a + 2, reason=f"not understood (mean word probability 0.{a}): language other than en")
        for a in (1, 4)
    ]
    planned.recognition.add_answer(
        clip(0, 0.0, 12.0), answer(speech_s=((1.0, 3.0), (4.0, 6.0)), withheld=tuple(withheld))
    )
    found = utterances(planned)
    assert planned.is_complete
    assert planned.utterance_source.kind == "speech"
    assert "none of its words was understood by the model tiny.en" in planned.utterance_source.reason
    assert not any(each.text for each in found)
    assert any(each.speech_share == 1 for each in found)
    (note,) = [each for each in planned.notes if "without words" in each]
    assert note.startswith("[1.00, 6.00) s: speech without words: not understood")


@pytest.mark.parametrize(("understood_s", "kept"), [(2.0, ""), (6.0, "by chance")])
def test_a_few_words_among_many_that_were_not_understood_are_left_out(understood_s, kept):
    recognition = Recognition(source(duration_s=15.0), SpeechRule())
    end_s = 10 - understood_s
    recognition.add_answer(
        clip(0, 0, 15),
        answer(
            words=words((end_s + 0.1, "by"), (end_s + 0.5, "chance")),
            speech_s=((0.0, 10.0),),
            withheld=(Withheld(start_s=0.0, end_s=end_s, reason="not understood"),),
        ),
    )
    assert " ".join(word.text for each in recognition.news() for word in each.words) == kept
    assert recognition.is_over
    assert any("the 2 words of the rest" in each for each in recognition.hearing().notes) == (not kept)


def test_what_was_understood_before_speaks_for_words_after_it():
    """The share is that of the film so far: noise after speech takes no words away, nor does speech after noise stay without."""
    noise = Withheld(start_s=21.0, end_s=29.0, reason="not understood")
    parts = [
        Stretch(start_s=0, end_s=20, words=words((1, "clear"), (4, "speech")), speech_s=((0.5, 10.0),)),
        Stretch(start_s=20, end_s=40, words=words((30, "still")), speech_s=((21, 31),), withheld=(noise,)),
        Stretch(start_s=40, end_s=60, words=words((41, "here")), speech_s=((41, 51),)),
    ]
    assert said_step_by_step(parts) == [["clear", "speech"], ["still"], ["here"]]
    assert said_step_by_step(parts[1:]) == [[], ["here"]]


def said_step_by_step(parts):
    joining = Joining(0.0)
    following = [*(each.start_s for each in parts[1:]), None]
    heard = [
        joining.add(each, start_s=each.start_s, end_s=each.end_s, next_s=next_s)
        for each, next_s in zip(parts, following, strict=True)
    ]
    return [[word.text for word in each.words] for each in heard]


def test_a_server_without_the_packages_gives_windows_with_the_reason(astronaut):
    planned = Plan(outline(astronaut, None, UtteranceRule(), SpeechRule(stretch_s=5, overlap_s=1)))
    first = planned.recognition.next_clip()
    assert utterances(planned) == []
    planned.recognition.add_answer(first, answer(missing="the package faster_whisper is not installed"))
    assert planned.recognition.next_clip() is None  # no more is asked
    found = utterances(planned)
    assert planned.utterance_source.kind == "windows"
    assert planned.utterance_source.reason.endswith("the package faster_whisper is not installed")
    assert [(each.start_s, each.speech_share) for each in found] == [(0, None), (5, None), (10, None)]


def test_a_server_that_loses_its_packages_leaves_the_rest_without_words(astronaut):
    planned = Plan(outline(astronaut, None, UtteranceRule(), SpeechRule(stretch_s=5, overlap_s=1)))
    clips = [planned.recognition.next_clip() for _ in range(2)]
    planned.recognition.add_answer(clips[0], answer(words=words((1, "Hello.")), speech_s=((1.0, 1.3),)))
    planned.recognition.add_answer(clips[1], answer(missing="gone"))
    found = utterances(planned)
    assert planned.is_complete
    assert planned.utterance_source.kind == "speech"
    assert [each.text for each in found if each.text] == ["Hello."]
    assert "[4.00, 12.00) s: no words, recognition failed: gone" in planned.notes
    assert [each.speech_share is None for each in found] == [each.end_s > 5 for each in found]


def test_answers_may_come_in_any_order_and_a_stretch_without_sound_is_silent():
    recognition = Recognition(source(duration_s=100.0), SpeechRule(stretch_s=30, first_stretch_s=30))
    assert recognition._spans_s == [(0, 30), (25, 55), (50, 80), (75, 100)]
    recognition.add_answer(clip(2, 50, 80), answer(words=words((60, "later"))))
    recognition.add_answer(clip(1, 25, 55), answer(words=words((40, "sooner"))))
    assert recognition.news() == []
    recognition.add_answer(clip(0, 0, 30), answer(words=words((3, "first"))))
    assert [word.text for each in recognition.news() for word in each.words] == ["first", "sooner", "later"]
    recognition._clips = iter(())  # cutting found no sound beyond
    assert recognition.next_clip() is None
    assert recognition.is_over
    assert recognition.hearing().missing == ""


def test_stretches_hold_sound_alone(astronaut, tmp_path):
    recognition = Recognition(probe(astronaut), SpeechRule(stretch_s=5, overlap_s=1))
    clips = list(iter(recognition.next_clip, None))
    assert [(each.start_s, each.end_s) for each in clips] == [(0, 5), (4, 9), (8, 12)]
    for number, each in enumerate(clips):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(each.data)
        info = probe(path)
        assert info.video is None
        assert info.start_s <= each.start_s + 0.05
        assert info.end_s >= each.end_s - 0.05


def test_a_failed_stretch_is_noted_and_all_failed_is_a_reason():
    recognition = Recognition(source(duration_s=100.0), SpeechRule(first_stretch_s=60.0))
    recognition.add_failure(clip(0, 0, 60), ClipRejected("h:1", "no"))
    assert "could not be recognised: h:1: no" in recognition.hearing().missing
    recognition.add_answer(clip(1, 55, 100), answer(words=words((70, "here"))))
    hearing = recognition.hearing()
    assert [word.text for each in recognition.news() for word in each.words] == ["here"]
    assert "[0.00, 60.00) s: no words, recognition failed" in hearing.notes[0]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"stretch_s": 5, "overlap_s": 5}, "overlap_s=5 s and stretch_s=5 s"),
        ({"stretch_s": 200}, "stretch_s=200"),
        ({"overlap_s": -1}, "overlap_s=-1"),
        ({"first_stretch_s": 5}, "first_stretch_s=5 s must be above overlap_s=5 s"),
        ({"language": "english"}, "language='english' must be a code"),
    ],
)
def test_rules_are_checked(wrong, match):
    with pytest.raises(UsageError, match=match):
        SpeechRule(**wrong)
