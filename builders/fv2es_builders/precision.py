"""ONNX files in FP16, BF16 and INT8 from FP32 ones. Which errors are admitted: `fv2es_builders.parity`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import onnx

from fv2es_builders.errors import BuildUsageError
from fv2es_builders.mixed import PRODUCTS, mixed_precision
from fv2es_builders.observe import check_calibration, largest_values
from fv2es_builders.parity import Arrays

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Profile = Literal["cpu", "gpu"]

PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
PROFILES: Final[tuple[Profile, ...]] = get_args(Profile)
MODELS: Final = ("visual", "acoustic", "text", "fusion")
"""The graphs that have a precision."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A file in another precision. It is not yet proven: see `fv2es_builders.parity`."""

    path: Path
    precision: Precision
    products: int
    """Convolutions and matrix products in the graph."""
    kept: tuple[str, ...]
    """Names of those whose arithmetic is in more than the precision asked for."""


def convert(
    source: Path,
    target: Path,
    *,
    model: str,
    precision: Precision,
    calibration: Sequence[Arrays],
    profile: Profile,
) -> Converted:
    """Write an FP32 graph in another precision. Names and types of its inputs and outputs stay as they are.

    Args:
        source: ONNX file in FP32.
        target: where to write; its folder is made.
        model: which of `MODELS` the graph is.
        precision: FP32 is a plain copy.
        calibration: real inputs of the graph, from which ranges are taken. FP16 and INT8 need at least one.
        profile: what will run the file: ONNX Runtime on a CPU, or TensorRT.

    Raises:
        BuildUsageError: an unknown precision, profile or model.
        CalibrationError: the calibration is empty, is not for this graph, or has numbers that are not finite.
    """
    _check(precision, profile, model)
    graph = onnx.load(str(source))
    kept: tuple[str, ...] = ()
    products = sum(node.op_type in PRODUCTS for node in graph.graph.node)
    if precision in ("fp16", "int8"):
        check_calibration(graph, calibration)
    if precision == "int8":
        raise NotImplementedError
    if precision in ("fp16", "bf16"):
        largest = largest_values(graph, calibration) if precision == "fp16" else {}
        graph, kept = mixed_precision(graph, precision, raw_input=model == "acoustic", largest=largest)
    _mark(graph, precision)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(graph.SerializeToString())
    return Converted(path=target, precision=precision, products=products, kept=kept)


def _check(precision: str, profile: str, model: str) -> None:
    for what, value, known in (
        ("precision", precision, PRECISIONS),
        ("profile", profile, PROFILES),
        ("model", model, MODELS),
    ):
        if value not in known:
            raise BuildUsageError(f"{what} {value!r} does not exist; choose one of {', '.join(known)}")


def _mark(graph: onnx.ModelProto, precision: Precision) -> None:
    """Write the precision into the file."""
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    onnx.helper.set_model_props(graph, {**properties, "fv2es.precision": precision})
