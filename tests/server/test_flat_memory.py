"""Key pictures that lie far apart, damage in the middle, large clips: what a real server says, and what it keeps."""

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import tritonclient.grpc as triton

from fv2es import Client, ClipRule, EmbeddedServer, SpeechRule, UtteranceResult, UtteranceRule
from fv2es.embedded import SHARED_MEMORY_BYTES, SHARED_MEMORY_GROWTH_BYTES
from fv2es.errors import EmbeddedServerError
from fv2es.wire import CHANNEL_ARGUMENTS, encode_request, infer_inputs

pytestmark = pytest.mark.server

SETTINGS = {"utterance_rule": UtteranceRule(window_s=3.0), "speech_rule": SpeechRule(recognise=False)}


@pytest.fixture(scope="module")
def one_key(astronaut: Path, tmp_path_factory) -> Path:
    """The astronaut's film, encoded again so that its first picture alone is a key picture; its sound copied."""
    path = tmp_path_factory.mktemp("one key") / "film.mp4"
    with av.open(astronaut) as read, av.open(path, "w") as written:
        pictures, sound = read.streams.video[0], read.streams.audio[0]
        options = {"preset": "veryfast", "x264-params": "keyint=infinite:scenecut=0:bframes=3"}
        encoder = written.add_stream("libx264", rate=pictures.average_rate, options=options)
        encoder.width, encoder.height, encoder.pix_fmt = pictures.width, pictures.height, "yuv420p"
        copied = written.add_stream_from_template(sound)
        for packet in read.demux(pictures, sound):
            if packet.stream is sound:
                if packet.size:
                    packet.stream = copied
                    written.mux(packet)
            else:
                for frame in packet.decode():
                    frame.pict_type = 0
                    written.mux(encoder.encode(frame))
        written.mux(encoder.encode(None))
    return path


def test_a_film_of_one_key_picture_has_the_same_numbers_decoded_and_copied(server: EmbeddedServer, one_key: Path):
    with Client(server.address, **SETTINGS) as client:
        copied = client.analyze(one_key)
    short = ClipRule(target_length_s=3.0, first_length_s=3.0, max_length_s=3.0, max_lead_s=2.0)
    with Client(server.address, clip_rule=short, **SETTINGS) as client:
        decoded = client.analyze(one_key)
    assert any("decoded here" in note for note in decoded.notes)
    assert not any("decoded here" in note for note in copied.notes)
    assert not copied.lost
    assert not decoded.lost
    for one, other in zip(copied.utterances, decoded.utterances, strict=True):
        assert [each.box_px for each in one.frames] == [each.box_px for each in other.frames]
        assert [each.time_s for each in other.frames] == pytest.approx([each.time_s for each in one.frames], abs=1e-3)
        assert other.modalities["visual"] == one.modalities["visual"]
        # Their sound begins elsewhere, and AAC fills bands with noise that depends on where decoding began: 1.4e-3 was measured.
        assert list(other.probabilities.values()) == pytest.approx(list(one.probabilities.values()), abs=5e-3)
    assert any(each.box_px for one in decoded.utterances for each in one.frames)


def test_damage_in_the_middle_is_named_and_costs_nothing_else(server: EmbeddedServer, astronaut: Path, tmp_path: Path):
    data = bytearray(astronaut.read_bytes())
    first = len(data) // 4
    data[first : first + 80_000] = np.random.default_rng(2).integers(0, 256, 80_000, dtype=np.uint8).tobytes()
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    rule = ClipRule(target_length_s=2.0, first_length_s=2.0)
    windows = {**SETTINGS, "utterance_rule": UtteranceRule(window_s=1.0)}
    with Client(server.address, clip_rule=rule, **windows) as client:
        whole, damaged = client.analyze(astronaut), client.analyze(path)
    changed = [
        one.start_s
        for one, other in zip(whole.utterances, damaged.utterances, strict=True)
        if one.probabilities != other.probabilities
    ]
    assert changed
    assert len(changed) < len(whole.utterances) - 2
    assert max(changed) - min(changed) == pytest.approx(len(changed) - 1), "one stretch"
    named = [note for note in damaged.notes if "damaged" in note]
    assert named
    assert not [note for note in whole.notes if "damaged" in note]


def test_shared_memory_is_said_and_bounded_by_the_largest_clip(repository: Path, astronaut: Path):
    """Bytes behind the last atom of an MP4 are no media and cost a server nothing but their room."""
    clip_bytes = 20_000_000
    with EmbeddedServer(repository) as server:
        before = server.shared_memory_bytes
        assert before >= 9 * SHARED_MEMORY_BYTES
        data = np.concatenate([np.fromfile(astronaut, np.uint8), np.zeros(clip_bytes, np.uint8)])
        _ask(server.address, data)
        after = server.shared_memory_bytes
        for _ in range(4):
            _ask(server.address, data)
        assert after > before
        assert server.shared_memory_bytes <= before + 3 * 2 * (
            clip_bytes + SHARED_MEMORY_GROWTH_BYTES
        )  # two of faces, mel
    with pytest.raises(EmbeddedServerError, match="not running"):
        _ = server.shared_memory_bytes


def test_shared_memory_grows_once_with_clips_of_the_usual_size(repository: Path, astronaut: Path):
    """The clip at work, others that Triton holds still, and the gaps that different sizes leave: all of it in one step."""
    sizes = np.random.default_rng(0).integers(int(0.7 * ClipRule().target_bytes), ClipRule().target_bytes, 200)
    film = np.fromfile(astronaut, np.uint8)
    clips = [np.concatenate([film, np.zeros(size - len(film), np.uint8)]) for size in sizes]
    with EmbeddedServer(repository) as server, ThreadPoolExecutor(4) as clients:
        before = server.shared_memory_bytes
        list(clients.map(lambda clip: _ask(server.address, clip), clips))
        assert server.shared_memory_bytes == before + 3 * SHARED_MEMORY_GROWTH_BYTES  # two of faces, mel


def test_utterances_that_were_streamed_are_let_go(server: EmbeddedServer, astronaut: Path):
    rule = ClipRule(target_length_s=2.0, first_length_s=2.0)
    gc.collect()
    before = _num_results()
    most = given = 0
    with Client(
        server.address, clip_rule=rule, **{**SETTINGS, "utterance_rule": UtteranceRule(window_s=1.0)}
    ) as client:
        for _ in client.stream(astronaut):
            given += 1
            most = max(most, _num_results())
    assert given > 10
    assert most <= before + 4, "those of one clip, and the one before"


def _num_results() -> int:
    """How many this process holds, those of other tests with them."""
    return sum(type(each) is UtteranceResult for each in gc.get_objects())


def _ask(address: str, data) -> None:
    client = triton.InferenceServerClient(address, channel_args=CHANNEL_ARGUMENTS)
    client.infer("emotion", infer_inputs(encode_request(data.tobytes(), [(0.0, 1.0)], [""])))
    client.close()
