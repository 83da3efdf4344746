"""Weights stored in FP16: half the file, and nothing else is rounded than they are."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from fv2es_builders.gpu_speed import parity_inputs
from fv2es_builders.mixed import LARGEST
from fv2es_builders.parity import session_of
from fv2es_builders.storage import LEAST_ELEMENTS, LEAST_NORMAL, halved, restored

pytestmark = pytest.mark.xdist_group("graphs")


@pytest.fixture(scope="module", params=["visual", "acoustic", "text", "fusion"])
def model(request):
    return request.param


@pytest.fixture(scope="module")
def graph(tiny_graphs, model):
    return onnx.load(str(tiny_graphs[model]))


def floats(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }


def test_large_constants_take_half(graph):
    small = halved(graph)
    before = sum(values.nbytes for values in floats(graph).values() if values.size >= LEAST_ELEMENTS)
    assert before > 0
    assert not [name for name, values in floats(small).items() if values.size >= LEAST_ELEMENTS]
    saved = len(graph.SerializeToString()) - len(small.SerializeToString())
    casts = len(small.graph.node) - len(graph.graph.node)
    assert saved >= before / 2 - 400 * casts
    assert list(small.graph.input) == list(graph.graph.input)
    assert list(small.graph.output) == list(graph.graph.output)


def test_it_computes_as_fp32_with_rounded_weights(graph, model, tiny):
    """The stored graph, what is restored of it, and the graph with rounded constants give the same bits."""
    rounded = onnx.ModelProto()
    rounded.CopyFrom(graph)
    for tensor in rounded.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT and values.size >= LEAST_ELEMENTS:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16).astype(np.float32), tensor.name))
    small = halved(graph)
    assert restored(small) == rounded
    runs = [session_of(each) for each in (rounded, small)]
    for name, inputs in parity_inputs(model, tiny):
        expected, found = (run(inputs) for run in runs)
        for output, values in expected.items():
            np.testing.assert_array_equal(found[output], values, err_msg=f"{name} {output}")
    exact = session_of(graph)
    assert any(
        (exact(inputs)[output] != runs[1](inputs)[output]).any()
        for _, inputs in parity_inputs(model, tiny)
        for output in exact(inputs)
    )


@pytest.mark.parametrize("number", [2 * LARGEST["fp16"], LEAST_NORMAL / 2])
def test_numbers_that_fp16_cannot_hold_stay(number):
    large = np.full(LEAST_ELEMENTS, number, np.float32)
    node = onnx.helper.make_node("Add", ["x", "large"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, [LEAST_ELEMENTS]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:], [numpy_helper.from_array(large, "large")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    assert halved(model) == model
    assert session_of(halved(model))({"x": large})["y"][0] == 2 * np.float32(number)


def test_steps_of_quantised_numbers_stay(tiny_graphs, tiny):
    graph = onnx.load(str(tiny_graphs["fusion"]))
    weight = next(node.input[1] for node in graph.graph.node if node.op_type == "Gemm")
    scale = np.full(LEAST_ELEMENTS, 0.01, np.float32)
    graph.graph.initializer.extend(
        [
            numpy_helper.from_array(scale, "step"),
            numpy_helper.from_array(np.ones((LEAST_ELEMENTS, 2), np.int8), "whole"),
        ]
    )
    graph.graph.node.append(onnx.helper.make_node("DequantizeLinear", ["whole", "step"], ["unused"], axis=0))
    small = floats(halved(graph))
    assert "step" in small
    assert weight not in small or small[weight].size < LEAST_ELEMENTS
