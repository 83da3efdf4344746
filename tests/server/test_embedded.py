"""The embedded server: starts, notices what dies, leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fv2es import AsyncClient, Client, ClipRule, EmbeddedServer, Result, SpeechRule, UtteranceRule, embedded
from fv2es.embedded import SHARED_MEMORY, _is_alive, _workers
from fv2es.errors import EmbeddedServerError, ModelUnavailable, ServerUnreachable, UsageError
from polling import until

pytestmark = pytest.mark.server


def regions(owner_pid: int) -> list[str]:
    return [each.name for each in SHARED_MEMORY.glob(f"fv2es-{owner_pid}-*")]


@pytest.fixture
def own_server(repository: Path):
    """A server of one test's own, to be hurt; gives it and the lines that it said."""
    said: list[str] = []
    with EmbeddedServer(repository, on_event=said.append) as server:
        yield server, said


def test_listens_on_loopback_alone(server: EmbeddedServer):
    bound: dict[int, set[str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":  # listening
                address, _, port = local.partition(":")
                bound.setdefault(int(port, 16), set()).add(address[-16:])
    for port in (server.grpc_port, server.http_port, server.metrics_port):
        assert bound[port] <= {"0100007F", "FFFF00000100007F"}  # 127.0.0.1, also as an IPv6 address


def test_dead_worker_is_noticed_and_replaced(own_server, astronaut: Path):
    server, said = own_server
    workers = _workers(server._process.pid)
    assert {"faces", "mel", "visual", "acoustic", "text", "tokenizer", "fusion", "manifest", "speech"} == set(
        workers.values()
    )
    victim = next(pid for pid, model in workers.items() if model == "faces")
    said.clear()  # on a busy machine a start may need a second try
    with Client(server.address) as client:
        before = client.analyze(astronaut)
        os.kill(victim, signal.SIGKILL)
        assert until(lambda: bool(said), 5)
        assert "worker of model `faces`" in said[0]
        assert until(lambda: server.restarts >= 1, 60)
        after = client.analyze(astronaut)
    assert [each.probabilities for each in after.utterances] == [each.probabilities for each in before.utterances]


SMALL_CLIPS = {  # twelve, so that most are still to come after the first
    "clip_rule": ClipRule(target_length_s=1.0),
    "utterance_rule": UtteranceRule(window_s=1.0),
    "speech_rule": SpeechRule(recognise=False),
}


@pytest.mark.parametrize("model", ["faces", "acoustic"])
def test_worker_killed_in_the_middle_of_an_analysis_loses_nothing(model: str, own_server, astronaut: Path):
    server, said = own_server
    with Client(server.address, **SMALL_CLIPS) as client:
        undisturbed = client.analyze(astronaut)
        stream = client.stream(astronaut)
        items = [next(stream)]
        victim = next(pid for pid, name in _workers(server._process.pid).items() if name == model)
        os.kill(victim, signal.SIGKILL)
        items += stream
    assert server.restarts >= 1, said  # Triton itself may crash once more; that must lose nothing either
    assert tuple(items) == undisturbed.utterances


def test_server_killed_under_an_async_client_loses_nothing(own_server, astronaut: Path):
    server, said = own_server

    async def disturbed() -> tuple[Result, list]:
        async with AsyncClient(server.address, **SMALL_CLIPS) as client:
            undisturbed = await client.analyze(astronaut)
            items = []
            async for item in client.stream(astronaut):
                if not items:
                    os.kill(server._process.pid, signal.SIGKILL)
                items.append(item)
            return undisturbed, items

    undisturbed, items = asyncio.run(disturbed())
    assert server.restarts >= 1, said  # Triton itself may crash once more; that must lose nothing either
    assert tuple(items) == undisturbed.utterances


def test_dead_server_is_replaced_and_nothing_is_left(repository: Path):
    before = regions(os.getpid())
    server = EmbeddedServer(repository, on_event=lambda line: None).start()
    try:
        old = server._process.pid
        workers = list(_workers(old))
        os.kill(old, signal.SIGKILL)
        assert until(lambda: server.restarts >= 1, 60)
        assert not any(map(_is_alive, workers))
        new = [server._process.pid, *_workers(server._process.pid)]
    finally:
        server.stop()
    assert not any(map(_is_alive, new))
    assert regions(os.getpid()) == before


def test_killed_owner_takes_the_server_with_it(repository: Path):
    script = (
        "import sys, time; from fv2es import EmbeddedServer; s = EmbeddedServer(sys.argv[1]).start();"
        "print(s._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(repository)], stdout=subprocess.PIPE, text=True) as owner:
        try:
            pid = int(owner.stdout.readline())
            family = [pid, *_workers(pid)]
            assert all(map(_is_alive, family))
        finally:
            owner.kill()
    assert until(lambda: not any(map(_is_alive, family)), 10)
    with EmbeddedServer(repository):
        assert regions(owner.pid) == []


def test_repository_must_be_one(tmp_path: Path, repository: Path):
    with pytest.raises(EmbeddedServerError, match="no model `emotion` in it; make one with `fv2es build`"):
        EmbeddedServer(tmp_path)
    (tmp_path / "emotion").mkdir()
    (tmp_path / "emotion" / "config.pbtxt").write_text("")
    with pytest.raises(
        EmbeddedServerError,
        match="holds no weights, or a build of it was interrupted; get the files that came with it again, or run: fv2es build",
    ):
        EmbeddedServer(tmp_path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ('{"profile": "gpu"}', "is of profile gpu, and the embedded Triton serves profile cpu alone"),
        ("{", "not readable"),
    ],
)
def test_repositories_for_another_server(tmp_path: Path, manifest: str, message: str):
    (tmp_path / "emotion").mkdir()
    (tmp_path / "emotion" / "config.pbtxt").touch()
    (tmp_path / "manifest" / "1").mkdir(parents=True)
    (tmp_path / "manifest" / "1" / "manifest.json").write_text(manifest)
    with pytest.raises(EmbeddedServerError, match=message):
        EmbeddedServer(tmp_path)


def test_broken_repository_fails_with_the_servers_words(tmp_path: Path):
    (tmp_path / "emotion" / "1").mkdir(parents=True)
    (tmp_path / "emotion" / "config.pbtxt").write_text('name: "emotion"\nplatform: "ensemble"\n')
    (tmp_path / "manifest" / "1").mkdir(parents=True)
    (tmp_path / "manifest" / "1" / "manifest.json").write_text("{}")
    before = regions(os.getpid())
    server = EmbeddedServer(tmp_path, start_timeout_s=20)
    with pytest.raises(EmbeddedServerError, match=r"tritonserver ended with status 1: .*emotion"):
        server.start()
    assert regions(os.getpid()) == before


def test_taken_port_is_said(server: EmbeddedServer, repository: Path):
    with pytest.raises(EmbeddedServerError, match=f"port {server.grpc_port} is taken"):
        EmbeddedServer(repository, grpc_port=server.grpc_port).start()


def test_no_server_at_the_address(astronaut: Path, unused_port: int):
    with (
        Client(f"127.0.0.1:{unused_port}") as client,
        pytest.raises(ServerUnreachable, match=f"127.0.0.1:{unused_port}"),
    ):
        client.analyze(astronaut)


@pytest.mark.parametrize("address", ["localhost", ":8001", "http://localhost:8001", "localhost:http", "a b:8001", ""])
def test_address_must_be_host_and_port(address: str):
    with pytest.raises(UsageError, match="must be HOST:PORT"):
        Client(address)


def test_server_without_our_models(empty_triton: str, astronaut: Path):
    with Client(empty_triton) as client, pytest.raises(ModelUnavailable, match="emotion"):
        client.analyze(astronaut)


def test_dead_gate_is_noticed_and_replaced(own_server, astronaut: Path):
    """The process before Triton, through which all clients come."""
    server, said = own_server
    said.clear()
    with Client(server.address, **SMALL_CLIPS) as client:
        undisturbed = client.analyze(astronaut)
        stream = client.stream(astronaut)
        items = [next(stream)]
        os.kill(server._gate.pid, signal.SIGKILL)
        items += stream
    assert any("the gate before tritonserver ended" in line for line in said), said
    assert tuple(items) == undisturbed.utterances


def test_a_process_that_cannot_be_started_is_said(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(embedded, "DIES_WITH_PARENT", (str(tmp_path / "python"),))
    said: list[str] = []
    with pytest.raises(
        EmbeddedServerError, match=r"tritonserver can't be started .*No such file.*; see to room"
    ) as caught:
        EmbeddedServer(repository, on_event=said.append).start()
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert len(said) == 2  # a shortage may pass, so it is tried three times

    def broken(line: str) -> None:
        raise ValueError(line)

    with pytest.raises(EmbeddedServerError, match=r"supervisor failed .*can't be started") as caught:
        EmbeddedServer(repository, on_event=broken).start()
    assert isinstance(caught.value.__cause__, ValueError)


def test_whoever_waits_hears_why_a_server_was_not_started_again(
    own_server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    server, _ = own_server
    monkeypatch.setattr(embedded, "DIES_WITH_PARENT", (str(tmp_path / "python"),))
    os.kill(server._process.pid, signal.SIGKILL)
    with pytest.raises(EmbeddedServerError, match="tritonserver can't be started"):
        server.wait()
