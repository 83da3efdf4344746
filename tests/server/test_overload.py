"""More clients than a server can serve, and clients that vanish: bounded memory, nothing lost or doubled, nothing held for the dead."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import tritonclient.grpc as triton

from benchmarks.processes import family, listener, memory
from fv2es import Client, ClientRule, ClipRule, EmbeddedServer, Result, SpeechRule, UtteranceRule
from fv2es.gate import usual_rule
from fv2es.headers import CLIENT_HEADER
from fv2es.wire import CHANNEL_ARGUMENTS, encode_request, infer_inputs

pytestmark = pytest.mark.server

NUM_CLIENTS = 100
SHORT_CLIPS = {  # two clips for each film
    "clip_rule": ClipRule(target_length_s=1.0),
    "utterance_rule": UtteranceRule(window_s=1.0),
    "speech_rule": SpeechRule(recognise=False),
}


@pytest.fixture(scope="module")
def running_server(repository: Path) -> Iterator[EmbeddedServer]:
    """Of these tests alone, so that nothing else is counted."""
    with EmbeddedServer(repository) as server:
        yield server


@pytest.fixture
def own_server(running_server: EmbeddedServer) -> Iterator[EmbeddedServer]:
    """A server that must not have crashed when a test is over; to start, a busy machine may have taken two tries."""
    before = running_server.restarts
    yield running_server
    assert running_server.restarts == before


@pytest.fixture(scope="module")
def heavy_film(tmp_path_factory: pytest.TempPathFactory, astronaut: Path) -> Path:
    """2 s of the astronaut as Motion JPEG with much grain: two clips of some 2 MB that cost little to decode."""
    path = tmp_path_factory.mktemp("overload") / "heavy.mkv"
    grain = np.random.default_rng(0).integers(-20, 20, (270, 480, 3), np.int16)
    with av.open(str(astronaut)) as read, av.open(str(path), "w") as written:
        sound = written.add_stream_from_template(read.streams.audio[0])
        pictures = written.add_stream("mjpeg", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 480, 270, "yuvj420p"
        pictures.options = {"qmin": "1", "qmax": "1"}
        for packet in read.demux(video=0, audio=0):
            if packet.dts is None or packet.pts * packet.time_base >= 2:
                continue
            if packet.stream.type == "audio":
                packet.stream = sound
                written.mux(packet)
                continue
            for frame in packet.decode():
                grainy = frame.to_ndarray(format="rgb24", width=480, height=270) + grain
                copy = av.VideoFrame.from_ndarray(grainy.clip(0, 255).astype(np.uint8), format="rgb24")
                copy.pts, copy.time_base = frame.pts, frame.time_base
                written.mux(pictures.encode(copy))
        written.mux(pictures.encode(None))
    assert path.stat().st_size > 3.5e6
    return path


def server_bytes(server: EmbeddedServer) -> int:
    """Memory of all processes of a server together."""
    return memory(family(listener(server.grpc_port))).total_bytes


def finished(server: EmbeddedServer) -> int:
    """Clips that the ensemble has answered."""
    with triton.InferenceServerClient(server.address, channel_args=CHANNEL_ARGUMENTS) as client:
        return (
            client.get_inference_statistics("emotion", client_timeout=10).model_stats[0].inference_stats.success.count
        )


def assert_same(one: Result, other: Result) -> None:
    """The same utterances, each once, with the same faces; numbers to what a net's other batch leaves: 1e-6 of a logit was seen."""
    for a, b in zip(one.utterances, other.utterances, strict=True):
        assert (a.index, a.start_s, a.end_s, a.frames) == (b.index, b.start_s, b.end_s, b.frames)
        assert list(a.logits) == list(b.logits)
        np.testing.assert_allclose(list(a.logits.values()), list(b.logits.values()), rtol=0, atol=1e-5)


