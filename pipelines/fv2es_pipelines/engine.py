"""Neural nets on ONNX Runtime: the engines of the `cpu` profile."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from fv2es_pipelines.adapter import Arrays, ModelFolder, Worker, trim_heap
from fv2es_pipelines.errors import MissingWeights, PipelineError
from fv2es_pipelines.rows import distinct_rows, row_lengths, shares

Array = np.ndarray[Any, Any]
Rows = npt.NDArray[np.int64]

MOST_RUNS: Final = 16
"""Runs of one net at the same time. Each needs memory of its own: 40 MB for four pieces with a net of the paper's size."""

_VNNI: Final = frozenset({"avx_vnni", "avx512_vnni"})
"""Flags of processors that sum products of whole numbers in 32 bits. Source: Linux, arch/x86/include/asm/cpufeatures.h."""


def exact_int8(options: onnxruntime.SessionOptions, processor: Path = Path("/proc/cpuinfo")) -> None:
    """Set up a session so that INT8 products are exact on any processor.

    On x86 without VNNI, ONNX Runtime sums two products in 16 bits, which saturate, unless it is told to take a slower way. With VNNI that
    way would cost up to twice the time for the same numbers, so it is taken only where needed.

    Args:
        options: of the session.
        processor: what Linux says of the processor.
    """
    lines = processor.read_text(encoding="utf-8").splitlines()
    flags = next(
        (line.partition(":")[2].split() for line in lines if line.startswith("flags")), []
    )  # x86 alone has them
    if flags and _VNNI.isdisjoint(flags):
        options.add_session_config_entry("session.x64quantprecision", "1")


class Engine:
    """One ONNX file, ready to run.

    A batch is divided among the threads, each with runs of its own: threads that share one operator wait for each other some hundred
    times a run. Rows that are equal are computed once.

    Args:
        path: the ONNX file.
        num_threads: so many runs at the same time, up to `MOST_RUNS`, and further threads help them within one operator, as they do
            where the first axis is no batch; 0: as many as this process may use.
        rows_per_run: longest batch given to the net at once, so that what it works on stays in the cache;
            0: the first axis is no batch, and everything is computed in one run.
        mask_input: the input whose zeros at the end of a row are padding, in all inputs: rows are put beside others of their length, and
            padding that no row of a run needs is not computed; "": there is none.

    Raises:
        MissingWeights: there is no file at `path`.
    """

    def __init__(self, path: Path, *, num_threads: int = 0, rows_per_run: int = 0, mask_input: str = "") -> None:
        if not path.is_file():
            raise MissingWeights(f"{path}: no such file; make it with `fv2es build --output REPOSITORY`")
        threads = num_threads or len(os.sched_getaffinity(0))
        self.num_runs = min(threads, MOST_RUNS) if rows_per_run else 1
        self.rows_per_run, self.mask_input = rows_per_run, mask_input
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads - self.num_runs + 1  # each run brings a thread of its own
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # a plan of memory would be kept for each number and length of rows
        # Several engines share the cores: a waiting thread must sleep, not spin.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        exact_int8(options)
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        trim_heap()  # loading frees weights that were packed for products, and more
        self.inputs = {each.name: each for each in self.session.get_inputs()}
        self.output_names = [each.name for each in self.session.get_outputs()]
        self._runs = ThreadPoolExecutor(self.num_runs)
        self._known: dict[bytes, list[Array]] = {}

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """All outputs by name, for inputs by name as the file declares them."""
        if not self.rows_per_run:
            return dict(zip(self.output_names, self._session_run(inputs), strict=True))
        distinct = distinct_rows(inputs, self._known)
        computed = self._computed(inputs, distinct.firsts)
        places = distinct.places()
        rows = [
            self._known[key] if key in self._known else [array[places[key]] for array in computed]
            for key in distinct.keys
        ]
        return {name: np.stack(parts) for name, parts in zip(self.output_names, zip(*rows, strict=True), strict=True)}

    def _session_run(self, inputs: Arrays) -> list[Array]:
        outputs: list[Array] = self.session.run(self.output_names, dict(inputs))
        return outputs

    def _computed(self, inputs: Arrays, rows: Rows) -> list[Array]:
        """Outputs of some rows, in their order; nothing for none."""
        lengths = row_lengths(inputs[self.mask_input]) if self.mask_input else None
        order = np.arange(len(rows)) if lengths is None else np.argsort(-lengths[rows], kind="stable")  # longest first

        def one_run(share: Rows) -> list[Array]:
            end = None if lengths is None else int(lengths[rows[share]].max())
            return self._session_run(
                {
                    name: array[rows[share]] if end is None else array[rows[share], :end]
                    for name, array in inputs.items()
                }
            )

        runs = list(shares(order, rows_per_run=self.rows_per_run, num_threads=self.num_runs))
        parts = list(self._runs.map(one_run, runs)) if len(runs) > 1 else [one_run(share) for share in runs]
        back = np.argsort(order)
        return [np.concatenate(arrays)[back] for arrays in zip(*parts, strict=True)]

    def warm_up(self) -> None:
        """Run once on zeros with every variable axis at length 1, so that the first request meets no set-up.

        What comes out is kept: digital silence and the row that stands in for none are zeros.
        """
        zeros: Arrays = {
            name: np.zeros(_smallest_shape(each), _NUMPY_TYPES[each.type]) for name, each in self.inputs.items()
        }
        outputs = self.run(zeros)
        if self.rows_per_run:
            self._known[distinct_rows(zeros).keys[0]] = [outputs[name][0] for name in self.output_names]


_NUMPY_TYPES: Mapping[str, type] = {
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(bool)": np.bool_,
}


def _smallest_shape(node: Any) -> list[int]:
    return [axis if isinstance(axis, int) else 1 for axis in node.shape]


def load_engine(folder: ModelFolder) -> Worker:
    """The worker of an engine model: `model.onnx`, warmed up, requests merged into one batch where that is allowed."""
    parameters = folder.parameters
    engine = Engine(
        folder.path / "model.onnx",
        num_threads=int(parameters.get("num_threads", "0")),
        rows_per_run=int(parameters.get("rows_per_run", "0")) if folder.batched else 0,
        mask_input=parameters.get("mask_input", ""),
    )
    engine.warm_up()

    def work(requests: Sequence[Arrays]) -> list[Arrays | PipelineError]:
        if not folder.batched:
            return [engine.run(request) for request in requests]
        lengths = [len(next(iter(request.values()))) for request in requests]
        merged = {name: np.concatenate([request[name] for request in requests]) for name in engine.inputs}
        outputs = engine.run(merged)
        borders = np.cumsum(lengths)[:-1]
        pieces = {name: np.split(array, borders) for name, array in outputs.items()}
        return [{name: parts[index] for name, parts in pieces.items()} for index in range(len(requests))]

    return work
