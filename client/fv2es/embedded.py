"""A real Triton on this machine, without a GPU: the server binary that the nvidia-pytriton wheel carries.

It is for development and for single machines: bound to loopback, one process tree, nothing left behind.
"""

import contextlib
import importlib.util
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from fv2es.errors import EmbeddedServerError, Fv2esError
from fv2es.health import prove_ready
from fv2es.pulse import Pulse, has_answered
from fv2es.shared_memory import SHARED_MEMORY, sweep

log = logging.getLogger("fv2es.embedded")

LOOPBACK = "127.0.0.1"
SHARED_MEMORY_PREFIX = "fv2es-"
WATCH_INTERVAL_S = 0.25
LOOK_INTERVAL_S = 1.0
"""Between two looks at whether all get on with their work."""
MAX_RESTARTS_IN_A_ROW = 10
"""Restarts between which no clip was answered, nor `STABLE_AFTER_S` went by, after which the server is given up. A clip that ends or
hangs a worker each time causes three, so three such clips in a row are put up with."""
START_SHARES = (1 / 6, 1 / 3, 1)
"""Share of `start_timeout_s` that each try to start gets. A start that hangs is rare and never comes to an end; the last try waits for all
that a slow machine may need."""
STABLE_AFTER_S = 60.0
DRAIN_S = 10
SHARED_MEMORY_BYTES = 4 << 20
"""Shared memory of each worker at first. More than tensors without a clip take."""
SHARED_MEMORY_GROWTH_BYTES = 20 << 20
"""By how much it grows when it is full. With one step there is room for five clips of `ClipRule.target_bytes`: Triton lets go of up to two
only after the next one has come, and as clips differ in size, three gaps beside them may each be a little too small. So it grows with
a worker's first clip and not again: reports tie crashes of the Python backend to growth. Triton's own value of both is 1 MiB."""

GATE_COMMAND = (sys.executable, "-P", "-m", "fv2es.gate")
GATE_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""Clips of all clients go through the gate: their bytes go back to the system when they are through."""


TRITON_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "131072"}
"""Where the user's own does not say otherwise. The C library keeps freed memory in up to 8 pools for each core; requests of any thread
shall find it in few, and clips go back to the system. Workers, which are not to ask the system for each picture, set this anew for
themselves, see `fv2es_pipelines.adapter.settle_heap`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TritonInstallation:
    """Where the parts of the embedded Triton lie."""

    server: Path
    backend: Path
    """Folder of the Python backend."""
    stub: Path
    """The backend's worker program, made for this interpreter's version."""
    libraries: tuple[Path, ...]
    """Folders for LD_LIBRARY_PATH."""


