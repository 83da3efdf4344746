"""Runs a TensorRT plan on this machine's GPU, arrays in and arrays out, and measures it."""

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fv2es_builders.cuda import DeviceMemory, Driver, Event, Stream, find_gpu
from fv2es_builders.errors import BuildUsageError, PlanDamaged, PlanForeign, PlanRefused
from fv2es_builders.parity import Arrays
from fv2es_builders.plans import Flavour, PlanFacts, no_collection, plan_logger, tensorrt
from fv2es_pipelines.plan_check import Machine, PlanMismatch, check_machine, tensorrt_version

if TYPE_CHECKING:
    from numpy.typing import NDArray

WARM_UP_RUNS: Final = 3
"""Before anything is measured: kernels are loaded, and by TensorRT for RTX finished, at the first runs of a shape."""

LEAST_RUNS: Final = 20
"""Fewest measured runs; enough for a 95th percentile."""

LONG_ENOUGH_S: Final = 1.0
"""Runs are added until they took this long together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How fast an engine is on inputs of one size. Pairs: median and 95th percentile."""

    num_rows: int
    num_runs: int
    device_ms: tuple[float, float]
    """On the GPU, from the first kernel to the last."""
    whole_ms: tuple[float, float]
    """With the copies to and from the host's memory, on the host's clock."""
    rows_per_s: float
    """From the median of `device_ms`."""


def check_plan(plan: Path, data: bytes, facts: PlanFacts, machine: Machine | None = None) -> None:
    """See that a plan is the one that was built, and was built for this machine.

    Args:
        plan: its file, for messages.
        data: the file's content.
        facts: what was recorded when it was built.
        machine: what to compare with; None: this one.

    Raises:
        PlanDamaged: it was truncated or changed.
        PlanForeign: it was made by another TensorRT, or for another GPU.
        GpuMissing: there is no GPU here.
    """
    if len(data) != facts.num_bytes:
        raise PlanDamaged(plan, reason=f"{len(data)} bytes instead of {facts.num_bytes}")
    if hashlib.sha256(data).hexdigest() != facts.sha256:
        raise PlanDamaged(plan, reason="its sha256 is not the recorded one")
    here = machine or Machine(
        tensorrt_version=tensorrt_version(facts.flavour) or "none", compute_capability=find_gpu().compute_capability
    )
    try:
        check_machine(facts.model, dataclasses.asdict(facts), here)
    except PlanMismatch as error:
        raise PlanForeign(plan, built=error.built, here=error.here) from error


