"""Words of real and made sounds, in this process: no word where none is said, none that was not understood."""

import json
import re
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from fv2es_pipelines.audio import read_sound
from fv2es_pipelines.clip import open_clip
from fv2es_pipelines.errors import InvalidUtterances, NotMedia
from fv2es_pipelines.specification import model
from fv2es_pipelines.speech import Recogniser, SpeechPipeline, SpeechSettings, doubt, grouped, settings_from
from speech_sounds import ASTRONAUT, KATIE_HILL, bare, word_errors, wordless

SETTINGS = settings_from(model("speech").parameters, {})


@pytest.fixture(scope="module")
def recogniser():
    return Recogniser(SETTINGS)


def wave_of(path, end_s):
    with open_clip(path.read_bytes()) as clip:
        (wave,) = read_sound(clip, np.array([[0.0, end_s]])).waves
    return wave


def test_katie_hill(recogniser, shared_media):
    heard = recogniser(wave_of(shared_media / "WDA_KatieHill_000.mp4", 8.0))
    said = bare(KATIE_HILL)
    assert len(said) == 28
    assert word_errors(said, bare(" ".join(each.text for each in heard.words))) <= 2
    assert heard.language == "en"
    assert not heard.withheld
    times = [time for each in heard.words for time in (each.start_s, each.end_s)]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= 8
    in_speech = [any(a <= each.start_s and each.end_s <= b for a, b in heard.speech_s) for each in heard.words]
    assert all(in_speech)


@pytest.mark.parametrize("name", list(wordless(0.5)))
def test_no_words_are_invented(recogniser, name):
    heard = recogniser(wordless()[name].astype(np.float32))
    assert heard.words == ()


def test_no_words_in_a_film_without_speech(recogniser, shared_media):
    for film, end_s in (("WolfgangLanger_Pexels.mp4", 19.6), ("no_face.mp4", 3.9), ("single_face.mp4", 2.4)):
        heard = recogniser(wave_of(shared_media / film, end_s))
        assert heard.words == ()
        assert heard.speech_s == ()


def test_german_is_said_not_to_be_understood(recogniser, shared_data):
    """Every seventh of EmoDB's sentences: of those in which words are left, there may be one in twenty (docs/decisions.md)."""
    files = sorted((shared_data / "emodb").glob("*.flac"))[::7]
    heard = [recogniser(wave_of(each, 2.0)) for each in files]
    assert len(heard) >= 50
    assert sum(bool(each.words) for each in heard) <= 3
    reasons = {part.reason for each in heard for part in each.withheld}
    assert any("a language other than en" in each for each in reasons)


def test_a_language_that_the_model_does_not_know_is_not_tried(recogniser, shared_media):
    heard = recogniser(wave_of(shared_media / "WDA_KatieHill_000.mp4", 8.0), "de")
    assert heard.words == ()
    assert {each.reason for each in heard.withheld} == {"the model tiny.en knows en, not de"}
    assert heard.speech_s


def test_times_of_made_speech(recogniser, astronaut):
    """espeak-ng begins to speak where the cues of astronaut.srt begin."""
    words = recogniser(wave_of(astronaut, 12.0)).words
    starts = [each for each, before in zip(words[1:], words, strict=False) if before.text.endswith(".")]
    assert [each.start_s for each in (words[0], *starts)] == pytest.approx([0.3, 5.0, 8.7], abs=0.35)


def test_long_sound_is_taken_in_windows(recogniser, shared_media, astronaut):
    katie, made = wave_of(shared_media / "WDA_KatieHill_000.mp4", 8.0), wave_of(astronaut, 12.0)
    heard = recogniser(np.concatenate([katie, made] * 3))
    said = (bare(KATIE_HILL) + bare(ASTRONAUT)) * 3
    assert word_errors(said, bare(" ".join(each.text for each in heard.words))) <= 9
    assert heard.words[-1].end_s == pytest.approx(2 * 20 + 18.9, abs=0.3)