def find_installation() -> TritonInstallation:
    """The embedded Triton of this interpreter's environment.

    Raises:
        EmbeddedServerError: a part is missing; the message names the part and the command that mends it.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise EmbeddedServerError("the package nvidia-pytriton is not installed; run: pip install 'fv2es[serve]'")
    package = Path(spec.origin).parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = package / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        known = sorted(each.name for each in stub.parent.parent.glob("*"))
        raise EmbeddedServerError(
            f"no Triton worker program for Python {version}; use one of Python {', '.join(known)}"
        )
    return TritonInstallation(
        server=package / "tritonserver" / "bin" / "tritonserver",
        backend=package / "tritonserver" / "backends" / "python",
        stub=stub,
        libraries=(package.parent / "nvidia_pytriton.libs", _find_libpython(version)),
    )


def _find_libpython(version: str) -> Path:
    """The folder of libpython, which the worker program is linked to; Debian packages it apart from the interpreter."""
    name = f"libpython{version}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR"), "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"]
    for folder in filter(None, folders):
        if Path(folder, name).exists():
            return Path(folder)
    raise EmbeddedServerError(f"{name} is missing; run: apt-get install libpython{version}")


def default_repository() -> Path:
    """The model repository that came with this package.

    Raises:
        EmbeddedServerError: there is none.
    """
    package = Path(__file__).resolve().parent
    for candidate in (package / "model_repository", package.parents[1] / "model_repository"):
        if (candidate / "emotion").is_dir():
            return candidate
    raise EmbeddedServerError("no model repository beside the package; name one: `--repository DIR`")


class _CrashedAtStart(EmbeddedServerError):
    """The server or a worker was ended by a signal before it was ready, hangs, or the system could start none: worth another try, unlike a refused model."""


class EmbeddedServer:
    """A supervised Triton on loopback; a context manager.

    Args:
        repository: model repository; default: the one that comes with the package.
        grpc_port, http_port, metrics_port: 0: a free one.
        start_timeout_s: how long models may take to load.
        on_event: called with a line for people when something happened to the server (from the supervisor's thread).

    Example:
        with EmbeddedServer() as server, Client(server.address) as client:
            client.analyze("video.mp4")
    """

    def __init__(
        self,
        repository: Path | str | None = None,
        *,
        grpc_port: int = 0,
        http_port: int = 0,
        metrics_port: int = 0,
        start_timeout_s: float = 120.0,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        self.repository = Path(repository).resolve() if repository else default_repository()
        if not (self.repository / "emotion" / "config.pbtxt").is_file():
            raise EmbeddedServerError(f"{self.repository}: no model `emotion` in it; make one with `fv2es build`")
        manifest = self.repository / "manifest" / "1" / "manifest.json"
        if not manifest.is_file():
            raise EmbeddedServerError(
                f"{self.repository} holds no weights, or a build of it was interrupted; "
                f"get the files that came with it again, or run: fv2es build --checkpoint PATH --output {self.repository}"
            )
        try:
            profile = json.loads(manifest.read_text(encoding="utf-8")).get("profile", "cpu")
        except ValueError as error:
            raise EmbeddedServerError(
                f"{manifest}: not readable ({error}); build the repository anew: fv2es build"
            ) from error
        if profile != "cpu":
            raise EmbeddedServerError(
                f"{self.repository} is of profile {profile}, and the embedded Triton serves profile cpu alone; "
                "build another with: fv2es build --profile cpu, or serve this one with NGC's Triton image"
            )
        self.installation = find_installation()
        self.start_timeout_s = start_timeout_s
        self.on_event = on_event or (lambda line: log.warning("%s", line))
        self.restarts = 0
        """How often the server was started anew after it, or one of its workers, died or hung."""
        self._wanted_ports = (grpc_port, http_port, metrics_port)
        self._process: subprocess.Popen[bytes] | None = None
        self._gate: subprocess.Popen[bytes] | None = None
        """Stands before it, see `fv2es.gate`."""
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._draining = False
        self._workers: dict[int, str] = {}
        self._prefix = SHARED_MEMORY_PREFIX
        self._failure: Fv2esError | None = None
        self._thread: threading.Thread | None = None
        self._folder: Path | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """HOST:PORT of gRPC."""
        return f"{LOOPBACK}:{self.grpc_port}"

    @property
    def shared_memory_bytes(self) -> int:
        """What the server's workers hold of shared memory. It grows with the largest clips and does not shrink before the server ends.

        Raises:
            EmbeddedServerError: the server is not running.
        """
        if self._folder is None:
            raise EmbeddedServerError("the server is not running")
        blocks = 0
        for region in SHARED_MEMORY.glob(f"{self._prefix}*"):
            with contextlib.suppress(FileNotFoundError):
                blocks += region.stat().st_blocks
        return blocks * 512

    @property
    def log_path(self) -> Path:
        """What the server and its workers print."""
        if self._folder is None:
            raise EmbeddedServerError("the server is not running")
        return self._folder / "tritonserver.log"

    def start(self) -> Self:
        """Start, and wait until an inference has gone through all models.

        Raises:
            EmbeddedServerError: it did not get ready in time, or a model could not be loaded.
        """
        if self._thread is not None:
            raise EmbeddedServerError("the server is running already")
        sweep_shared_memory()
        self._folder = Path(tempfile.mkdtemp(prefix=SHARED_MEMORY_PREFIX))
        backend = self._folder / "backends" / "python"
        backend.mkdir(parents=True)
        for part in (*self.installation.backend.glob("*.*"), self.installation.stub):
            (backend / part.name).symlink_to(part)
        self.grpc_port, self.http_port, self.metrics_port, self._inner_port = _free_ports((*self._wanted_ports, 0))
        self._thread = threading.Thread(target=self._supervise, name="fv2es-triton", daemon=True)
        self._thread.start()
        try:
            while not self._ready.wait(0.05):
                if not self._thread.is_alive():
                    break
        except BaseException:
            self.stop()
            raise
        if self._failure is not None:
            failure = self._failure
            self.stop()
            raise failure
        return self

    def stop(self, *, drain: bool = False) -> None:
        """Stop the server and its workers; returns when they are gone and their shared memory is freed.

        Args:
            drain: let requests that are under way end first, for up to `DRAIN_S`.
        """
        self._draining = drain
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._thread = self._folder = None

    def wait(self) -> None:
        """Block until the server is stopped or given up.

        Raises:
            EmbeddedServerError: it died too often.
        """
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.2)
        if self._failure is not None:
            raise self._failure

    # The supervisor's thread: it alone starts and ends the process, so the kernel's "kill the child when its parent
    # thread ends" is tied to the supervision itself.

    def _supervise(self) -> None:
        recent = 0
        try:
            self._launch_with_patience()
            self._ready.set()
            started_s = time.monotonic()
            while (fault := self._watch()) is not None:
                is_of_use = time.monotonic() - started_s >= STABLE_AFTER_S or self._has_answered()
                recent = 1 if is_of_use else recent + 1
                if recent > MAX_RESTARTS_IN_A_ROW:
                    raise EmbeddedServerError(
                        f"{fault}; given up after {MAX_RESTARTS_IN_A_ROW} restarts: {self._log_tail()}"
                    )
                self.on_event(f"{fault}; restarting the server")
                self._end()
                self._launch_with_patience()
                started_s = time.monotonic()
                self.restarts += 1
                self.on_event("the server is ready again")
        except Fv2esError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001 - whatever ends the supervisor, whoever waits for the server must hear of it
            self._failure = EmbeddedServerError(f"the server's supervisor failed ({error!r}); start the server again")
            self._failure.__cause__ = error
        finally:
            try:
                self._end()
            finally:
                self._ready.set()

    def _has_answered(self) -> bool:
        return self._gate is not None and has_answered(self._gate.pid)

    def _launch_with_patience(self) -> None:
        """Launch, again where the server or a worker crashes on the way or hangs: 2.51 rarely does, on busy machines."""
        for share in START_SHARES:
            try:
                self._launch(share * self.start_timeout_s)
            except _CrashedAtStart as crash:
                if share == START_SHARES[-1]:
                    raise
                self.on_event(f"{crash}; starting the server again")
                self._end()
                self.restarts += 1
            else:
                return

    def _launch(self, timeout_s: float) -> None:
        """Start the process and prove by an inference that it works."""
        self._prefix = f"{SHARED_MEMORY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}-"
        environment = os.environ | {
            # The worker program ignores PYTHONPATH; it finds its packages through the first python3 on PATH.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, self.installation.libraries)),
            "CUDA_VISIBLE_DEVICES": "",
        }
        environment = TRITON_ENVIRONMENT | environment
        command = [
            str(self.installation.server),
            f"--model-repository={self.repository}",
            f"--backend-directory={self.log_path.parent / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={self._prefix}",
            f"--backend-config=python,shm-default-byte-size={SHARED_MEMORY_BYTES}",
            f"--backend-config=python,shm-growth-byte-size={SHARED_MEMORY_GROWTH_BYTES}",
            "--disable-auto-complete-config",
            f"--exit-timeout-secs={DRAIN_S}",
            "--grpc-infer-allocation-pool-size=1",  # of eight requests that were answered it would keep the bytes
            # Decoding and recognition wait for a core instead of sharing one, and so for each other's memory.
            "--rate-limit=execution_count",
            f"--rate-limit-resource=core:{len(os.sched_getaffinity(0))}",
        ]
        for name, port in (("http", self.http_port), ("grpc", self._inner_port), ("metrics", self.metrics_port)):
            command += [f"--{name}-address={LOOPBACK}", f"--{name}-port={port}"]
        self._process = self._run(command, environment)
        gate = [
            *GATE_COMMAND,
            f"--listen={self.address}",
            f"--triton={LOOPBACK}:{self._inner_port}",
            f"--shared-memory={self._prefix}",
        ]
        self._gate = self._run(gate, os.environ | GATE_ENVIRONMENT)
        deadline_s = time.monotonic() + timeout_s
        for error in prove_ready(self.address, deadline_s=deadline_s):
            if self._stopping.is_set():
                return
            if self._gate.poll() is not None:
                raise _CrashedAtStart(
                    f"the gate before tritonserver ended with status {self._gate.returncode}: {self._log_tail()}"
                )
            if (status := self._process.poll()) is not None:
                kind = _CrashedAtStart if status < 0 else EmbeddedServerError
                raise kind(f"tritonserver ended with status {status}: {self._log_tail()}")
            self._workers |= _workers(self._process.pid)
            for pid, model in self._workers.items():
                if not _is_alive(pid):
                    raise _CrashedAtStart(f"the worker of model `{model}` died while it started: {self._log_tail()}")
            if time.monotonic() > deadline_s:
                raise _CrashedAtStart(
                    f"tritonserver was not ready within {timeout_s:g} s ({error}): {self._log_tail()}"
                )
            self._stopping.wait(0.1)
        self._workers = _workers(self._process.pid)

    def _run(self, command: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        """Start a process that dies with the supervisor and prints to the log.

        Raises:
            EmbeddedServerError: the system refuses; the cause says why.
        """
        try:
            with self.log_path.open("ab") as output:
                return subprocess.Popen(
                    [*DIES_WITH_PARENT, *command],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise _CrashedAtStart(
                f"{Path(command[0]).name} can't be started ({error}); see to room on the disk, in memory and among processes (`ulimit -u`)"
            ) from error

    def _watch(self) -> str | None:
        """What died or hangs, as soon as it does; None when the server is being stopped."""
        process, gate = self._process, self._gate
        if process is None or gate is None:
            return None
        pulse = Pulse(server=process.pid, gate=gate.pid, workers=self._workers)
        looked_s = time.monotonic()
        while not self._stopping.wait(WATCH_INTERVAL_S):
            if process.poll() is not None:
                log.warning("tritonserver ended with status %s: %s", process.returncode, self._log_tail())
                return f"tritonserver ended with status {process.returncode}"
            if gate.poll() is not None:
                log.warning("the gate before tritonserver ended: %s", self._log_tail())
                return f"the gate before tritonserver ended with status {gate.returncode}"
            for pid, model in self._workers.items():
                if not _is_alive(pid):
                    log.warning("the worker of model `%s` ended: %s", model, self._log_tail())
                    return f"the worker of model `{model}` (process {pid}) died"
            if (passed_s := time.monotonic() - looked_s) >= LOOK_INTERVAL_S:
                looked_s += passed_s
                # While the machine sleeps, or this process is not let run, the others aren't either.
                if (hung := pulse.look(min(passed_s, 2 * LOOK_INTERVAL_S))) is not None:
                    log.warning("%s: %s", hung, self._log_tail())
                    return hung
        return None

    def _end(self) -> None:
        """End the process, its workers and their shared memory."""
        if self._process is None:
            return
        if self._draining:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=DRAIN_S + 5)
        # Unloading the models in good order takes Triton seconds and frees nothing that is not freed here as well.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._end_gate()
        _wait_until_gone(self._process.pid)
        self._workers = {}
        self._process = None
        sweep(self._prefix)

    def _end_gate(self) -> None:
        if self._gate is not None:
            self._gate.kill()
            self._gate.wait()
            self._gate = None

    def _log_tail(self) -> str:
        """The last lines of the log that speak of an error, for a message."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        crash = [
            index for index, line in enumerate(lines) if line.startswith(("Signal (", "terminate called", "what()"))
        ]
        if crash:
            return " | ".join(lines[crash[0] : crash[0] + 20])
        errors = [line for line in lines if line.startswith(("E", "F")) or "Error" in line or "error" in line]
        return " | ".join((errors or lines)[-6:]) or "it printed nothing"


