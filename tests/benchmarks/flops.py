"""Floating-point operations of an ONNX graph for given inputs, counted by running it."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

PRODUCTS = ("MatMul", "Gemm", "Conv", "Einsum")
"""All that costs much. A kind that is unknown here and costs much too has to be added, or it is free."""


def flop_of(path: Path, feeds: dict[str, np.ndarray]) -> int:
    """Two for each multiplication with its addition in matrix products and convolutions; nothing else is counted.

    Every product's output is made an output of the graph, so shapes are those that really come out.
    """
    model = onnx.load(path)
    nodes = [each for each in model.graph.node if each.op_type in PRODUCTS]
    wanted = sorted({name for each in nodes for name in (*each.input[:2], each.output[0])})
    known = {each.name: list(each.dims) for each in model.graph.initializer}
    known |= {name: list(value.shape) for name, value in feeds.items()}
    asked = [name for name in wanted if name not in known]
    present = {each.name for each in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked if name not in present)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for name, value in zip(asked, session.run(asked, feeds), strict=True):
        known[name] = list(value.shape)
    return sum(_flop(each, known) for each in nodes)


def _flop(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    left, right, out = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":  # right: [out channels, in channels of a group, height, width]
        inner = int(np.prod(right[1:]))
    elif node.op_type == "Gemm":
        inner = left[0] if any(each.name == "transA" and each.i for each in node.attribute) else left[1]
    elif node.op_type == "MatMul":
        inner = left[-1]
    else:
        raise NotImplementedError(f"{node.name}: {node.op_type}; write its inner size here")
    return 2 * int(np.prod(out)) * inner