def test_cost(recogniser, shared_media):
    """At most 0.2 s of two cores for a second of sound; processor time, so that a crowded machine does not matter."""
    wave = wave_of(shared_media / "WDA_KatieHill_000.mp4", 8.0)
    costs_s = []
    for _ in range(3):
        before_s = time.process_time()
        recogniser(wave)
        costs_s.append(time.process_time() - before_s)
    assert sorted(costs_s)[1] / 8 <= 2 * 0.2


def test_runs_of_speech_fit_a_window():
    spans = [(0.0, 10.0), (11.0, 20.0), (21.0, 29.0), (29.5, 40.0), (100.0, 127.0)]
    assert grouped(spans) == [[(0.0, 10.0), (11.0, 20.0)], [(21.0, 29.0), (29.5, 40.0)], [(100.0, 127.0)]]


@dataclass
class Part:
    avg_logprob: float = -0.2
    compression_ratio: float = 1.2
    tokens: tuple = (1, 2)
    words: list = field(default_factory=list)


@dataclass
class Said:
    probability: float


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (Part(words=[Said(0.9)]), ""),
        (Part(words=[]), "no words"),
        (Part(words=[Said(0.9)], compression_ratio=2.5), "repeat themselves"),
        (Part(words=[Said(0.9)], avg_logprob=-0.8), "not understood"),
        (
            Part(words=[Said(0.9), Said(0.2)]),
            "not understood (mean word probability 0.55): noise, or a language other than en",
        ),
    ],
)
def test_what_is_doubted(part, reason):
    assert reason in doubt([part], ["en"])
    assert bool(doubt([part], ["en"])) == bool(reason)


class TestPipeline:
    def test_times_are_on_the_clips_clock(self, astronaut):
        pipeline = SpeechPipeline(SETTINGS)
        whole = pipeline(astronaut.read_bytes(), [0.0, 12.0])
        part = pipeline(astronaut.read_bytes(), [4.5, 8.5])
        (at,) = [at for at, each in enumerate(whole["SPOKEN"]) if each == b"suit"]
        assert b"suit" in part["SPOKEN"].tolist()
        found = part["WORD_TIMES"][part["SPOKEN"].tolist().index(b"suit")]
        assert found == pytest.approx(whole["WORD_TIMES"][at], abs=0.2)

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            (SpeechSettings(model="package:no_such_package"), "no_such_package.*pip install 'fv2es\\[speech\\]'"),
            (SpeechSettings(model="package:json"), "package json holds no model/model.bin"),
            (SpeechSettings(model="/nowhere/at all"), "can't be loaded on cpu"),
            (SpeechSettings(model=SETTINGS.model, device="cuda", compute_type="float16"), "can't be loaded on cuda"),
        ],
    )
    def test_what_is_missing_is_answered(self, settings, match, astronaut, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        answer = SpeechPipeline(settings)(astronaut.read_bytes(), [0.0, 1.0])
        info = json.loads(answer["SPEECH_INFO"][0])
        assert not info["available"]
        assert re.search(match, info["reason"])
        assert answer["SPOKEN"].shape == (0,)
        assert answer["WORD_TIMES"].shape == answer["SPEECH"].shape == (0, 2)

    def test_without_the_packages(self, astronaut, monkeypatch):
        monkeypatch.setitem(sys.modules, "faster_whisper", None)
        info = json.loads(SpeechPipeline(SETTINGS)(astronaut.read_bytes(), [0.0, 1.0])["SPEECH_INFO"][0])
        assert "faster_whisper is not installed where the server runs" in info["reason"]

    def test_unusable_input(self, astronaut):
        pipeline = SpeechPipeline(SETTINGS)
        with pytest.raises(NotMedia):
            pipeline(b"no media", [0.0, 1.0])
        with pytest.raises(InvalidUtterances):
            pipeline(astronaut.read_bytes(), [1.0, 1.0])


def test_the_environment_goes_before_the_parameter():
    assert settings_from({"model": "a"}, {}).model == "a"
    assert settings_from({"model": "a", "device": "cuda"}, {"FV2ES_SPEECH_MODEL": "/b"}) == SpeechSettings(
        model="/b", device="cuda"
    )
