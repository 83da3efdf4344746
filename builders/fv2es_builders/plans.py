"""ONNX files to TensorRT plans, for TensorRT 10.12 and newer, 11, and TensorRT for RTX.

Networks are strongly typed: the precision is that of the graph (see `fv2es_builders.precision`), and the builder adds none of its
own, TF32 included. TensorRT builds on the GPU that will run the plan. TensorRT for RTX builds without any GPU and finishes its
kernels where the plan is loaded.
"""

import gc
import hashlib
import importlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from fv2es_builders.cuda import find_gpu
from fv2es_builders.errors import GraphRefused, PlanFailed, PlanUnwritten, ProfileError, TensorRtMissing
from fv2es_pipelines import specification
from fv2es_pipelines.plan_check import PLAN_NAME, Flavour, tensorrt_version

__all__ = [
    "FLAVOURS",
    "PLAN_NAME",
    "RTX_CAPABILITIES",
    "Flavour",
    "PlanFacts",
    "ShapeRange",
    "available_flavours",
    "no_collection",
    "plan_from_onnx",
    "plan_logger",
    "shape_profile",
    "tensorrt",
]

FLAVOURS: Final[tuple[Flavour, ...]] = get_args(Flavour)
"""The one that serves first."""

RTX_CAPABILITIES: Final = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""Compute capabilities that a plan of TensorRT for RTX runs on by default. Source: `ComputeCapability` of its version 1.7 and its
documentation; 9.0 and 10.0, the data centre's Hopper and Blackwell, are not among them."""

WORKSPACE_BYTES: Final = 8 * 2**30
"""Most memory for intermediate tensors and kernels. The paper's acoustic branch takes 4.7 GB for 1024 pieces at once, in FP32."""

OLDEST: Final[Mapping[Flavour, tuple[int, int]]] = {"tensorrt": (10, 12), "tensorrt_rtx": (1, 4)}
"""Oldest versions that are accepted."""

_log = logging.getLogger(__name__)

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShapeRange:
    """Shapes of one input that a plan serves; one length for each axis."""

    least: Shape
    usual: Shape
    """What kernels are chosen for."""
    most: Shape


Profile = Mapping[str, ShapeRange]
"""By input; inputs whose shape is fixed may be left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFacts:
    """What is known of a built plan; goes into the manifest as it is."""

    model: str
    flavour: Flavour
    tensorrt_version: str
    """Four numbers. A plan runs on no other version."""
    compute_capabilities: tuple[str, ...]
    """GPUs that it runs on: of TensorRT the one of the GPU that built it."""
    gpu: str | None
    """Name of the GPU that built it; None: it was built without one."""
    onnx_sha256: str
    sha256: str
    num_layers: int
    """Of the network before it was optimised."""
    num_bytes: int
    duration_s: float


def available_flavours() -> dict[Flavour, str]:
    """Versions of the TensorRTs that can be imported here, the one that serves first."""
    found: dict[Flavour, str] = {}
    for flavour in FLAVOURS:
        try:
            found[flavour] = importlib.import_module(flavour).__version__
        except (ImportError, OSError):  # OSError: the package is there, its libraries are not
            continue
    return found


def tensorrt(flavour: Flavour) -> Any:
    """The module `tensorrt`, or `tensorrt_rtx`.

    Raises:
        TensorRtMissing: it can't be imported, or is too old.
    """
    oldest = ".".join(map(str, OLDEST[flavour]))
    remedy = {
        "tensorrt": f"install the one that the server has, {oldest} or newer: pip install tensorrt-cu13==VERSION",
        "tensorrt_rtx": f"install {oldest} or newer: pip install tensorrt-rtx-cu13",
    }[flavour]
    try:
        module = importlib.import_module(flavour)
    except (ImportError, OSError) as error:
        raise TensorRtMissing(flavour, remedy=remedy) from error
    if _major_minor(module) < OLDEST[flavour]:
        raise TensorRtMissing(flavour, found=module.__version__, remedy=remedy)
    return module


def _major_minor(module: Any) -> tuple[int, int]:
    major, minor = module.__version__.split(".")[:2]
    return int(major), int(minor)


def shape_profile(model: str, *, num_labels: int) -> dict[str, ShapeRange]:
    """Shapes that a served model's plan is built for, from `fv2es_pipelines.specification`.

    Args:
        model: visual, acoustic, text or fusion.
        num_labels: of the preset.
    """
    described = specification.model(model)
    ranges = {**specification.AXIS_RANGES, "C": (num_labels,) * 3}
    profile = {}
    for tensor in described.inputs:
        axes = [(axis,) * 3 if isinstance(axis, int) else ranges[axis] for axis in tensor.axes]
        if described.max_batch_size:  # Triton refuses a plan that can't take as many rows as the configuration says
            axes[0] = (*axes[0][:2], described.max_batch_size)
        least, usual, most = zip(*axes, strict=True)
        profile[tensor.name] = ShapeRange(least=least, usual=usual, most=most)
    return profile


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection meanwhile, for calls in which TensorRT uses its logger; also a decorator.

    TensorRT calls the logger under a lock that the end of a builder takes as well. A collection that begins within that call and finds a
    builder, of a failed build whose exception was kept, would wait for itself.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@no_collection()
def plan_from_onnx(
    source: Path,
    target: Path,
    *,
    model: str,
    profile: Profile,
    flavour: Flavour,
    timing_cache: Path | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
) -> PlanFacts:
    """Build a plan and put it at `target` in one step.

    Args:
        source: ONNX file; its types are the plan's.
        target: where to write; its folder is made. Triton wants the name `PLAN_NAME`.
        model: its name, for the facts.
        profile: shapes to serve; see `shape_profile`.
        flavour: which TensorRT.
        timing_cache: file of what TensorRT measured in earlier builds, read and brought up to date; None: measure anew. TensorRT for
            RTX measures nothing when it builds and leaves the file alone.
        workspace_bytes: most memory for intermediate tensors and kernels; > 0.

    Raises:
        TensorRtMissing: that TensorRT is not here, or too old.
        GpuMissing: TensorRT builds on a GPU alone.
        GraphRefused: the file is no ONNX, or has a node that the parser does not take.
        ProfileError: the shapes don't fit the graph.
        PlanFailed: the builder gave none.
        PlanUnwritten: the plan could not be written.
    """
    started = time.perf_counter()
    trt = tensorrt(flavour)
    gpu = find_gpu() if flavour == "tensorrt" else None
    data = source.read_bytes()
    logger = plan_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt, flavour))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(data) or not network.num_outputs:  # other bytes may pass for an empty model
        raise _refusal(source, parser)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    config.clear_flag(trt.BuilderFlag.TF32)  # else products of float32 keep 10 bits of the fraction
    config.add_optimization_profile(_optimization_profile(builder, network, profile))
    cache = read_timing_cache(config, timing_cache) if timing_cache and flavour == "tensorrt" else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise PlanFailed(source, reason=logger.errors())
    content = memoryview(plan)
    _write(target, content)
    if timing_cache and cache is not None:
        _write(timing_cache, memoryview(cache.serialize()))
    return PlanFacts(
        model=model,
        flavour=flavour,
        tensorrt_version=tensorrt_version(flavour) or trt.__version__,
        compute_capabilities=(gpu.compute_capability,) if gpu else RTX_CAPABILITIES,
        gpu=gpu.name if gpu else None,
        onnx_sha256=hashlib.sha256(data).hexdigest(),
        sha256=hashlib.sha256(content).hexdigest(),
        num_layers=network.num_layers,
        num_bytes=content.nbytes,
        duration_s=time.perf_counter() - started,
    )


def network_flags(trt: Any, flavour: Flavour) -> int:
    """Flags of a strongly typed network: since TensorRT 11 there is no other kind, and the flag goes away."""
    if flavour == "tensorrt" and _major_minor(trt) >= (11, 0):
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def plan_logger(trt: Any) -> Any:
    """A logger for TensorRT that hands all on to this module's, and keeps errors for messages: `errors()`."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.INFO,  # that an int64 input is int64, at each build
        trt.ILogger.INFO: logging.DEBUG,
        trt.ILogger.VERBOSE: logging.DEBUG,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]  # the module has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind wants this spelling
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            _log.log(levels[severity], "%s", message)
            if levels[severity] == logging.ERROR:
                self._errors.append(message)

        def errors(self) -> str:
            """What went wrong, in TensorRT's words."""
            return "; ".join(self._errors) or "it does not say why"

    return Logger()


