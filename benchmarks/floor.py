"""What nothing can go below: decoding every picture and throwing it away, and a bare matrix product.

    python -m benchmarks.floor FILM

Decoding goes through the `ffmpeg` binary where there is one (`-f null`), else through the same FFmpeg in PyAV.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import av

from benchmarks.product import GFLOP, Multiply, product

Result = TypeVar("Result")

PAPER_GFLOP_PER_S = 28.0
"""Of the paper's acoustic branch for a second of sound: 11.2 GFLOP a piece of 0.4 s. By far the dearest net."""
GFLOP_PER_S = {"starter": 0.385}
"""Of other models, by the name in their manifest."""
DECODED_S = 300.0
"""Longer films are decoded up to here: one minute costs what another does."""
PRODUCT_S = 2.0
"""How long products are repeated."""


def decode_floor(film: Path, duration_s: float) -> dict[str, float | str]:
    """What decoding all pictures and sound takes for a second of video, on all cores, found on the first `DECODED_S`.

    `floor_decode_wall_s_per_s`, `floor_decode_cpu_s_per_s` and `floor_decode_with`: what decoded.
    """
    binary = shutil.which("ffmpeg")
    most_s = min(DECODED_S, duration_s)
    if binary is None:
        _, wall_s, cpu_s = _timed(lambda: _decode(film, most_s), resource.RUSAGE_SELF)
    else:
        command = (binary, "-nostdin", "-loglevel", "error", "-t", str(most_s), "-i", str(film), "-f", "null", "-")
        _, wall_s, cpu_s = _timed(lambda: subprocess.run(command, check=True), resource.RUSAGE_CHILDREN)
    return {
        "floor_decode_wall_s_per_s": wall_s / most_s,
        "floor_decode_cpu_s_per_s": cpu_s / most_s,
        "floor_decode_with": "PyAV" if binary is None else "ffmpeg",
    }


def product_floor(gflop_per_s: float = PAPER_GFLOP_PER_S) -> dict[str, float | str]:
    """What the acoustic branch's arithmetic takes for a second of sound, were it one float32 matrix product.

    `floor_product_wall_s_per_s` on all cores, `floor_product_cpu_s_per_s` on one thread, `floor_product_gflop_per_s` of all cores and
    `floor_product_with`: whose product it is.
    """
    library, multiply = product()
    gflop, wall_s, _ = _timed(lambda: _repeated(multiply), resource.RUSAGE_SELF)
    # One thread alone has nobody to wait for: what is waited with spinning counts as processor time.
    _, multiply = product(num_threads=1)
    gflop_alone, _, cpu_s = _timed(lambda: _repeated(multiply), resource.RUSAGE_SELF)
    return {
        "floor_product_wall_s_per_s": wall_s * gflop_per_s / gflop,
        "floor_product_cpu_s_per_s": cpu_s * gflop_per_s / gflop_alone,
        "floor_product_gflop_per_s": gflop / wall_s,
        "floor_product_with": library,
    }


def _repeated(multiply: Multiply) -> float:
    """Repeat the product for `PRODUCT_S`; 10^9 operations that were done."""
    turns, end_s = 0, time.perf_counter() + PRODUCT_S
    while time.perf_counter() < end_s:
        multiply()
        turns += 1
    return turns * GFLOP


def _decode(film: Path, most_s: float) -> None:
    with av.open(str(film)) as container:
        for stream in container.streams.video[:1]:
            stream.thread_type = "AUTO"
        for packet in container.demux((*container.streams.video[:1], *container.streams.audio[:1])):
            packet.decode()
            if packet.dts is not None and packet.dts * packet.time_base >= most_s:
                return


def _timed(work: Callable[[], Result], who: int) -> tuple[Result, float, float]:
    """What came out, wall and processor seconds."""
    before, start_s = resource.getrusage(who), time.perf_counter()
    result = work()
    wall_s, after = time.perf_counter() - start_s, resource.getrusage(who)
    return result, wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Print both floors of a film as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor")
    parser.add_argument("film", type=Path)
    parser.add_argument(
        "--duration-s", type=float, default=60.0, help="of the film; no more of it is decoded (default: 60)"
    )
    parser.add_argument(
        "--gflop-per-s", type=float, default=PAPER_GFLOP_PER_S, help="of the acoustic branch, for a second of sound"
    )
    options = parser.parse_args()
    sys.stdout.write(
        json.dumps(decode_floor(options.film, options.duration_s) | product_floor(options.gflop_per_s)) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
