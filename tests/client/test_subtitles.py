"""Subtitles inside real containers."""

import pytest

from fv2es.planning import Plan, outline
from fv2es.source import probe
from fv2es.speech import SpeechRule
from fv2es.subtitles import read_subtitles
from fv2es.utterances import UtteranceRule
from subtitled import FORMS, TEXTS, subtitled, with_mov_text


@pytest.mark.parametrize("form", [*FORMS, "mov_text"])
def test_words_and_times(astronaut, tmp_path, form):
    if form == "mov_text":
        film = with_mov_text(astronaut, tmp_path / "film.mp4")
    else:
        film = subtitled(astronaut, tmp_path / "film.mkv", [(form, FORMS[form])])
    info = probe(film)
    subtitles = read_subtitles(info)
    assert [each.text for each in subtitles.cues] == TEXTS
    spans = [time for each in subtitles.cues for time in (each.start_s, each.end_s)]
    # Muxing may move all streams alike; the film's own start moves with them.
    assert [each - info.start_s for each in spans] == pytest.approx([0.3, 4.6, 5.0, 8.4], abs=0.07)
    assert subtitles.notes == ()


def test_the_wanted_language_is_taken(astronaut, tmp_path):
    german = "1\n00:00:01,000 --> 00:00:02,000\nGrüße.\n"
    film = subtitled(astronaut, tmp_path / "film.mkv", [("srt", FORMS["srt"]), ("srt", german)], ("eng", "ger"))
    info = probe(film)
    for code in ("de", "ger"):
        assert [each.text for each in read_subtitles(info, code).cues] == ["Grüße."]
    first = read_subtitles(info)
    assert [each.text for each in first.cues] == TEXTS
    assert "of 2 subtitle streams" in first.notes[0]


def test_subtitles_for_foreign_lines_alone_are_no_transcript(astronaut, tmp_path):
    film = subtitled(astronaut, tmp_path / "film.mkv", [("srt", FORMS["srt"])], forced=True)
    subtitles = read_subtitles(probe(film))
    assert subtitles.cues == ()
    assert "1 subtitle streams for foreign lines alone" in subtitles.notes[0]


def test_a_film_with_subtitles_needs_no_recogniser(astronaut, tmp_path):
    film = subtitled(astronaut, tmp_path / "film.mkv", [("srt", FORMS["srt"])])
    outlined = outline(film, None, UtteranceRule(), SpeechRule())
    planned = Plan(outlined)
    assert planned.utterance_source.kind == "subtitles"
    assert "subtitle stream 2 (subrip" in planned.utterance_source.reason
    assert [each.text for each in planned.utterances() if each.text] == TEXTS
    assert outline(film, None, UtteranceRule(), SpeechRule(subtitles=False)).source is None


def test_unusable_subtitles_are_named_and_passed_over(astronaut, tmp_path):
    late = "1\n00:10:01,000 --> 00:10:02,000\nAfter the end.\n"
    film = subtitled(astronaut, tmp_path / "film.mkv", [("srt", late)])
    planned = Plan(outline(film, None, UtteranceRule(), SpeechRule(recognise=False)))
    assert planned.utterance_source.kind == "windows"
    assert "can't be used: " in planned.utterance_source.reason
    assert "speech recognition was not asked for" in planned.utterance_source.reason


def test_a_transcript_goes_before_subtitles(astronaut, astronaut_srt, tmp_path):
    film = subtitled(astronaut, tmp_path / "film.mkv", [("srt", FORMS["srt"])])
    planned = Plan(outline(film, astronaut_srt, UtteranceRule(), SpeechRule()))
    assert planned.utterance_source.kind == "transcript"
    assert str(astronaut_srt) in planned.utterance_source.reason


def test_overlapping_empty_and_backward_cues_are_stated(astronaut, tmp_path):
    odd = (
        "1\n00:00:05,000 --> 00:00:08,000\nLater.\n\n2\n00:00:01,000 --> 00:00:06,000\nOver.\n\n"
        "3\n00:00:09,000 --> 00:00:10,000\n<i></i>\n\n"
    )
    film = subtitled(astronaut, tmp_path / "film.mkv", [("srt", odd)])
    planned = Plan(outline(film, None, UtteranceRule(), SpeechRule()))
    assert sorted(each.text for each in planned.utterances() if each.text) == ["Later.", "Over."]
    text = "\n".join(planned.notes)
    assert "has no words: left out" in text
    assert "begin before the one before them ends" in text