def at_once(server: EmbeddedServer, call: Callable[[int], Result], num: int) -> tuple[list[Result], int]:
    """Results of a call made `num` times at once, and the most memory that the server had meanwhile."""
    over, peak_bytes = threading.Event(), [0]

    def watch() -> None:
        while not over.wait(0.2):
            peak_bytes[0] = max(peak_bytes[0], server_bytes(server))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(num) as pool:
            return list(pool.map(call, range(num))), peak_bytes[0]
    finally:
        over.set()
        watcher.join()


@pytest.mark.timeout(300)
def test_hundred_clients_at_once(own_server: EmbeddedServer, heavy_film: Path):
    with Client(own_server.address, **SHORT_CLIPS) as client:
        alone = client.analyze(heavy_film)
    assert len(alone.utterances) == 2
    refused = []

    def analysed(index: int):
        if index % 10 == 0:  # between them, some whose bytes are no media
            with triton.InferenceServerClient(own_server.address, channel_args=CHANNEL_ARGUMENTS) as raw:
                inputs = infer_inputs(encode_request(b"no media" * 100, [(0.0, 1.0)], [""]))
                with pytest.raises(triton.InferenceServerException) as caught:
                    raw.infer("emotion", inputs, client_timeout=200, headers={CLIENT_HEADER: f"stranger {index}"})
                refused.append(str(caught.value.status()))
        with Client(own_server.address, **SHORT_CLIPS) as client:
            return client.analyze(heavy_film)

    # As many as are served at once show what these clips need; all that came beyond would be what waits.
    _, usual_bytes = at_once(own_server, analysed, 2 * usual_rule().limit)
    results, peak_bytes = at_once(own_server, analysed, NUM_CLIENTS)
    for result in results:
        assert not result.lost
        assert_same(result, alone)
    assert set(refused) == {"StatusCode.INVALID_ARGUMENT"}
    assert peak_bytes - usual_bytes < 200e6  # 200 clips of 2 MB are 0.4 GB, and each is copied several times


def test_more_than_can_be_served_within_a_deadline_loses_nothing(own_server: EmbeddedServer, heavy_film: Path):
    with Client(own_server.address, **SHORT_CLIPS) as client:
        alone = client.analyze(heavy_film)
        began_s = time.monotonic()
        client.analyze(heavy_film)
        one_s = time.monotonic() - began_s
    before, num = finished(own_server), NUM_CLIENTS
    rule = ClientRule(request_timeout_s=max(6 * one_s, 1.5), max_late=2)

    def analysed(_: int) -> Result:
        with Client(own_server.address, rule=rule, **SHORT_CLIPS) as client:
            return client.analyze(heavy_film)

    with ThreadPoolExecutor(num) as pool:
        for result in pool.map(analysed, range(num)):
            assert not result.lost
            assert_same(result, alone)
    answered = finished(own_server) - before
    assert 2 * num <= answered <= 2 * num + 8, "what is not answered in time is not begun, but for a few"


def test_a_clip_that_takes_longer_than_its_deadline_ends_after_a_few_tries(own_server: EmbeddedServer, astronaut: Path):
    rules = SHORT_CLIPS | {"utterance_rule": UtteranceRule(window_s=10.0), "clip_rule": ClipRule(target_length_s=12.0)}
    with Client(own_server.address, **rules) as client:
        num_clips = -finished(own_server)
        assert not client.analyze(astronaut).lost
        num_clips += finished(own_server)
    before = finished(own_server)
    with Client(own_server.address, rule=ClientRule(request_timeout_s=0.05), **rules) as client:
        result = client.analyze(astronaut)
    assert [each.error for each in result.lost] == ["DeadlineExceeded"] * len(result.lost)
    assert len(result.lost) == 2
    assert all("no answer within 0.05 s; allow more time" in each.reason for each in result.lost)
    with Client(own_server.address, **rules) as client:
        assert not client.analyze(astronaut).lost  # behind what was begun
    probes = 2 * num_clips
    assert finished(own_server) - before <= 3 * num_clips + probes + num_clips


