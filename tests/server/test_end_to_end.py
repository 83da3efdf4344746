"""Real films through a real Triton: what comes out, and that it is what the model says in one process."""

import asyncio
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

import fv2es
from fv2es import AsyncClient, Client, ClientRule, ClipRule, EmbeddedServer, LostUtterance, SpeechRule, TrackRule
from fv2es.errors import ClipRejected
from fv2es.scoring import Scoring
from fv2es.wire import CHANNEL_ARGUMENTS, decode_response, encode_request, infer_inputs
from nasty_media import with_exact_sound

pytestmark = pytest.mark.server

LABELS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")


@pytest.fixture
def client(server: EmbeddedServer):
    with Client(server.address) as each:
        yield each


def test_film_with_transcript(client: Client, astronaut: Path, astronaut_srt: Path):
    progress = []
    result = client.analyze(astronaut, transcript=astronaut_srt, on_progress=progress.append)
    assert [(each.start_s, each.end_s) for each in result.utterances] == [(0.3, 4.6), (5.0, 8.4), (8.7, 11.9)]
    assert [each.text.split()[0] for each in result.utterances] == ["I", "The", "Still,"]
    for utterance in result.utterances:
        assert tuple(utterance.probabilities) == LABELS
        assert all(0 < each < 1 for each in utterance.probabilities.values())
        assert utterance.modalities["text"].present
        assert utterance.modalities["acoustic"].present
        assert [frame.time_s for frame in utterance.frames] == pytest.approx(
            np.arange(utterance.start_s, utterance.end_s, 0.5), abs=1 / 25
        )
    first, second, third = result.utterances
    assert first.num_faces == len(first.frames) == 9  # the face is there all the time
    assert second.num_faces == 0  # the camera is on the suit
    assert not second.modalities["visual"].present
    assert second.modalities["visual"].logits is None
    assert third.num_faces == len(third.frames) == 7
    assert not result.lost
    assert result.model.trained
    assert result.model.unknown == {"acoustic": ("surprise",), "text": (), "visual": ()}
    assert "surprise" not in first.modalities["acoustic"].logits
    assert tuple(first.modalities["visual"].logits) == LABELS
    assert (first.top_label, second.top_label) == ("happiness", "anger")
    assert first.is_clear
    assert result.model.labels == LABELS
    assert result.overall_unweighted == pytest.approx(
        {label: np.mean([each.probabilities[label] for each in result.utterances]) for label in LABELS}
    )
    lengths_s = [each.end_s - each.start_s for each in result.utterances]
    assert result.overall == pytest.approx(
        {
            label: np.average([each.probabilities[label] for each in result.utterances], weights=lengths_s)
            for label in LABELS
        }
    )
    assert result.utterance_source.kind == "transcript"
    assert str(astronaut_srt) in result.utterance_source.reason
    for utterance in result.utterances:
        for label, logit in utterance.logits.items():
            added = [own[label] for own in utterance.contributions.values() if label in own]
            assert sum(added) == pytest.approx(logit, abs=1e-4), "the manifest's weights are those of the fusion"
    assert progress[-1].done == progress[-1].total == 3
    value = json.loads(json.dumps(result.to_dict()))
    assert value["schema_version"] == 1
    assert value["utterances"][1]["faces"] == second.num_faces
    assert value["utterances"][1]["frames"][-1].keys() == {"time_s", "box_px", "score"}


@pytest.mark.parametrize(("exact_sound", "atol"), [(True, 1e-5), (False, 1e-3)], ids=["FLAC", "AAC"])
def test_cutting_changes_nothing(
    server: EmbeddedServer, astronaut: Path, tmp_path: Path, exact_sound: bool, atol: float
):
    """One request or many: the same answers, in the same order. AAC's noise substitution decodes to other noise after a cut."""
    film = with_exact_sound(tmp_path / "film.mkv", astronaut) if exact_sound else astronaut
    windows = SpeechRule(recognise=False)
    with Client(server.address, speech_rule=windows) as other:
        whole = other.analyze(film)
    small = ClipRule(target_length_s=1.0)
    with Client(server.address, clip_rule=small, rule=ClientRule(max_in_flight=3), speech_rule=windows) as other:
        streamed = list(other.stream(film))
    assert len(whole.utterances) == len(streamed) == 3
    for one, two in zip(whole.utterances, streamed, strict=True):
        assert (one.start_s, one.end_s) == (two.start_s, two.end_s)
        assert one.frames == two.frames
        assert two.probabilities == pytest.approx(one.probabilities, abs=atol)


def test_async_client_says_the_same(server: EmbeddedServer, client: Client, astronaut: Path, astronaut_srt: Path):
    async def both() -> list[fv2es.Result]:
        async with AsyncClient(server.address) as each:
            return await asyncio.gather(*(each.analyze(astronaut, transcript=astronaut_srt) for _ in range(2)))

    expected = client.analyze(astronaut, transcript=astronaut_srt)
    for result in asyncio.run(both()):
        assert result.model == expected.model
        assert [each.frames for each in result.utterances] == [each.frames for each in expected.utterances]
        for one, two in zip(result.utterances, expected.utterances, strict=True):
            assert one.probabilities == pytest.approx(two.probabilities, abs=1e-5)


def test_async_stream_can_be_left(server: EmbeddedServer, astronaut: Path):
    async def first() -> fv2es.UtteranceResult:
        async with AsyncClient(server.address, clip_rule=ClipRule(target_length_s=1.0)) as each:
            stream = each.stream(astronaut)
            utterance = await anext(stream)
            await stream.aclose()
            return utterance

    assert asyncio.run(first()).start_s == 0


