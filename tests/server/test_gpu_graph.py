"""The `gpu` profile's ensemble, executed on the CPU, says what the `cpu` profile says: step by step here, and served by a real Triton.

Backends that are not here have stand-ins: DALI's graphs run on the CPU, ONNX files in place of the plans that are made of them.
"""

from pathlib import Path

import numpy as np
import pytest

import gpu_profile
import nasty_media
from fv2es import Client, EmbeddedServer, SpeechRule
from fv2es_pipelines.boxes import overlaps
from fv2es_pipelines.errors import Refused

SPANS_S = [(0.0, 2.5), (2.0, 4.0), (4.0, 6.0), (20.0, 22.0)]
WORDS = ["What a fine day.", "", "Where did he go?", "Nobody is here."]
PROBABILITY_ATOL = 5e-3
"""From docs/parity.md, `pictures by DALI and by FFmpeg`: a box may be found one or two pixels aside."""
LEAST_IOU = 0.9

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def on_cpu(repository: Path):
    return gpu_profile.Ensemble("cpu", repository)


@pytest.fixture(scope="module")
def on_gpu(repository: Path):
    return gpu_profile.Ensemble("gpu", repository)


@pytest.mark.parametrize("codec", ["libvpx-vp9", "mjpeg"])
def test_the_same_answer(codec: str, on_cpu, on_gpu, astronaut: Path, tmp_path: Path):
    inputs = gpu_profile.request(gpu_profile.recoded(astronaut, tmp_path / "film.mkv", codec=codec), SPANS_S, WORDS)
    expected, found = on_cpu(**inputs), on_gpu(**inputs)
    for name in ("FRAME_TIMES", "FRAME_UTTERANCE", "FACE_INDEX", "FACE_MASK", "PIECES", "PIECE_MASK", "PRESENT"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    seen = expected["FRAME_SCORES"] > 0
    assert seen.sum() == 10
    assert (~seen).any()
    np.testing.assert_array_equal(found["FRAME_SCORES"] > 0, seen)
    boxes = (found["FRAME_BOXES"][seen].astype(float), expected["FRAME_BOXES"][seen].astype(float))
    assert np.diag(overlaps(*boxes)).min() >= LEAST_IOU
    assert np.abs(found["PROBABILITIES"] - expected["PROBABILITIES"]).max() <= PROBABILITY_ATOL
    assert np.ptp(expected["PROBABILITIES"]) > 10 * PROBABILITY_ATOL  # a constant would agree with anything
    assert found["FALLBACK_FRAMES"].tolist() == expected["FALLBACK_FRAMES"].tolist() == [0]


def test_what_the_decoder_lacks_is_the_same_and_counted(on_cpu, on_gpu, astronaut: Path):
    inputs = gpu_profile.request(astronaut, SPANS_S, WORDS)  # DALI does not decode H.264 on the CPU
    expected, found = on_cpu(**inputs), on_gpu(**inputs)
    np.testing.assert_array_equal(found["FACES"], expected["FACES"])
    np.testing.assert_allclose(found["PROBABILITIES"], expected["PROBABILITIES"], atol=1e-6)
    assert found["FALLBACK_FRAMES"].tolist() == [len(found["FRAME_TIMES"])]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (nasty_media.sound_only, "sound.mp4"),
        (nasty_media.pictures_only, "pictures.mkv"),
        (nasty_media.cover_art, "cover.mp4"),
        (nasty_media.rotated, "rotated.mp4"),
        (nasty_media.odd_size, "odd.webm"),
        (nasty_media.jump_back, "back.ts"),
        (nasty_media.damaged_middle, "damaged.mp4"),
    ],
)
def test_odd_films_give_the_same_answer(make, name: str, on_cpu, on_gpu, tmp_path: Path):
    inputs = gpu_profile.request(make(tmp_path / name), [(0.0, 2.0), (4.0, 6.0), (99.0, 100.0)])
    expected, found = on_cpu(**inputs), on_gpu(**inputs)
    for output in ("FRAME_TIMES", "FRAME_UTTERANCE", "VIDEO_ERRORS", "AUDIO_ERRORS", "PRESENT"):
        np.testing.assert_array_equal(found[output], expected[output], err_msg=output)
    np.testing.assert_allclose(found["PROBABILITIES"], expected["PROBABILITIES"], atol=PROBABILITY_ATOL)


def spoilt(inputs: dict[str, np.ndarray], **other) -> dict[str, np.ndarray]:
    return inputs | {name: np.array(value, inputs[name].dtype) for name, value in other.items()}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda inputs: spoilt(inputs, CLIP=[120] * 1000), "1000 bytes are no readable media"),
        (lambda inputs: spoilt(inputs, UTTERANCES=[(2.0, 1.0)], WORDS=[b""]), r"utterance 0: \[2, 1\) s"),
        (lambda inputs: spoilt(inputs, UTTERANCES=[(0.0, 1.0)] * 600, WORDS=[b""] * 600), "max_utterances: 600"),
        (lambda inputs: spoilt(inputs, UTTERANCES=[(0.0, 12.0)] * 40, WORDS=[b""] * 40), r"rows of [A-Z]+: 12\d0"),
        (
            lambda inputs: spoilt(inputs, UTTERANCES=[(0.0, 1.0)], WORDS=[b""] * 3),
            "3 entries of words for 1 utterances",
        ),
        (lambda inputs: spoilt(inputs, UTTERANCES=[(0.0, 1.0)], WORDS=[]), "0 entries of words"),
        (lambda inputs: spoilt(inputs, UTTERANCES=[(0.0, 1.0)], WORDS=[b"\xff"]), "utterance 0: .* UTF-8"),
    ],
    ids=["no media", "backwards", "too many", "too much sound", "words left over", "no words", "no UTF-8"],
)
@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_what_can_not_be_used_is_refused_by_the_last_step(
    profile: str, spoil, message: str, on_cpu, on_gpu, astronaut: Path
):
    """All steps before it give outputs of the declared form, in numbers of rows that agree."""
    with pytest.raises(Refused, match=message) as caught:
        {"cpu": on_cpu, "gpu": on_gpu}[profile](**spoil(gpu_profile.request(astronaut, [(0.0, 1.0)])))
    assert caught.value.code == "INVALID_ARG"


def test_triton_takes_the_graph(server: EmbeddedServer, repository: Path, astronaut: Path, tmp_path: Path):
    """With and without a batch dimension, from one model to the next, as Triton itself sees it."""
    film = gpu_profile.recoded(astronaut, tmp_path / "film.mkv", codec="mjpeg")
    folder = gpu_profile.stand_in_repository(tmp_path / "repository", repository)
    windows = SpeechRule(recognise=False)
    with Client(server.address, speech_rule=windows) as client:
        expected = client.analyze(film)
    with EmbeddedServer(folder) as other, Client(other.address, speech_rule=windows) as client:
        found = client.analyze(film)
        fallen_back = client.analyze(astronaut)
        with Client(other.address) as listening:
            unheard = listening.analyze(film)
    assert not found.lost
    assert not found.notes
    for ours, theirs in zip(found.utterances, expected.utterances, strict=True):
        assert [frame.time_s for frame in ours.frames] == [frame.time_s for frame in theirs.frames]
        assert ours.num_faces == theirs.num_faces
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=PROBABILITY_ATOL)
    assert found.utterances[0].num_faces > 0
    assert (
        "can't be loaded on cuda" in unheard.utterance_source.reason
    )  # no GPU here, and no silent step down to the CPU
    assert any("decoded on the CPU" in note for note in fallen_back.notes)
