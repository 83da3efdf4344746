"""The command: starts a server or takes one, runs Locust without a window, writes a record, Locust's report and its CSV files."""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from benchmarks.load.outcome import Step, outcome, read_events, server_shares, steps_of
from benchmarks.material import ENCODINGS, ROOT, Material, material
from benchmarks.processes import cpu_s, family, listener, memory
from benchmarks.record import write_record
from fv2es import EmbeddedServer, Fv2esError
from fv2es.errors import UsageError
from fv2es.wire import CHANNEL_ARGUMENTS

SAMPLE_INTERVAL_S = 0.5
UNFINISHED_S = 600
"""How long films that are under way at the end may take."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit status is 0, or 1 with a line on stderr."""
    options = _options(arguments)
    try:
        film = material(height_px=options.height, codec=options.codec, duration_s=options.length)
        with _server(options) as address:
            measured = _run(options, film, address)
    except Fv2esError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    write_record(
        options.output.with_suffix(".json"),
        kind="load",
        settings={
            "loop": "open" if options.open_loop else "closed",
            "step_s": options.step_seconds,
            "timeout_s": options.timeout,
            "speech": options.speech,
            "server": "remote" if options.server else "embedded",
            "seed": options.seed,
        },
        materials=[film],
        measurements=measured,
    )
    for each in measured:
        sys.stdout.write(_line(each) + "\n")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--clients", default="1,2,4,8", help="closed loop: numbers of clients, one step each")
    parser.add_argument("--films-per-minute", help="open loop: mean rates of arrivals instead, one step each")
    parser.add_argument("--step-seconds", type=float, default=60.0)
    parser.add_argument("--height", type=int, default=1080, help="lines of the film")
    parser.add_argument("--codec", choices=list(ENCODINGS), default="h264")
    parser.add_argument("--length", type=float, default=60.0, help="of the film in seconds")
    parser.add_argument("--server", help="HOST:PORT of a running server; else an embedded one is started")
    parser.add_argument("--repository", type=Path, help="models of the embedded server")
    parser.add_argument("--timeout", type=float, default=300.0, help="deadline of one clip in seconds")
    parser.add_argument("--speech", action="store_true", help="recognise speech too")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench" / "load", help="path without suffix")
    options = parser.parse_args(arguments)
    options.open_loop = options.films_per_minute is not None
    steps = options.films_per_minute or options.clients
    try:
        options.levels = [float(each) if options.open_loop else int(each) for each in steps.split(",")]
    except ValueError:
        parser.error(f"{steps!r} must be numbers, such as 1,2,4,8")
    if min(options.levels) <= 0:
        parser.error(f"{steps!r}: each step must be above 0")
    return options


@contextlib.contextmanager
def _server(options: argparse.Namespace) -> Iterator[str]:
    if options.server:
        yield options.server
        return
    with EmbeddedServer(options.repository) as server:
        yield server.address


def _run(options: argparse.Namespace, film: Material, address: str) -> list[dict[str, Any]]:
    """All steps, each flat; the last entry is of the whole run: the server's models and memory."""
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        event_log = Path(folder) / "events.jsonl"
        steps = ",".join(f"{each:g}" for each in options.levels)
        command = [
            *(sys.executable, "-m", "locust", "--locustfile", str(ROOT / "benchmarks" / "locustfile.py"), "--headless"),
            *(
                "--host",
                address,
                "--server",
                address,
                "--film",
                str(film.path),
                "--event-log",
                str(event_log),
                "--steps",
                steps,
            ),
            *("--step-seconds", f"{options.step_seconds:g}", "--seed", str(options.seed)),
            *("--timeout", f"{options.timeout:g}", "--stop-timeout", str(UNFINISHED_S), "--only-summary"),
            *("--html", str(options.output.with_suffix(".html")), "--csv", str(options.output)),
            *(["--open-loop"] if options.open_loop else []),
            *(["--speech"] if options.speech else []),
        ]
        port = int(address.rpartition(":")[2])
        owner = listener(port) if address.startswith(("127.0.0.1:", "localhost:")) else None
        before = _statistics(address)
        with (
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as locust,
            _Watch(owner, locust.pid) as watch,
        ):
            _, said = locust.communicate()
        # 1: some films failed, which is measured; or Locust did not even start, and there are no events
        if locust.returncode not in (0, 1) or not event_log.exists():
            raise UsageError(f"Locust ended with status {locust.returncode}: {said[-2000:]}")
        after, events = _statistics(address), read_events(event_log)
    kind = "films_per_minute" if options.open_loop else "clients"
    measured = [
        {
            "scope": "step",
            "material": film.name,
            kind: step.level,
            **outcome(step, events, open_loop=options.open_loop),
            **watch.cpu_facts(step),
        }
        for step in steps_of(events, options.levels, options.step_seconds)
    ]
    whole = {"scope": "run", "material": film.name, **server_shares(before, after)}
    return [*measured, whole | {"server_peak_bytes": watch.server_bytes, "client_peak_bytes": watch.client_bytes}]


