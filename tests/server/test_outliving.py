"""No worker outlives its server, whoever is killed, and whatever the workers are doing then."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from fv2es import EmbeddedServer, embedded
from fv2es.embedded import _is_alive, _workers, find_installation
from fv2es.errors import EmbeddedServerError
from fv2es.shared_memory import SHARED_MEMORY, sweep
from polling import until

pytestmark = pytest.mark.server

SOON_S = 30.0
"""All are gone by then, also on a busy machine: the kernel ends those that serve, those that load see to it five times a second, and ten
seconds after a worker was loaded an alarm ends it where nobody took it over."""

OWNER = """
import sys
from fv2es import Client, ClipRule, EmbeddedServer, SpeechRule, UtteranceRule

with EmbeddedServer(sys.argv[1]) as server:
    rules = {"clip_rule": ClipRule(target_length_s=1.0), "utterance_rule": UtteranceRule(window_s=1.0)}
    with Client(server.address, **rules, speech_rule=SpeechRule(recognise=False)) as client:
        while True:
            client.analyze(sys.argv[2])
"""


def family(owner: int) -> dict[int, str]:
    """Servers, workers and gates of a process that owns embedded servers, also of one that is dead, by process id, and their names."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            command = (folder / "cmdline").read_bytes()
            if f"fv2es-{owner}-".encode() in command:
                name = (folder / "comm").read_text().strip()
                found[int(folder.name)] = "gate" if b"fv2es.gate" in command else name
    return {pid: name for pid, name in found.items() if _is_alive(pid)}


@pytest.fixture
def owner(repository: Path, astronaut: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that starts a server and asks it for work without end."""
    with subprocess.Popen([sys.executable, "-c", OWNER, str(repository), str(astronaut)]) as process:
        try:
            yield process
        finally:
            left = family(process.pid)
            for pid in (process.pid, *left):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            embedded.sweep_shared_memory()


@pytest.mark.parametrize(
    ("moment", "way"),
    [
        ("workers begin", signal.SIGKILL),
        ("a worker is loaded", signal.SIGTERM),
        ("workers are busy", signal.SIGKILL),
    ],
)
def test_a_killed_owner_leaves_nobody(moment: str, way: signal.Signals, owner: subprocess.Popen[bytes]):
    def has_come() -> bool:
        names = family(owner.pid).values()
        if moment == "workers are busy":
            return sum(name.startswith("busy") for name in names) > 1
        return "idle" in names if moment == "a worker is loaded" else len(names) > 4

    assert until(has_come, 60)
    relatives = family(owner.pid)
    owner.send_signal(way)
    owner.wait()
    assert until(lambda: not any(map(_is_alive, relatives)) and not family(owner.pid), SOON_S), family(owner.pid)
    if moment == "workers are busy":  # before, the gate that frees it may not be there yet
        assert not list(SHARED_MEMORY.glob(f"fv2es-{owner.pid}-*"))


def test_workers_whose_answer_is_never_taken_end(owner: subprocess.Popen[bytes]):
    """A Triton that stands still while models load, and is killed then: all workers wait for it with Python's lock held."""

    def loaded() -> list[int]:
        return [pid for pid, name in family(owner.pid).items() if name == "idle"]

    assert until(loaded, 60)  # by then others have been asked to load
    server = next(pid for pid, name in family(owner.pid).items() if name == "tritonserver")
    os.kill(server, signal.SIGSTOP)
    before = loaded()
    assert until(lambda: len(loaded()) > len(before), 15)
    assert server in family(owner.pid)  # its owner has not lost patience
    owner.kill()
    assert until(lambda: not family(owner.pid), 30), family(owner.pid)  # ten seconds, and what loading takes


BLOCKS = "import threading\nthreading.Event().wait()\n"
ENDS = "import os, time\ntime.sleep(1)\nos._exit(3)\n"


@pytest.mark.parametrize("code", [BLOCKS, ENDS], ids=["blocks", "ends"])
def test_a_failing_start_leaves_nobody(code: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedded, "START_SHARES", (1,))
    for model in repository.iterdir():
        if model.is_dir() and model.name != "fusion":
            (tmp_path / model.name).symlink_to(model)
    (tmp_path / "fusion" / "1").mkdir(parents=True)
    (tmp_path / "fusion" / "config.pbtxt").symlink_to(repository / "fusion" / "config.pbtxt")
    (tmp_path / "fusion" / "1" / "model.py").write_text(code)
    before = family(os.getpid())
    with pytest.raises(EmbeddedServerError, match=r"was not ready within 4 s|`fusion` died while it started"):
        EmbeddedServer(tmp_path, start_timeout_s=4).start()
    assert family(os.getpid()).keys() <= before.keys()


@pytest.fixture
def explicit_triton(repository: Path, tmp_path: Path) -> Iterator[tuple[int, triton.InferenceServerClient]]:
    """A Triton that loads and unloads what it is told to, not started by `EmbeddedServer`; gives its process and a client."""
    installation, prefix = find_installation(), f"fv2es-{os.getpid()}-explicit-"
    backend = tmp_path / "backends" / "python"
    backend.mkdir(parents=True)
    for part in (*installation.backend.glob("*.*"), installation.stub):
        (backend / part.name).symlink_to(part)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(installation.server),
        f"--model-repository={repository}",
        f"--backend-directory={backend.parent}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
    ]
    environment = os.environ | {
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, installation.libraries)),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, **quiet, start_new_session=True) as server:
        try:
            with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
                with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                    grpc.channel_ready_future(channel).result(timeout=30)
                yield server.pid, client
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            sweep(prefix)


def test_models_that_come_and_go_end_no_other(explicit_triton: tuple[int, triton.InferenceServerClient]):
    server, client = explicit_triton

    def answers() -> bool:
        words = triton.InferInput("WORDS", [1], "BYTES").set_data_from_numpy(np.array([b"well"], np.object_))
        spans = triton.InferInput("UTTERANCES", [1, 2], "FP64").set_data_from_numpy(np.array([[0.0, 1.0]]))
        return client.infer("tokenizer", [words, spans], client_timeout=10).as_numpy("INPUT_IDS").size > 0

    def workers(model: str) -> list[int]:
        return [pid for pid, name in _workers(server).items() if name == model]

    client.load_model("tokenizer")
    kept = workers("tokenizer")
    for _ in range(2):
        client.load_model("manifest")
        gone = workers("manifest")
        client.unload_model("manifest")
        assert until(lambda gone=gone: not any(map(_is_alive, gone)), 10)
        assert answers()
    assert len(kept) == len(gone) == 1
    assert workers("tokenizer") == kept
    os.kill(server, signal.SIGKILL)
    assert until(lambda: not any(map(_is_alive, kept)), 1)  # by the kernel: the worker program looks only now and then
