"""Processes of the embedded server that hang: noticed, replaced, and nothing lost or doubled by it."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fv2es import Client, ClipRule, EmbeddedServer, SpeechRule, UtteranceRule, embedded, pulse

pytestmark = pytest.mark.server

SMALL_CLIPS = {"clip_rule": ClipRule(target_length_s=1.0), "utterance_rule": UtteranceRule(window_s=1.0)}


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What the server of these tests said."""
    return []


@pytest.fixture(scope="module")
def own_server(repository: Path, said: list[str]) -> Iterator[EmbeddedServer]:
    """Of these tests alone, to be hurt more often in a row than is put up with elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "MAX_RESTARTS_IN_A_ROW", 100)
        with EmbeddedServer(repository, on_event=said.append) as server:
            said.clear()
            yield server


def settled(server: EmbeddedServer, said: list[str]) -> None:
    """Until a server that restarts has all its workers again."""
    while said and said[-1] != "the server is ready again":
        assert server._thread.is_alive()
        time.sleep(0.05)
    said.clear()


@pytest.mark.parametrize("model", ["faces", "mel", "tokenizer", "speech", "tritonserver", "gate"])
def test_a_stopped_process_is_replaced_and_nothing_is_lost(
    model: str, own_server: EmbeddedServer, said: list[str], astronaut: Path
):
    settled(own_server, said)
    rules = SMALL_CLIPS | {"speech_rule": SpeechRule(recognise=model == "speech")}
    with Client(own_server.address, **rules) as client:
        undisturbed = client.analyze(astronaut)
        victims = [pid for pid, name in own_server._workers.items() if name == model]
        stream = client.stream(astronaut)
        items = []
        if model != "speech":  # which is asked before the first utterance is there
            items.append(next(stream))
            victims += {"tritonserver": [own_server._process.pid], "gate": [own_server._gate.pid]}.get(model, [])
        for each in victims:
            os.kill(each, signal.SIGSTOP)
        items += stream
    assert victims
    assert any(f"(process {each}) has been stopped" in line for each in victims for line in said), said
    assert tuple(items) == undisturbed.utterances


HANGS_ONCE = """
import threading
from pathlib import Path
import triton_python_backend_utils as pb_utils
from fv2es_pipelines.adapter import adapt
from fv2es_pipelines.workers import load_tokenizer

def load(folder):
    tokenizer, marks = load_tokenizer(folder), Path(MARKS)
    def work(requests):
        text = b" ".join(word for each in requests for word in each["WORDS"])
        for way in (b"blocks", b"spins"):
            mark = marks / way.decode()
            if way in text and not mark.exists():
                mark.touch()
                if way == b"blocks":
                    threading.Event().wait()
                while True:
                    pass
        return tokenizer(requests)
    return work

TritonPythonModel = adapt(pb_utils, load)
"""


@pytest.fixture
def hanging_server(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server whose tokenizer hangs the first time that it reads `blocks`, or `spins`; gives it and what it said."""
    monkeypatch.setattr(pulse, "STILL_S", 3.0)
    monkeypatch.setattr(pulse, "MOST_CPU_S", 3.0)
    models = tmp_path / "models"
    for model in repository.iterdir():
        if model.is_dir() and model.name != "tokenizer":
            (models / model.name).parent.mkdir(exist_ok=True)
            (models / model.name).symlink_to(model)
    own = models / "tokenizer" / "1"
    own.mkdir(parents=True)
    (own / "model.py").write_text(HANGS_ONCE.replace("MARKS", repr(str(tmp_path))))
    (own / "tokenizer.json").symlink_to(repository / "tokenizer" / "1" / "tokenizer.json")
    (own.parent / "config.pbtxt").symlink_to(repository / "tokenizer" / "config.pbtxt")
    said: list[str] = []
    with EmbeddedServer(models, on_event=said.append) as server:
        yield server, said


@pytest.mark.parametrize(("way", "words"), [("blocks", "has done nothing for"), ("spins", "of processor time for one")])
def test_a_worker_that_hangs_in_a_request_is_replaced(
    way: str, words: str, hanging_server, astronaut: Path, tmp_path: Path
):
    server, said = hanging_server
    transcript = tmp_path / "words.tsv"
    transcript.write_text("".join(f"{s}\t{s + 1}\t{'it ' + way if s == 3 else 'well'}\n" for s in range(6)))
    said.clear()
    with Client(server.address, **SMALL_CLIPS) as client:
        result = client.analyze(astronaut, transcript=transcript)
        assert (tmp_path / way).exists()
        assert any(line.startswith("the worker of model `tokenizer`") and words in line for line in said), said
        assert not result.lost
        assert client.analyze(astronaut, transcript=transcript).utterances == result.utterances
