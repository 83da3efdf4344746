"""What stands between Triton's Python backend and a worker that knows no Triton.

`model_repository/*/1/model.py` hands in the backend's own module, so nothing here imports it.
"""

import contextlib
import ctypes
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fv2es_pipelines.errors import PipelineError
from fv2es_pipelines.parent import ParentTie

Arrays = Mapping[str, np.ndarray[Any, Any]]
Worker = Callable[[Sequence[Arrays]], Sequence[Arrays | PipelineError]]
"""Takes the inputs of several requests by tensor name; gives the outputs of each, or the error of that one alone."""


_LARGE_BYTES = 250_000
"""Requests above this are followed by giving memory back, which takes some milliseconds: all with clips, also of sound alone."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8  # glibc's malloc.h, with M_ before
_HEAP_BYTES = 32 * 2**20
"""Blocks up to this come out of the heap; glibc takes no larger value."""
_KEPT_BYTES = 128 * 2**20
"""Free memory at the heap's end that the C library may keep until `trim_heap`."""


def settle_heap() -> bool:
    """Let a worker's heap behave in its first request as in all later ones; false where the C library knows no such call.

    glibc asks the kernel for large blocks one by one, and raises the size from which it does so with each that is freed: up to here.
    New pages cost a worker that decodes a seventh of its time, so it starts there; `trim_heap` bounds what is kept between requests.
    """
    return _tuned({_MMAP_THRESHOLD: _HEAP_BYTES, _TRIM_THRESHOLD: _KEPT_BYTES})


def keep_one_heap() -> bool:
    """Let all of a worker's blocks come from one heap, however large they are; false where the C library knows no such call.

    For a worker that asks for blocks above those of `settle_heap` again and again: new pages cost `speech` a quarter of its time. Between
    many smaller ones they leave gaps: a worker that decodes would hold 30 MB more.
    """
    return _tuned({_MMAP_MAX: 0, _ARENA_MAX: 1})


def _tuned(values: Mapping[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc alone
    return mallopt is not None and all(mallopt(*each) for each in values.items())


def trim_heap() -> bool:
    """Give the kernel back what the C library keeps of freed memory; false where the C library knows no such call.

    That is 160 MB after the paper's acoustic net is loaded.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone
    if trim is None:
        return False
    trim(ctypes.c_size_t(0))
    return True


def say_busy(number: int | None) -> None:
    """Put into this process's name which piece of work is under way, as `busy 17`; None: none. A supervisor notices by it what hangs.

    As `fv2es.pulse`, which reads it. Where the system has no such names, nothing is said.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("idle" if number is None else f"busy {number % 10**9}", encoding="ascii")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFolder:
    """What a worker is loaded from."""

    path: Path
    """The version folder, which holds the weights."""
    parameters: Mapping[str, str]
    """`parameters` of config.pbtxt."""
    batched: bool
    """True where the first axis of all tensors is one batch that may be merged across requests."""


def one_by_one(answer: Callable[[Arrays], Arrays]) -> Worker:
    """A worker that answers each request by itself; a `PipelineError` fails that request alone."""

    def work(requests: Sequence[Arrays]) -> list[Arrays | PipelineError]:
        answers: list[Arrays | PipelineError] = []
        for request in requests:
            try:
                answers.append(answer(request))
            except PipelineError as error:
                answers.append(error)
        return answers

    return work


def adapt(pb_utils: Any, load: Callable[[ModelFolder], Worker]) -> type:
    """The class `TritonPythonModel` that Triton looks for.

    Args:
        pb_utils: the module `triton_python_backend_utils`.
        load: makes the worker, warmed up, when Triton loads the model.
    """
    tie = ParentTie()

    class TritonPythonModel:
        """Unpacks requests, calls the worker, packs responses."""

        num_begun = 0

        def initialize(self, args: Mapping[str, str]) -> None:
            tie.start()
            try:
                self.load(args)
            finally:
                tie.loaded()

        def load(self, args: Mapping[str, str]) -> None:
            config = json.loads(args["model_config"])
            self.inputs = [each["name"] for each in config["input"]]
            parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
            folder = Path(args["model_repository"]) / args["model_version"]
            self.work = load(ModelFolder(path=folder, parameters=parameters, batched=config["max_batch_size"] > 0))
            settle_heap()
            trim_heap()
            say_busy(None)

        def execute(self, requests: Sequence[Any]) -> list[Any]:
            self.num_begun += 1
            say_busy(self.num_begun)
            try:
                return self.respond(requests)
            finally:
                say_busy(None)
                tie.check()

        def respond(self, requests: Sequence[Any]) -> list[Any]:
            tensors = [[pb_utils.get_input_tensor_by_name(each, name) for name in self.inputs] for each in requests]
            arrays = [{each.name(): each.as_numpy() for each in row} for row in tensors]
            responses = [respond(each) for each in self.work(arrays)]
            if sum(array.nbytes for row in arrays for array in row.values()) > _LARGE_BYTES:
                trim_heap()
            return responses

    def respond(answer: Arrays | PipelineError) -> Any:
        if isinstance(answer, PipelineError):
            error = pb_utils.TritonError(str(answer), getattr(pb_utils.TritonError, answer.code))
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in answer.items()])

    return TritonPythonModel
