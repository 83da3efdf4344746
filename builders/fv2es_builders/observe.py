"""What goes on inside a graph on given inputs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from fv2es_builders.errors import CalibrationError
from fv2es_builders.parity import Arrays, session_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check_calibration(model: onnx.ModelProto, calibration: Sequence[Arrays]) -> None:
    """Raise unless there is at least one input, and each has just the graph's inputs, none empty, of finite numbers.

    Raises:
        CalibrationError: says what is wrong with which input.
    """
    name = model.graph.name
    wanted = {value.name for value in model.graph.input}
    if not calibration:
        raise CalibrationError(name, "no inputs were given; give at least one real one")
    for place, inputs in enumerate(calibration):
        if set(inputs) != wanted:
            raise CalibrationError(
                name, f"input {place} has {sorted(inputs)}, but the graph takes {sorted(wanted)}; give these"
            )
        for key, array in inputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise CalibrationError(
                    name, f"{key} of input {place} has numbers that are not finite; leave it out, or mend its source"
                )
            if not array.size:
                raise CalibrationError(name, f"{key} of input {place} is empty; leave it out")


def check_values(model: onnx.ModelProto, name: str, *values: "NDArray[Any]") -> None:
    """Raise unless what a tensor inside a graph was on a calibration input is finite.

    Raises:
        CalibrationError: names the tensor.
    """
    if not all(np.isfinite(each).all() for each in values):
        raise CalibrationError(
            model.graph.name,
            f"its tensor {name} becomes infinite or no number; look at the weights it was exported with",
        )


def tensor_values(
    model: onnx.ModelProto, names: Sequence[str], calibration: Sequence[Arrays]
) -> Iterator["dict[str, NDArray[Any]]"]:
    """Values of some tensors of a graph, inputs of the graph among them, for each input in turn."""
    inputs = {value.name for value in model.graph.input}
    inside = [name for name in names if name not in inputs]
    run = session_of(_exposing(model, inside))
    for arrays in calibration:
        yield {name: arrays[name] for name in names if name in inputs} | {
            name: array for name, array in run(arrays).items() if name in inside
        }


def largest_values(model: onnx.ModelProto, calibration: Sequence[Arrays]) -> Mapping[str, float]:
    """Largest absolute value of each FP32 tensor that a node computes, over all inputs.

    Raises:
        CalibrationError: one is not finite.
    """
    inferred = onnx.shape_inference.infer_shapes(model).graph
    floats = [
        value.name
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    ]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for name in floats:
        copy.graph.node.append(helper.make_node("Abs", [name], [f"{name}/abs"]))
        copy.graph.node.append(helper.make_node("ReduceMax", [f"{name}/abs"], [f"{name}/max"], keepdims=0))
    run = session_of(_exposing(copy, [f"{name}/max" for name in floats]))
    found = dict.fromkeys(floats, 0.0)
    for arrays in calibration:
        outputs = run(arrays)
        for name in floats:
            check_values(model, name, outputs[f"{name}/max"])
            found[name] = max(found[name], float(outputs[f"{name}/max"]))
    return found


def _exposing(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a graph that gives some inner FP32 tensors beside its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    served = {value.name for value in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in served
    )
    return copy