class _Watch:
    """Memory and processor time of the server, where it runs here, and of Locust, over time; a context."""

    def __init__(self, server_pid: int | None, client_pid: int) -> None:
        self.server_bytes: int | None = None
        self.client_bytes = 0
        self.server_cpu_s: list[tuple[float, float]] = []
        """Time on the clock of `time.monotonic`, processor time until then."""
        self.client_cpu_s: list[tuple[float, float]] = []
        self._pids = server_pid, client_pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def cpu_facts(self, step: Step) -> dict[str, float | None]:
        """Mean use of processors in the measured part of a step, in processors."""
        return {
            "server_processors": _slope(self.server_cpu_s, step.measured_from_s, step.end_s),
            "client_processors": _slope(self.client_cpu_s, step.measured_from_s, step.end_s),
        }

    def _watch(self) -> None:
        server_pid, client_pid = self._pids
        while not self._over.wait(SAMPLE_INTERVAL_S):
            now_s = time.monotonic()
            self.client_bytes = max(self.client_bytes, memory([client_pid]).total_bytes)
            self.client_cpu_s.append((now_s, cpu_s(client_pid)))
            if server_pid is not None:
                members = family(server_pid)
                self.server_bytes = max(self.server_bytes or 0, memory(members).total_bytes)
                self.server_cpu_s.append((now_s, sum(map(cpu_s, members))))


def _slope(series: Sequence[tuple[float, float]], start_s: float, end_s: float) -> float | None:
    """Growth a second between two times; None where the series does not reach them."""
    times_s = [each[0] for each in series]
    if not series or times_s[0] > start_s or times_s[-1] < end_s - 2 * SAMPLE_INTERVAL_S:
        return None
    first, last = np.interp([start_s, end_s], times_s, [each[1] for each in series])
    return float((last - first) / (end_s - start_s))


def _statistics(address: str) -> dict[str, tuple[int, int, int]]:
    """Of each model: requests that succeeded, nanoseconds in its queue, nanoseconds in work."""
    with triton.InferenceServerClient(address, channel_args=CHANNEL_ARGUMENTS) as client:
        found = client.get_inference_statistics(client_timeout=30.0).model_stats
    return {
        each.name: (
            each.inference_stats.success.count,
            each.inference_stats.queue.ns,
            each.inference_stats.compute_input.ns
            + each.inference_stats.compute_infer.ns
            + each.inference_stats.compute_output.ns,
        )
        for each in found
    }


def _per_cpu(each: dict[str, Any]) -> str:
    used = (each["server_processors"] or 0) + (each["client_processors"] or 0)
    return f" ({each['video_s_per_s'] / used:.2f} video-s per processor second)" if each["server_processors"] else ""


def _line(each: dict[str, Any]) -> str:
    """One measurement for people."""
    if each["scope"] == "run":
        shares = zip(each["models"], each["model_queue_mean_s"], each["model_work_mean_s"], strict=True)
        models = ", ".join(f"{name} {queue:.2f} + {work:.2f}" for name, queue, work in shares)
        memory_mb = [f"{(each[key] or 0) / 1e6:.0f} MB" for key in ("server_peak_bytes", "client_peak_bytes")]
        return f"mean seconds in queue + work: {models}; peak memory: server {memory_mb[0]}, clients {memory_mb[1]}"
    level = f"{each['clients']} clients" if "clients" in each else f"{each['films_per_minute']:g} films/min"

    def times(name: str) -> str:
        values = [each[f"{name}_p{percent}_s"] for percent in (50, 90, 95, 99)]
        return "/".join("-" if value is None else f"{value:.1f}" for value in values)

    errors = ", ".join(
        f"{count} {name}" for name, count in zip(each["error_classes"], each["error_counts"], strict=True)
    )
    return (
        f"{level}: {each['video_s_per_s']:.2f} video-s/s{_per_cpu(each)}, {each['films_done']} of {each['films']} films, "
        f"p50/90/95/99 film {times('film')} s, first utterance {times('first_utterance')} s; errors: {errors or 'none'}"
    )
