"""One stream: what a second of video costs by stage, what memory is held over time, and when the first utterance comes.

    python -m benchmarks.long_video --heights 360,1080 --codecs h264 --minutes 1,5 --output build/bench/long_video.json

Every film goes through a client in a process of its own. Without `--server` it also gets an embedded Triton of its own, so that no film
sees memory that an earlier one left. Processor time and memory of the server are read from /proc where it runs on this machine.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tritonclient.grpc as triton

from benchmarks.floor import GFLOP_PER_S, PAPER_GFLOP_PER_S, decode_floor, product_floor
from benchmarks.material import ENCODINGS, FOLDER, ROOT, SOURCE, Material, material, words_of
from benchmarks.processes import anonymous_bytes, cpu_s, family, listener, memory, thinned
from benchmarks.record import Value, write_record
from fv2es import Client, EmbeddedServer, Fv2esError
from fv2es.errors import UsageError
from fv2es.wire import CHANNEL_ARGUMENTS

KIND = "long_video"
POINTS = 120
"""Of a series over time, at most."""
LOCAL = ("localhost", "127.0.0.1", "::1")
WORDS = ("transcript", "speech", "none")


class BenchError(Fv2esError):
    """A measurement failed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the record, print one line a film.

    Returns:
        0 done, 1 a measurement failed, 2 bad usage.
    """
    options = _parser().parse_args(argv)
    try:
        wanted = [*itertools.product(options.heights, options.codecs, options.minutes), *options.also]
        films = [
            material(
                height_px=height, codec=codec, duration_s=minutes * 60, source=options.source, folder=options.folder
            )
            for height, codec, minutes in dict.fromkeys(wanted)
        ]
        measurements = _measure_all(films, options)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except (Fv2esError, OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    settings = {
        "server": options.server or "embedded, a new one for each film",
        "repository": None if options.server else (options.repository.name if options.repository else "default"),
        "words": options.words,
        "repeats": options.repeats,
        "source": options.source.name,
    }
    write_record(options.output, kind=KIND, settings=settings, materials=films, measurements=measurements)
    sys.stdout.write(f"{options.output}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    def whole(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    def numbers(text: str) -> list[float]:
        return [float(each) for each in text.split(",")]

    def film(text: str) -> tuple[int, str, float]:
        height, codec, minutes = text.split(":")
        return int(height), codec, float(minutes)

    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_video", description="Measure one stream.")
    parser.add_argument("--heights", type=whole, default=[360, 1080], help="lines, such as 360,720,1080,2160")
    parser.add_argument(
        "--codecs", type=lambda text: text.split(","), default=["h264"], help=f"among {','.join(ENCODINGS)}"
    )
    parser.add_argument("--minutes", type=numbers, default=[1.0], help="lengths, such as 1,5,60")
    parser.add_argument(
        "--also",
        type=film,
        action="append",
        default=[],
        metavar="HEIGHT:CODEC:MINUTES",
        help="one film more; repeatable",
    )
    parser.add_argument("--repeats", type=int, default=1, help="of the whole list, so that films take turns")
    parser.add_argument(
        "--words", choices=WORDS, default="transcript", help="where words come from (default: a made-up transcript)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--server", metavar="HOST:PORT", help="a running Triton, warm (default: an embedded one for each film)"
    )
    where.add_argument("--repository", type=Path, metavar="DIR", help="model repository for the embedded Triton")
    parser.add_argument(
        "--source", type=Path, default=SOURCE, help="a film to make others from (default: that of the tests)"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="keeps films")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench" / "long_video.json")
    return parser


def _measure_all(films: Sequence[Material], options: argparse.Namespace) -> list[dict[str, Value]]:
    if options.repeats < 1:
        raise UsageError(f"--repeats {options.repeats} must be at least 1")
    measurements: list[dict[str, Value]] = []
    for turn in range(options.repeats):
        for film in films:
            with _server(options) as address:
                measured: dict[str, Value] = {"material": film.name, "turn": turn}
                measured |= _measured(film, address, options.words)
            measured |= decode_floor(film.path, film.duration_s)
            measured |= product_floor(GFLOP_PER_S.get(str(measured["model"]), PAPER_GFLOP_PER_S))
            measurements.append(measured)
            sys.stdout.write(_line(measured, film) + "\n")
            sys.stdout.flush()
    return measurements


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[str]:
    """The address of a server that has already answered something."""
    if options.server:
        yield options.server
        return
    with EmbeddedServer(options.repository, on_event=lambda line: print(f"server: {line}", file=sys.stderr)) as server:  # noqa: T201
        yield server.address


def _measured(film: Material, address: str, words: str) -> dict[str, Value]:
    """One film through a client process, watched from here."""
    host, _, port = address.rpartition(":")
    server_pid = listener(int(port)) if host in LOCAL else None
    server = family(server_pid) if server_pid is not None else {}
    command = [sys.executable, "-m", "benchmarks.one_film", str(film.path), "--server", address]
    if words == "transcript":
        command += ["--transcript", str(words_of(film))]
    elif words == "none":
        command += ["--no-speech"]
    with Client(address) as client:
        model = client.model()
    before, cpu_before = _statistics(address), {pid: cpu_s(pid) for pid in server}
    start_s = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, stdout=output, cwd=ROOT)
        try:
            watch = _watched(child, server)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        process_wall_s = time.perf_counter() - start_s
        if child.returncode:
            raise BenchError(f"{film.name}: the client ended with status {child.returncode}; its message stands above")
        output.seek(0)
        said: dict[str, Any] = json.loads(output.read())
    used = {pid: cpu_s(pid) - cpu_before[pid] for pid in server}
    after = _statistics(address)
    result: dict[str, Value] = {
        "video_s": film.duration_s,
        "model": model.name,
        "model_sha256": model.sha256,
        "precision": model.precision,
        "triton": model.server_version,
        "server_is_here": bool(server),
        "process_wall_s": process_wall_s,
    }
    result |= said
    for name in sorted(after):
        for key, value in after[name].items():
            result[f"{name}_{key}"] = value - before.get(name, {}).get(key, 0)
    if server_pid is not None and (server_pid != listener(int(port)) or family(server_pid).keys() != server.keys()):
        raise BenchError(f"{film.name}: the server, or a worker of it, was started anew meanwhile; measure again")
    for name in sorted(set(server.values())):
        result[f"{name}_cpu_s"] = sum(used[pid] for pid, model_name in server.items() if model_name == name)
    if server:
        result["server_cpu_s"] = sum(used.values())
        result["cpu_s"] = sum(used.values()) + float(said["client_cpu_s"])
    return result | watch.summary(with_server=bool(server))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Watch:
    """Memory of client and server, bytes, at some times of the run."""

    times_s: tuple[float, ...]
    client: tuple[int, ...]
    server: tuple[int, ...]

    def summary(self, *, with_server: bool) -> dict[str, Value]:
        """Peaks, and thinned series that keep them."""
        both = [mine + theirs for mine, theirs in zip(self.client, self.server, strict=True)]
        result: dict[str, Value] = {"client_peak_bytes": max(self.client)}
        client_points = thinned(list(zip(self.times_s, self.client, strict=True)), POINTS)
        result["client_memory_at_s"] = [round(at_s, 2) for at_s, _ in client_points]
        result["client_memory_bytes"] = [value for _, value in client_points]
        if with_server:
            points = thinned(list(zip(self.times_s, both, strict=True)), POINTS)
            result |= {
                "server_peak_bytes": max(self.server),
                "peak_bytes": max(both),
                "memory_at_s": [round(at_s, 2) for at_s, _ in points],
                "memory_bytes": [value for _, value in points],
            }
        return result


LOOK_S = 0.05
"""Between two looks at the pages that come and go."""
LEAST_STEP_S, MOST_STEP_S, STEPS_SHARE = 0.2, 5.0, 1 / 20
"""Between two looks at all pages: a share of the time so far, within these bounds. Such a look takes some 80 ms of a core at a server of
1.5 GB, as the kernel counts all its pages."""


def _watched(child: "subprocess.Popen[bytes]", server: Mapping[int, str]) -> _Watch:
    """Look at memory until the client has ended."""
    times_s: list[float] = []
    client: list[int] = []
    served: list[int] = []
    start_s = next_s = time.perf_counter()
    while True:
        now_s = time.perf_counter()
        if now_s >= next_s:
            own, theirs = memory([child.pid]), memory(server)
            next_s = now_s + min(MOST_STEP_S, max(LEAST_STEP_S, STEPS_SHARE * (now_s - start_s)))
        if not times_s or (own.pss_bytes and anonymous_bytes(child.pid)):
            times_s.append(now_s - start_s)
            client.append(own.since([child.pid]))
            served.append(theirs.since(server))
        try:
            child.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            continue
        return _Watch(times_s=tuple(times_s), client=tuple(client), server=tuple(served))


def _statistics(address: str) -> dict[str, dict[str, float]]:
    """Of each model since the server's start: requests, rows, seconds in the queue and at work. Of one replica, where there are several."""
    with triton.InferenceServerClient(address, channel_args=CHANNEL_ARGUMENTS) as client:
        answer = client.get_inference_statistics()
    found: dict[str, dict[str, float]] = {}
    for model in answer.model_stats:
        stats = model.inference_stats
        each = found.setdefault(model.name, {})
        for key, value in {
            "requests": stats.success.count,
            "failed": stats.fail.count,
            "rows": model.inference_count,
            "executions": model.execution_count,
            "queue_s": stats.queue.ns * 1e-9,
            "input_s": stats.compute_input.ns * 1e-9,
            "compute_s": stats.compute_infer.ns * 1e-9,
            "output_s": stats.compute_output.ns * 1e-9,
        }.items():
            each[key] = each.get(key, 0) + value
    return found


def _line(measured: Mapping[str, Any], film: Material) -> str:
    """What a person wants to see at once."""
    parts = [f"{film.name}: {measured['wall_s'] / film.duration_s:.3f} s"]
    if "cpu_s" in measured:
        parts.append(f"{measured['cpu_s'] / film.duration_s:.3f} CPU s per second of video")
        parts.append(f"peak {measured['peak_bytes'] / 1e9:.2f} GB")
    if measured["first_utterance_s"] is not None:
        parts.append(f"first utterance after {measured['first_utterance_s']:.1f} s")
    return ", ".join([*parts, f"{measured['utterances']} utterances, {measured['utterances_lost']} lost"])


if __name__ == "__main__":
    sys.exit(main())