class PlanRunner:
    """A plan, ready to run. Use it within `fv2es_builders.cuda.gpu_context`.

    Args:
        plan: its file.
        flavour: the TensorRT that made it.
        driver: of CUDA.
        facts: recorded when it was built; with them a plan that does not belong here is recognised before TensorRT sees it.

    Raises:
        TensorRtMissing: that TensorRT is not here.
        PlanDamaged, PlanForeign, GpuMissing: see `check_plan`.
        PlanRefused: TensorRT does not load it.
    """

    @no_collection()
    def __init__(self, plan: Path, *, flavour: Flavour, driver: Driver, facts: PlanFacts | None = None) -> None:
        self.plan, self._driver = plan, driver
        self._trt = tensorrt(flavour)
        data = plan.read_bytes()
        if facts is not None:
            check_plan(plan, data, facts)
        self._logger = plan_logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise PlanRefused(plan, reason=self._logger.errors())
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise PlanRefused(plan, reason=self._logger.errors())
        self._stream = Stream(driver)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = self._trt.TensorIOMode.INPUT
        self.input_names = [name for name in names if self._engine.get_tensor_mode(name) == is_input]
        self.output_names = [name for name in names if name not in self.input_names]

    @property
    def memory_bytes(self) -> int:
        """What the plan takes on the GPU beside its weights, at its largest shapes."""
        return int(self._engine.device_memory_size_v2)

    @no_collection()
    def run(self, inputs: Arrays) -> "dict[str, NDArray[Any]]":
        """All outputs by name, for inputs by name.

        Raises:
            BuildUsageError: an input is missing, or has a shape that the plan was not built for.
            PlanRefused: the run failed.
        """
        arrays, memory = self._place(inputs)
        try:
            return self._once(arrays, memory)
        finally:
            for each in memory.values():
                each.free()

    @no_collection()
    def speed(self, inputs: Arrays, *, num_rows: int) -> Speed:
        """Measure the plan on inputs of one size.

        Args:
            inputs: by name.
            num_rows: what they count as.

        Raises:
            BuildUsageError, PlanRefused: see `run`.
        """
        arrays, memory = self._place(inputs)
        device_ms: list[float] = []
        whole_ms: list[float] = []
        try:
            for _ in range(WARM_UP_RUNS):
                self._once(arrays, memory)
            begin, end = Event(self._driver), Event(self._driver)
            while len(device_ms) < LEAST_RUNS or sum(whole_ms) < 1e3 * LONG_ENOUGH_S:
                started = time.perf_counter()
                self._once(arrays, memory)
                whole_ms.append(1e3 * (time.perf_counter() - started))
                begin.record(self._stream)
                self._enqueue()
                end.record(self._stream)
                self._stream.wait()
                device_ms.append(end.ms_since(begin))
        finally:
            for each in memory.values():
                each.free()
        return speed_of(device_ms, whole_ms, num_rows=num_rows)

    def _place(self, inputs: Arrays) -> "tuple[dict[str, NDArray[Any]], dict[str, DeviceMemory]]":
        """Tell the plan the shapes, and make room on the GPU: all tensors as contiguous arrays, and their memory."""
        arrays: dict[str, NDArray[Any]] = {}
        for name in self.input_names:
            if name not in inputs:
                raise BuildUsageError(
                    f"{self.plan.name}: input {name} is missing; it takes {', '.join(self.input_names)}"
                )
            arrays[name] = np.ascontiguousarray(inputs[name], dtype=self._type(name))
            if not self._context.set_input_shape(name, arrays[name].shape):
                raise BuildUsageError(
                    f"{self.plan.name}: {name} of shape {list(arrays[name].shape)} is outside of what the plan was built for; "
                    f"give fewer rows, or build it with a larger profile"
                )
        for name in self.output_names:
            arrays[name] = np.empty(tuple(self._context.get_tensor_shape(name)), self._type(name))
        memory = {name: DeviceMemory(self._driver, max(array.nbytes, 1)) for name, array in arrays.items()}
        for name, each in memory.items():
            self._context.set_tensor_address(name, each.address)
        return arrays, memory

    def _type(self, name: str) -> "np.dtype[Any]":
        return np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle.value):
            raise PlanRefused(self.plan, reason=self._logger.errors())

    def _once(
        self, arrays: "Mapping[str, NDArray[Any]]", memory: Mapping[str, DeviceMemory]
    ) -> "dict[str, NDArray[Any]]":
        for name in self.input_names:
            memory[name].fill(arrays[name], self._stream)
        self._enqueue()
        for name in self.output_names:
            memory[name].fetch(arrays[name], self._stream)
        self._stream.wait()
        return {name: arrays[name] for name in self.output_names}


def speed_of(device_ms: list[float], whole_ms: list[float], *, num_rows: int) -> Speed:
    """Figures from the times of single runs.

    Args:
        device_ms: on the GPU; at least one.
        whole_ms: with copies; as many.
        num_rows: of each run.
    """
    device, whole = (
        (float(np.percentile(times, 50)), float(np.percentile(times, 95))) for times in (device_ms, whole_ms)
    )
    return Speed(
        num_rows=num_rows,
        num_runs=len(device_ms),
        device_ms=device,
        whole_ms=whole,
        rows_per_s=1e3 * num_rows / device[0],
    )
