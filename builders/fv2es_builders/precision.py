"""ONNX files in FP16, BF16 and INT8 from FP32 ones. Which errors are admitted: `fv2es_builders.parity`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import onnx

from fv2es_builders.errors import BuildUsageError
from fv2es_builders.mixed import PRODUCTS, mixed_precision
from fv2es_builders.observe import check_calibration, largest_values
from fv2es_builders.parity import Arrays
from fv2es_builders.quantise import quantised, study_products
from fv2es_builders.storage import halved
from fv2es_pipelines.specification import Profile

Precision = Literal["fp32", "fp16", "bf16", "int8"]

PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
PROFILES: Final[tuple[Profile, ...]] = get_args(Profile)
MODELS: Final = ("visual", "acoustic", "text", "fusion")
"""The graphs that have a precision."""

FULL: Final = "fusion"
"""The graph that is FP32 in every precision."""

INT8_LIMITS: Final = (0.035, 0.02)
"""Errors up to which products are put into INT8 (see `fv2es_builders.quantise.Choice`): the first that passes the proof is taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A graph in another precision. It is not yet proven: see `fv2es_builders.engines`."""

    model: onnx.ModelProto
    products: int
    """Convolutions and matrix products in the graph."""
    kept: tuple[str, ...]
    """Names of those whose arithmetic is in more than the precision asked for."""

    def write(self, target: Path) -> None:
        """Write the file; its folder is made."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.model.SerializeToString())


def converter(
    source: Path, *, model: str, precision: Precision, calibration: Sequence[Arrays], profile: Profile
) -> Callable[[float], Converted]:
    """A function that gives an FP32 graph in another precision. Names and types of the graph's inputs and outputs stay as they are.

    What has to be measured on the calibration inputs is measured now, so that the function is quick. It takes the limit for INT8, see
    `INT8_LIMITS`, and does not care about it in other precisions. `fusion` computes in FP32 in all of them: it has one hundredth of
    the arithmetic and gives the answer itself. On a CPU, weights that are not in INT8 are stored in FP16 and computed with in FP32, see
    `fv2es_builders.storage`; that is all that FP16 is there.

    Args:
        source: ONNX file in FP32.
        model: which of `MODELS` the graph is.
        precision: FP32 is a plain copy.
        calibration: real inputs of the graph, from which ranges are taken. FP16 and INT8 need at least one.
        profile: what will run the file: ONNX Runtime on a CPU, or TensorRT.

    Raises:
        BuildUsageError: an unknown precision, profile or model, or a precision that the profile can't run.
        CalibrationError: the calibration is empty, is not for this graph, or has numbers that are not finite.
    """
    _check_known(precision, profile, model)
    check_precision(precision, profile)
    graph = onnx.load(str(source))
    products = tuple(node.name for node in graph.graph.node if node.op_type in PRODUCTS)
    if precision in ("fp16", "int8"):
        check_calibration(graph, calibration)
    if precision == "int8" and model != FULL:
        study = study_products(graph, calibration, profile, raw_input=model == "acoustic")

        def in_int8(limit: float) -> Converted:
            lower, kept = quantised(study, limit=limit, profile=profile)
            if profile == "cpu":
                lower = halved(lower)
            return Converted(model=_marked(lower, precision), products=len(products), kept=kept)

        return in_int8
    lower, kept = graph, () if precision == "fp32" else products
    if precision != "fp32" and profile == "cpu":
        lower, kept = halved(graph), () if precision == "fp16" else products
    elif precision in ("fp16", "bf16") and model != FULL:
        largest = largest_values(graph, calibration) if precision == "fp16" else {}
        lower, kept = mixed_precision(graph, precision, raw_input=model == "acoustic", largest=largest)
    converted = Converted(model=_marked(lower, precision), products=len(products), kept=kept)
    return lambda _limit: converted


def check_precision(precision: Precision, profile: Profile) -> None:
    """See that a profile can run a precision.

    Raises:
        BuildUsageError: it can't.
    """
    if precision == "bf16" and profile == "cpu":
        raise BuildUsageError(
            "precision 'bf16' can't be served on profile cpu: ONNX Runtime has no BF16 products there; "
            "choose fp32, fp16 or int8, or profile gpu"
        )


def _check_known(precision: str, profile: str, model: str) -> None:
    for what, value, known in (
        ("precision", precision, PRECISIONS),
        ("profile", profile, PROFILES),
        ("model", model, MODELS),
    ):
        if value not in known:
            raise BuildUsageError(f"{what} {value!r} does not exist; choose one of {', '.join(known)}")


def _marked(graph: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """The graph with its precision written into it."""
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    onnx.helper.set_model_props(graph, {**properties, "fv2es.precision": precision})
    return graph
