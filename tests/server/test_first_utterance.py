"""Recognition beside scoring, on a minute of real speech through a real Triton: what comes early is what the whole film comes to."""

import asyncio
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from fv2es import AsyncClient, Client, ClientRule, EmbeddedServer, SpeechRule
from fv2es.journal import Journal
from fv2es.result import Result
from fv2es.source import probe
from fv2es.speech import SPEECH_MODEL, Recognition, stretches_of
from listening import decoded, listen
from speech_sounds import sound

pytestmark = pytest.mark.server

RULE = SpeechRule(stretch_s=20, overlap_s=4)


@pytest.fixture(scope="module")
def film(shared_media: Path, astronaut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 s of sound: two speakers in turn."""
    parts = [decoded(shared_media / "WDA_KatieHill_000.mp4", 8.0), decoded(astronaut, 12.0)]
    return sound(tmp_path_factory.mktemp("film") / "film.wav", np.concatenate(parts * 3))


@pytest.fixture
def client(server: EmbeddedServer):
    with Client(server.address, speech_rule=RULE) as each:
        yield each


def num_recognised(client: Client) -> int:
    return client._transport.triton.get_inference_statistics(SPEECH_MODEL).model_stats[0].inference_count


def plain(result: Result) -> dict:
    value = json.loads(json.dumps(result.to_dict()))
    del value["timing"]
    return value


def test_early_utterances_are_those_of_the_whole_film(client: Client, film: Path):
    before, progress = num_recognised(client), []
    stream = client.stream(film, on_progress=progress.append)
    first = next(stream)
    assert num_recognised(client) == before + 1, "the first utterance waits for the first stretch alone"
    streamed = [first, *stream]
    assert num_recognised(client) == before + len(stretches_of(probe(film), RULE))
    whole = listen(client, film)
    assert [(each.start_s, each.end_s, each.text, each.speech_share) for each in streamed] == [
        (each.start_s, each.end_s, each.text, each.speech_share) for each in whole.utterances
    ]
    assert (progress[0].done, progress[0].heard_s, progress[0].total_s) == (0, 20, 60)
    assert progress[0].share > 0
    assert (progress[-1].done, progress[-1].heard_s, progress[-1].share) == (progress[-1].total, 60, 1)
    shares = [each.share for each in progress]
    assert shares == sorted(shares)

    result = client.analyze(film)
    assert list(result.utterances) == streamed
    assert (result.notes, result.utterance_source, result.lost) == (whole.notes, whole.source, ())
    assert 0 < result.timing.first_utterance_s < result.timing.wall_s

    async def asynchronous() -> Result:
        async with AsyncClient(client.address, speech_rule=RULE) as each:
            return await each.analyze(film)

    assert plain(asyncio.run(asynchronous())) == plain(result)


@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_few_requests_under_way_are_enough(server: EmbeddedServer, client: Client, film: Path, max_in_flight: int):
    rule = ClientRule(max_in_flight=max_in_flight)
    with Client(server.address, speech_rule=RULE, rule=rule) as other:
        assert plain(other.analyze(film)) == plain(client.analyze(film))


def test_a_half_heard_and_half_scored_film_goes_on(client: Client, film: Path, tmp_path: Path):
    """After each number of answers that a kill may leave."""
    made_by = {"model_sha256": client.model().sha256, "speech": client.speech_identity()}
    path = tmp_path / "whole.jsonl"
    with Journal(path, **made_by) as journal:
        expected = plain(client.analyze(film, journal=journal))
    lines = path.read_bytes().splitlines(keepends=True)
    models = [json.loads(each)["model"] for each in lines[1:]]
    assert "emotion" in models[: len(models) - 1 - models[::-1].index("speech")], (
        "clips are scored before all is recognised"
    )
    for kept in (2, len(models) // 2, len(models)):
        part = tmp_path / f"{kept}.jsonl"
        part.write_bytes(b"".join(lines[: kept + 1]))
        before = num_recognised(client)
        with Journal(part, **made_by) as journal:
            assert plain(client.analyze(film, journal=journal)) == expected
        assert num_recognised(client) - before == models[kept:].count("speech")


def test_a_stretch_that_fails_costs_its_words_alone(client: Client, film: Path, monkeypatch: pytest.MonkeyPatch):
    encode = Recognition.encode

    def spoil_third(lane, clip):
        return encode(lane, dataclasses.replace(clip, data=b"x" * 1000) if clip.index == 2 else clip)

    expected = client.analyze(film)
    monkeypatch.setattr(Recognition, "encode", spoil_third)
    result = client.analyze(film)
    start_s, end_s = stretches_of(probe(film), RULE)[2]
    assert not result.lost
    assert result.utterance_source.kind == "speech"
    assert any(f"[{start_s:.2f}, {end_s:.2f}) s: no words, recognition failed" in each for each in result.notes)
    for each in result.utterances:
        assert (each.speech_share is None) == (
            each.end_s > start_s + RULE.overlap_s and each.start_s < end_s - RULE.overlap_s
        )
    early = [each.text for each in expected.utterances if each.end_s < start_s]
    assert early
    assert [each.text for each in result.utterances][: len(early)] == early


def test_a_stream_can_be_left_while_sound_is_recognised(server: EmbeddedServer, client: Client, film: Path):
    restarts = server.restarts
    stream = client.stream(film)
    assert next(stream).index == 0
    stream.close()

    async def first() -> int:
        async with AsyncClient(server.address, speech_rule=RULE) as each:
            items = each.stream(film)
            item = await anext(items)
            await items.aclose()
            return item.index

    assert asyncio.run(first()) == 0
    assert server.restarts == restarts
