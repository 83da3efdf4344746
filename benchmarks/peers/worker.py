"""One peer in a process of its own: what it takes to load is no part of the measurement.

python -m benchmarks.peers.worker PEER FILM PLAN OUTCOME --repository DIR ...
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers import floor, onnx_loop, original, served
from benchmarks.peers.answer import Answer, Box
from benchmarks.peers.plan import Span, read_plan
from benchmarks.peers.processes import server_tree, tree
from benchmarks.processes import cpu_s
from fv2es import EmbeddedServer, Fv2esError

Analyse = Callable[[], Answer]


def main() -> None:
    """Load the peer, run it, write the outcome: what it said and took, or the error."""
    options = _parser().parse_args()
    with contextlib.ExitStack() as stack:
        outcome: dict[str, Any]
        try:
            started_s = time.perf_counter()
            analyse = _loaded(options, read_plan(options.plan.read_text(encoding="utf-8")), stack)
            load_s = time.perf_counter() - started_s
            outcome = {"load_s": load_s, **_measured(analyse, server_tree(options.server))}
        except (Fv2esError, OSError) as error:
            outcome = {"error": type(error).__name__, "message": str(error)}
        options.outcome.write_text(json.dumps(outcome), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.worker")
    parser.add_argument("peer", choices=("original", "fastapi", "onnx-loop", "floor", "fv2es", "same-faces"))
    for name in ("film", "plan", "outcome"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--transcript", type=Path)
    parser.add_argument("--server")
    parser.add_argument("--boxes", type=Path)
    return parser


def _measured(analyse: Analyse, others: list[int]) -> dict[str, Any]:
    """The answer, wall time, and processor time of this process, all that it started, and others."""
    before = {pid: cpu_s(pid) for pid in (*tree(os.getpid()), *others)}
    started_s = time.perf_counter()
    answer = analyse()
    wall_s = time.perf_counter() - started_s
    spent_s = sum(cpu_s(pid) - before.get(pid, 0.0) for pid in {*tree(os.getpid()), *others})
    if not answer.utterances:  # a floor: its steps are what was reckoned, not what was done to find it
        wall_s = sum(step.wall_s or 0.0 for step in answer.steps.values())
        spent_s = sum(step.cpu_s or 0.0 for step in answer.steps.values())
    return {"wall_s": wall_s, "cpu_s": spent_s, "answer": answer.to_dict()}


def _loaded(options: argparse.Namespace, spans: tuple[Span, ...], stack: contextlib.ExitStack) -> Analyse:
    """The peer, ready for its film."""
    film, repository = options.film, options.repository
    if options.peer == "fv2es":
        address = options.server or stack.enter_context(EmbeddedServer(repository)).address
        return lambda: served.analyse(film, options.transcript, spans, address)
    if options.peer == "floor":
        gflop_per_s = floor.gflop_per_s(repository)
        return lambda: floor.analyse(film, gflop_per_s)
    if options.peer == "fastapi":
        return _service(film, spans, repository, options.threads, stack)
    if options.peer == "original":
        from benchmarks.peers.torch_nets import TorchNets

        torch_nets = TorchNets(repository, num_threads=options.threads)
        original.warm_up(torch_nets)
        return lambda: original.analyse(film, spans, torch_nets)
    from benchmarks.peers.onnx_nets import OnnxNets

    onnx_nets = OnnxNets(repository)
    original.warm_up(onnx_nets)
    boxes = None if options.boxes is None else _boxes(options.boxes)
    return lambda: onnx_loop.analyse(film, spans, onnx_nets, boxes=boxes)


def _service(
    film: Path, spans: tuple[Span, ...], repository: Path, num_threads: int, stack: contextlib.ExitStack
) -> Analyse:
    from benchmarks.peers import service

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = (sys.executable, "-m", "benchmarks.peers.service", str(repository), str(port), str(num_threads))
    process = subprocess.Popen(command)
    stack.callback(process.wait)
    stack.callback(process.kill)
    address = f"127.0.0.1:{port}"
    service.wait_ready(address, process)
    return lambda: service.ask(address, film, spans)


def _boxes(path: Path) -> dict[int, Box | None]:
    """Faces by time in milliseconds, out of a JSON array of [time_s, box or null]."""
    return {
        onnx_loop.milliseconds(time_s): None if box is None else (box[0], box[1], box[2], box[3])
        for time_s, box in json.loads(path.read_text(encoding="utf-8"))
    }


if __name__ == "__main__":
    main()
