"""Clips on which a worker hangs each time: lost by their names after three tries, and nothing else with them."""

import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from fv2es import Client, ClientRule, ClipRule, EmbeddedServer, Result, SpeechRule, UtteranceRule, embedded, pulse

pytestmark = pytest.mark.server

RULES = {  # six clips of two utterances, each from one key picture to the next
    "clip_rule": ClipRule(target_length_s=2.0),
    "utterance_rule": UtteranceRule(window_s=1.0),
    "speech_rule": SpeechRule(recognise=False),
}

POISON = b"a message that is poison"

HANGS = f"""
import threading
import triton_python_backend_utils as pb_utils
from fv2es_pipelines.adapter import adapt
from fv2es_pipelines.workers import load_faces

def load(folder):
    faces = load_faces(folder)
    def work(requests):
        clips = b"".join(each["CLIP"].tobytes() for each in requests)
        if POISON in clips:
            threading.Event().wait()
        return faces(requests)
    return work

TritonPythonModel = adapt(pb_utils, load)
POISON = {POISON!r}
"""


def poisoned(film: Path, target: Path, keys_s: tuple[float, ...]) -> Path:
    """A film with a message without meaning (H.264's SEI, unregistered user data) before some of its key pictures."""
    payload = bytes(16) + POISON  # a UUID goes ahead
    message = bytes([6, 5, len(payload)]) + payload + b"\x80"
    with av.open(film) as source, av.open(target, "w") as copy:
        streams = {each: copy.add_stream_from_template(each) for each in source.streams}
        for packet in source.demux():
            if packet.dts is None:
                continue
            if packet.stream.type == "video" and packet.is_keyframe and packet.pts * packet.time_base in keys_s:
                changed = av.Packet(len(message).to_bytes(4, "big") + message + bytes(packet))
                changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
                changed.duration, changed.is_keyframe, packet = packet.duration, True, changed
                packet.stream = streams[source.streams.video[0]]
            else:
                packet.stream = streams[packet.stream]
            copy.mux(packet)
    return target


@pytest.fixture
def hanging_server(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[EmbeddedServer, list[str]]]:
    """A server whose workers of `faces` hang whenever they are given poison; gives it and what it said."""
    monkeypatch.setattr(pulse, "STILL_S", 3.0)
    models = tmp_path / "models"
    (models / "faces" / "1").mkdir(parents=True)
    for model in repository.iterdir():
        if model.is_dir() and model.name != "faces":
            (models / model.name).symlink_to(model)
    (models / "faces" / "config.pbtxt").symlink_to(repository / "faces" / "config.pbtxt")
    for part in (repository / "faces" / "1").iterdir():
        if part.name != "model.py":
            (models / "faces" / "1" / part.name).symlink_to(part)
    (models / "faces" / "1" / "model.py").write_text(HANGS)
    said: list[str] = []
    with EmbeddedServer(models, on_event=said.append) as server:
        yield server, said


def analysed(address: str, film: Path, rule: ClientRule) -> tuple[Result, float]:
    with Client(address, **RULES, rule=rule) as client:
        started_s = time.monotonic()
        return client.analyze(film), time.monotonic() - started_s


@pytest.mark.parametrize(
    ("keys_s", "rule", "max_restarts"),
    [
        ((4.0,), ClientRule(), embedded.MAX_RESTARTS_IN_A_ROW),
        # Between the two clips others are answered: more restarts in all than are put up with in a row.
        ((2.0, 8.0), ClientRule(max_in_flight=1, max_crashes=2), 2),
    ],
    ids=["one clip among others in flight", "two clips apart"],
)
def test_poisonous_clips_are_lost_by_name_and_nothing_else(
    keys_s: tuple[float, ...],
    rule: ClientRule,
    max_restarts: int,
    hanging_server: tuple[EmbeddedServer, list[str]],
    server: EmbeddedServer,
    astronaut: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    film = poisoned(astronaut, tmp_path / "film.mp4", keys_s)
    wanted, _ = analysed(server.address, film, rule)
    assert not wanted.lost
    hurt, said = hanging_server
    monkeypatch.setattr(embedded, "MAX_RESTARTS_IN_A_ROW", max_restarts)
    said.clear()
    result, took_s = analysed(hurt.address, film, rule)
    lost_s = [start_s + s for start_s in keys_s for s in (0.0, 1.0)]
    assert [each.start_s for each in result.lost] == lost_s
    assert {each.error for each in result.lost} == {"InferenceFailed"}
    tries = rule.max_crashes
    assert all(f"failed on this clip in {tries} of {tries} tries" in each.reason for each in result.lost)
    assert result.utterances == tuple(each for each in wanted.utterances if each.start_s not in lost_s)
    assert [each.index for each in result.items] == list(range(12))
    assert sum("has done nothing for 3 s" in line for line in said) == tries * len(keys_s), said
    assert took_s < 90