def test_model_named_once(client: Client, repository: Path):
    manifest = json.loads((repository / "manifest" / "1" / "manifest.json").read_text())
    model = client.model()
    assert model.sha256 == manifest["sha256"]
    assert model.server_version.startswith("2.51")


def test_bytes_that_are_no_media_fail_alone(client: Client, server: EmbeddedServer, astronaut: Path):
    rubbish = infer_inputs(encode_request(bytes(range(256)) * 40, [(0.0, 1.0)], [""]))
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        client._transport.triton.infer("emotion", rubbish, client_timeout=20)
    assert client.analyze(astronaut).utterances


def test_refused_clips_leave_others_alone(server: EmbeddedServer, astronaut: Path):
    """Within seconds of this, a Triton of 2.51 mixes requests up, crashes or hangs where a step fails while others run."""
    good = infer_inputs(encode_request(astronaut.read_bytes(), [(0.0, 1.0), (4.0, 6.0)], ["I am so happy.", ""]))
    refused = infer_inputs(encode_request(b"x" * 1000, [(0.0, 1.0)], ["Good morning."]))

    def ask(number: int) -> np.ndarray:
        with grpcclient.InferenceServerClient(server.address, channel_args=CHANNEL_ARGUMENTS) as triton:
            answers = []
            for turn in range(15):
                try:
                    answer = triton.infer("emotion", good if (turn + number) % 2 else refused, client_timeout=60)
                    answers.append(answer.as_numpy("LOGITS"))
                except grpcclient.InferenceServerException as error:
                    assert error.status() == "StatusCode.INVALID_ARGUMENT"  # noqa: PT017
            return np.stack(answers)

    restarts = server.restarts
    with ThreadPoolExecutor(4) as pool:
        logits = np.concatenate(list(pool.map(ask, range(4))))
    assert len(logits) == 30
    np.testing.assert_allclose(logits, np.broadcast_to(logits[0], logits.shape), atol=1e-3)
    assert server.restarts == restarts


def test_rejected_clip_is_lost_and_named(server: EmbeddedServer, astronaut: Path, monkeypatch: pytest.MonkeyPatch):
    """One bad clip of several: the others are scored, this one is named."""
    with Client(
        server.address, clip_rule=ClipRule(target_length_s=1.0), speech_rule=SpeechRule(recognise=False)
    ) as client:
        encode = Scoring.encode

        def spoil_second(lane, clip):
            return encode(lane, dataclasses.replace(clip, data=b"x" * 1000) if clip.index == 1 else clip)

        monkeypatch.setattr(Scoring, "encode", spoil_second)
        result = client.analyze(astronaut)
    assert [each.start_s for each in result.utterances] == [0, 10]
    (lost,) = result.lost
    assert isinstance(lost, LostUtterance)
    assert (lost.start_s, lost.end_s, lost.error) == (5, 10, ClipRejected.__name__)


def test_plain_call_answers_each_utterance(client: Client, astronaut: Path):
    spans = [(0.0, 5.0), (5.5, 8.0), (2.0, 2.02)]
    inputs = infer_inputs(encode_request(astronaut.read_bytes(), spans, ["I am so happy.", "", "ü"]))
    answer = decode_response(
        client._transport.triton.infer("emotion", inputs, client_timeout=60), address=client.address
    )
    assert answer.probabilities.shape == (3, len(LABELS))
    assert answer.present.tolist() == [[True, True, True], [False, False, True], [True, True, True]]
    assert (answer.modality_logits[1, 0] == 0).all()
    assert answer.num_video_errors == answer.num_audio_errors == 0


def test_finer_track_from_the_same_features(server: EmbeddedServer, astronaut: Path, astronaut_srt: Path):
    """A window as long as its utterance says what the utterance says; no picture is looked at again."""

    def counts() -> list[int]:
        statistics = [
            plain._transport.triton.get_inference_statistics(name) for name in ("faces", "visual", "acoustic", "text")
        ]
        return [each.model_stats[0].inference_count for each in statistics]

    with (
        Client(server.address, track_rule=TrackRule(step_s=1.0, window_s=10.0)) as tracking,
        Client(server.address) as plain,
    ):
        before = counts()
        expected = plain.analyze(astronaut, transcript=astronaut_srt)
        between = counts()
        found = tracking.analyze(astronaut, transcript=astronaut_srt)
        after = counts()
    assert np.subtract(after, between).tolist() == np.subtract(between, before).tolist()
    assert [len(each.track) for each in found.utterances] == [4, 3, 3]
    assert not any(each.track for each in expected.utterances)
    for ours, theirs in zip(found.utterances, expected.utterances, strict=True):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-3)
        whole, *parts = ours.track
        assert (whole.start_s, whole.end_s) == (ours.start_s, ours.end_s)
        assert whole.probabilities == pytest.approx(ours.probabilities, abs=1e-5)
        assert parts[-1].probabilities != pytest.approx(ours.probabilities, abs=1e-3)
        assert all(each.end_s == ours.end_s for each in parts)

    async def asynchronous():
        rule = TrackRule(step_s=1.0, window_s=10.0)
        async with AsyncClient(server.address, track_rule=rule) as client:
            return await client.analyze(astronaut, transcript=astronaut_srt)

    for ours, theirs in zip(asyncio.run(asynchronous()).utterances, found.utterances, strict=True):
        for one, other in zip(ours.track, theirs.track, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-3)