_RUN_AND_DIE_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.getppid() == 1 and sys.exit(1); os.execv(sys.argv[1], sys.argv[1:])"
"""PR_SET_PDEATHSIG = SIGKILL, then become the server: no orphan when this process is killed."""
DIES_WITH_PARENT = (sys.executable, "-P", "-c", _RUN_AND_DIE_WITH_PARENT)
"""Put before a command. -P: modules are not looked for in the working folder, where a user's `random.py` may lie."""


def _free_ports(wanted: tuple[int, ...]) -> tuple[int, ...]:
    """The wanted ports, with a free one for each 0.

    Raises:
        EmbeddedServerError: a wanted port is taken.
    """
    ports = []
    with contextlib.ExitStack() as stack:
        for port in wanted:
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                raise EmbeddedServerError(
                    f"port {port} is taken ({error.strerror}); name another, or 0 for any"
                ) from error
            ports.append(probe.getsockname()[1])
    return tuple(ports)


def _workers(server_pid: int) -> dict[int, str]:
    """Process ids of the server's Python workers and the models they serve; without those that end meanwhile."""
    found = {}
    for children in Path(f"/proc/{server_pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in map(int, children.read_text().split()):
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                scripts = [Path(os.fsdecode(each)) for each in arguments if each.endswith(b"/model.py")]
                if scripts:
                    found[pid] = scripts[0].parents[1].name
    return found


def _is_alive(pid: int) -> bool:
    """False once the process has ended, reaped or not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _wait_until_gone(group: int, timeout_s: float = 5.0) -> None:
    """Wait for all processes of a killed group, also for workers that nobody had seen yet: until then they hold their memory."""
    deadline_s = time.monotonic() + timeout_s
    while _has_members(group) and time.monotonic() < deadline_s:
        time.sleep(0.02)


def _has_members(group: int) -> bool:
    """Whether a process of the group is alive; one that ended and was not reaped is not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, its_group = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False


def sweep_shared_memory() -> list[str]:
    """Free shared memory left by embedded servers whose process no longer exists; returns the names."""
    gone = []
    for region in SHARED_MEMORY.glob(f"{SHARED_MEMORY_PREFIX}*-*"):
        owner = region.name.removeprefix(SHARED_MEMORY_PREFIX).split("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            gone += sweep(region.name)
    return gone
