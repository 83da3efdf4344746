"""Graphs that compute in FP32 and keep their weights in FP16: half the file, the same speed.

ONNX Runtime makes the FP32 constants when it loads the file, so nothing else is rounded than the weights.
"""

from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fv2es_builders.mixed import LARGEST

LEAST_ELEMENTS: Final = 64
"""Smaller constants stay as they are: they save nothing, and some are epsilons."""

LEAST_NORMAL: Final = 2.0**-14
"""Below this FP16 loses digits. Source: IEEE 754 binary16."""

_QUANTISERS: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})

_STORED: Final = "/fp16"
"""What the name of a stored constant ends in."""


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large FP32 constants are stored in FP16, each with a cast to what it was called.

    In FP32 stay constants with a number beyond FP16's range or all below its normal numbers, and the steps of quantised ones.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    steps = {node.input[1] for node in copy.graph.node if node.op_type in _QUANTISERS}
    casts = []
    for tensor in copy.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < LEAST_ELEMENTS or tensor.name in steps:
            continue
        values = numpy_helper.to_array(tensor)
        if not LEAST_NORMAL <= np.abs(values).max() <= LARGEST["fp16"]:
            continue
        stored = f"{tensor.name}{_STORED}"
        casts.append(helper.make_node("Cast", [stored], [tensor.name], name=f"{stored}/cast", to=TensorProto.FLOAT))
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), stored))
    _prepend(copy.graph, casts)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def restored(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of what `halved` gave with plain FP32 constants again, rounded as they are now."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in copy.graph.initializer if tensor.name.endswith(_STORED)}
    nodes = []
    for node in copy.graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:
            tensor = stored[node.input[0]]
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        else:
            nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def _prepend(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Put nodes before all others, as the order of a graph asks of what the others take."""
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
