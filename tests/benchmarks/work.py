"""What the regression guard measures, and the command that writes its baseline:

make bench-baseline
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np

from benchmarks.product import product

ROOT = Path(__file__).resolve().parents[2]
BASELINE = Path(__file__).with_name("baseline.json")
FILM = ROOT / "tests" / "media" / "astronaut.mp4"
WORDS = ("I am so happy that this flight went well.", "The suit is heavy, and it makes me angry.", "Yes.")
REQUESTS: Mapping[str, tuple[list[tuple[float, float]], tuple[str, ...]]] = {
    "whole film": ([(0.3, 4.6), (5.0, 8.4), (8.7, 11.9)], WORDS),
    "one second": ([(10.5, 11.5)], ("Yes.",)),
    "no face": ([(5.6, 7.4)], ("",)),
}
"""Utterances of `FILM` and their words: several of different lengths; one late in the film; one where every search is in vain."""
TURNS = 3


class Work:
    """The whole `cpu` profile in this process, on the weights that ship."""

    def __init__(self) -> None:
        from counted import starting

        from gpu_profile import Ensemble, request

        # Rows are divided among the threads of the cores there are: here always two.
        with starting(), mock.patch("os.sched_getaffinity", return_value={0, 1}):
            self._request, self._ensemble = request, Ensemble("cpu", ROOT / "model_repository")
            self._ensemble(**request(FILM, [(0.0, 2.0)]))  # nothing is set up while it is counted

    def counts(self) -> dict[str, dict[str, int]]:
        """Operations of each request, see `counted.counting`."""
        from counted import counting

        found = {}
        for name, (spans_s, words) in REQUESTS.items():
            inputs = self._request(FILM, spans_s, words)
            with counting() as counts:
                tensors = self._ensemble(**inputs)
            made = [array for key, array in tensors.items() if key not in inputs and array.dtype != object]
            counts["tensor_bytes"] = sum(array.nbytes for array in made)  # what crosses from process to process
            found[name] = dict(sorted(counts.items()))
        return found

    def ratios(self) -> dict[str, float]:
        """Processor time of a step to that of a bare reference in the same process; the least of `TURNS` each, in turns."""
        spans_s, words = REQUESTS["whole film"]
        tensors = self._ensemble(**self._request(FILM, spans_s, words))
        workers = self._ensemble._workers
        faces = {name: tensors[name] for name in ("CLIP", "UTTERANCES")}
        pieces = {"PIECES": np.tile(tensors["PIECES"], (2, 1, 1, 1))}
        _, multiply = product(num_threads=1)
        return {
            "faces to bare decoding": _ratio(lambda: workers["faces"]([faces]), _decode),
            "acoustic to bare products of the same size": _ratio(
                lambda: workers["acoustic"]([pieces]), lambda: [multiply() for _ in range(8)]
            ),
        }


def _decode() -> None:
    with av.open(str(FILM)) as film:
        film.streams.video[0].thread_type = "AUTO"
        for _ in film.decode(video=0):
            pass


def _ratio(step: Callable[[], Any], reference: Callable[[], Any]) -> float:
    def cpu_s(work: Callable[[], Any]) -> float:
        before_s = time.process_time()
        work()
        return time.process_time() - before_s

    times = [(cpu_s(step), cpu_s(reference)) for _ in range(TURNS)]
    return min(each[0] for each in times) / min(each[1] for each in times)


def main() -> None:
    """Write the baseline anew: after a gain, or a loss that is worth it. Its difference belongs into the commit's message."""
    from asked import asked

    work = Work()
    baseline = {
        "schema_version": 1,
        "counts": work.counts() | {"client": asked()},
        "ratios": {name: round(value, 2) for name, value in work.ratios().items()},
    }
    BASELINE.write_text(json.dumps(baseline, indent=1) + "\n")
    sys.stdout.write(BASELINE.read_text())


if __name__ == "__main__":
    main()