def _refusal(source: Path, parser: Any) -> GraphRefused:
    """The error for what the parser found first."""
    if not parser.num_errors:
        return GraphRefused(source, node="", operator="", reason="it is no ONNX model")
    first = parser.get_error(0)
    return GraphRefused(source, node=first.node_name(), operator=first.node_operator(), reason=first.desc().strip())


def _optimization_profile(builder: Any, network: Any, profile: Profile) -> Any:
    """The profile in TensorRT's form.

    Raises:
        ProfileError: it does not fit the network's inputs.
    """
    made = builder.create_optimization_profile()
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    unknown = sorted(profile.keys() - {each.name for each in inputs})
    if unknown:
        raise ProfileError(unknown[0], f"the graph has no such input; it has {', '.join(each.name for each in inputs)}")
    for tensor in inputs:
        axes = tuple(tensor.shape)
        if tensor.name in profile:
            check_range(tensor.name, axes, profile[tensor.name])
        elif -1 in axes:
            raise ProfileError(tensor.name, f"missing, though its shape {list(axes)} varies; give one")
        if -1 in axes:
            wanted = profile[tensor.name]
            made.set_shape(tensor.name, wanted.least, wanted.usual, wanted.most)
    return made


def check_range(name: str, axes: Sequence[int], wanted: ShapeRange) -> None:
    """See that shapes fit an input.

    Args:
        name: of the input.
        axes: its shape in the graph; -1 varies.
        wanted: the shapes.

    Raises:
        ProfileError: they don't.
    """
    shapes = (wanted.least, wanted.usual, wanted.most)
    if any(len(shape) != len(axes) for shape in shapes):
        raise ProfileError(name, f"shapes {shapes} must have {len(axes)} axes, as the graph's {list(axes)}")
    for axis, *lengths in zip(axes, *shapes, strict=True):
        if axis != -1 and any(length != axis for length in lengths):
            raise ProfileError(
                name, f"lengths {lengths} of an axis that is {axis} in the graph; they must be equal to it"
            )
        if not 1 <= lengths[0] <= lengths[1] <= lengths[2]:
            raise ProfileError(name, f"lengths {lengths} must satisfy 1 <= least <= usual <= most")


def read_timing_cache(config: Any, path: Path) -> Any:
    """What earlier builds measured, put into a builder's configuration; an empty one where the file is absent or of no use here."""
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        _log.warning("%s: is of another TensorRT or GPU, or damaged; everything is measured anew", path)
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _write(target: Path, content: memoryview) -> None:
    """Write a file in one step.

    Raises:
        PlanUnwritten: it can't be written; nothing is left.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise PlanUnwritten(target, reason=str(error)) from error