VANISHING = """
import sys
from fv2es import Client, ClientRule, ClipRule, SpeechRule, UtteranceRule
rules = dict(clip_rule=ClipRule(target_length_s=1.0), utterance_rule=UtteranceRule(window_s=1.0), speech_rule=SpeechRule(recognise=False))
with Client(sys.argv[1], **rules) as client:
    while True:
        for item in client.stream(sys.argv[2]):
            print(item.index, flush=True)
"""


def test_killed_clients_free_what_they_held(own_server: EmbeddedServer, heavy_film: Path):
    clients = [
        subprocess.Popen([sys.executable, "-c", VANISHING, own_server.address, str(heavy_film)], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    try:
        for each in clients:
            assert each.stdout.readline()
    finally:
        for each in clients:
            os.kill(each.pid, signal.SIGKILL)
        for each in clients:
            each.communicate()
    at_death = finished(own_server)
    with Client(own_server.address, **SHORT_CLIPS) as client:
        began_s = time.monotonic()
        result = client.analyze(heavy_film)  # behind what was under way, before all that they had waiting
        took_s = time.monotonic() - began_s
    assert not result.lost
    assert took_s < 20
    # Triton ends what it had begun, and begins nothing more for the dead.
    assert finished(own_server) - at_death <= usual_rule().limit + len(result.utterances)


def test_cancelled_calls_free_what_they_held(own_server: EmbeddedServer, astronaut: Path):
    with Client(own_server.address, **SHORT_CLIPS) as client:
        undisturbed = client.analyze(astronaut)
        for _ in range(5):
            stream = client.stream(astronaut)
            next(stream)
            stream.close()  # cancels what is on its way
        assert_same(client.analyze(astronaut), undisturbed)


def test_refusals_among_cancelled_and_good_clips(own_server: EmbeddedServer, astronaut: Path):
    """What Triton 2.51 does worst: requests that fail and requests that are cancelled, among others."""
    clip, stop_s = astronaut.read_bytes(), time.monotonic() + 10
    spans = [[(0.0, 1.0)], [(1.0, 2.0), (2.0, 3.0)], [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5)]]

    def logits(client: triton.InferenceServerClient, kind: int, data: bytes, timeout_s: float):
        inputs = infer_inputs(encode_request(data, spans[kind], ["word"] * len(spans[kind])))
        return client.infer("emotion", inputs, client_timeout=timeout_s).as_numpy("LOGITS")

    with triton.InferenceServerClient(own_server.address, channel_args=CHANNEL_ARGUMENTS) as client:
        expected = [logits(client, kind, clip, 60) for kind in range(3)]

    def mixed(seed: int) -> int:
        chance, good = np.random.default_rng(seed), 0
        with triton.InferenceServerClient(own_server.address, channel_args=CHANNEL_ARGUMENTS) as client:
            while time.monotonic() < stop_s:
                kind, what = int(chance.integers(3)), chance.random()
                if what < 0.2:
                    with pytest.raises(triton.InferenceServerException, match="no readable media"):
                        logits(client, kind, b"no media" * 10, 60)
                elif what < 0.6:
                    with contextlib.suppress(triton.InferenceServerException):  # in time, sometimes
                        logits(client, kind, clip, float(chance.choice([0.01, 0.1, 0.3, 1.0])))
                else:
                    np.testing.assert_allclose(logits(client, kind, clip, 60), expected[kind], rtol=0, atol=1e-5)
                    good += 1
        return good

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(mixed, range(8))) > 0


def test_questions_are_small(own_server: EmbeddedServer):
    """The header that lets small requests go ahead of clips is no way in for large ones."""
    with triton.InferenceServerClient(own_server.address, channel_args=CHANNEL_ARGUMENTS) as client:
        inputs = infer_inputs(encode_request(bytes(5_000_000), [(0.0, 1.0)], [""]))
        with pytest.raises(triton.InferenceServerException, match="leave out the header fv2es-small"):
            client.infer("emotion", inputs, client_timeout=10, headers={"fv2es-small": "1"})
