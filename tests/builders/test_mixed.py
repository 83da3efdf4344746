"""Graphs in FP16 and BF16: what becomes small, what stays, and that the rest of the graph is as it was."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from fv2es_builders.gpu_speed import parity_inputs
from fv2es_builders.mixed import HEADROOM, LARGEST, PRODUCTS, is_mixed, mixed_precision, storage_rounded
from fv2es_builders.parity import PRECISION_TOLERANCES, Case, accept_outputs, session_of

pytestmark = pytest.mark.xdist_group("graphs")

MODELS = ("visual", "acoustic", "text", "fusion")
TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def types_of(graph: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    values = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    return (
        values
        | {value.name: value.type.tensor_type.elem_type for value in inferred.input}
        | {tensor.name: tensor.data_type for tensor in inferred.initializer}
    )


@pytest.fixture(scope="module", params=["fp16", "bf16"])
def low(request):
    return request.param


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return request.param


@pytest.fixture(scope="module")
def exact(tiny_graphs, model):
    return onnx.load(str(tiny_graphs[model]))


@pytest.fixture(scope="module")
def both(exact, model, low):
    return mixed_precision(exact, low, raw_input=model == "acoustic")


@pytest.fixture(scope="module")
def mixed(both):
    return both[0]


@pytest.fixture(scope="module")
def kept(both):
    return both[1]


def test_names_and_types(exact, mixed):
    assert list(mixed.graph.input) == list(exact.graph.input)
    assert list(mixed.graph.output) == list(exact.graph.output)


def test_weights_are_small(exact, mixed, kept, low):
    """Every product that is not named as kept has its weight and bias in the smaller type alone."""
    types = {tensor.name: tensor.data_type for tensor in mixed.graph.initializer}
    lower = [node for node in mixed.graph.node if node.op_type in PRODUCTS and node.name not in kept]
    weights = [name for node in lower for name in node.input if name in types]
    assert weights
    assert {types[name] for name in weights} == {TYPES[low]}
    assert is_mixed(mixed)
    assert not is_mixed(exact)


def test_sensitive_nodes_stay(mixed):
    types = types_of(mixed)
    for node in mixed.graph.node:
        if node.op_type in ("Softmax", "LayerNormalization", "Sigmoid"):
            assert {types[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT}


def test_sound_stays_until_a_layer_norm(tiny_graphs, low):
    """Power of the spectrum without a logarithm spans ten decades."""
    lower, kept = mixed_precision(onnx.load(str(tiny_graphs["acoustic"])), low, raw_input=True)
    (first,) = (node for node in lower.graph.node if "PIECES" in node.input)
    assert first.op_type == "Conv"
    assert first.name in kept
    assert types_of(lower)[first.output[0]] == TensorProto.FLOAT


def test_within_tolerance(exact, mixed, model, low, tiny):
    run = session_of(exact)
    cases = [Case(name=name, inputs=arrays, outputs=run(arrays)) for name, arrays in parity_inputs(model, tiny)]
    figures = accept_outputs(
        model, session_of(storage_rounded(mixed)), cases=cases, tolerances=PRECISION_TOLERANCES[low]
    )
    assert any(each.max_abs > 0 for each in figures.values()), "nothing was rounded"


def layers() -> onnx.ModelProto:
    """Three layers with a ReLU in between; the first and the last product are those at the borders."""
    graph = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N, 4] X) => (float[N, 4] Y) '
        "<float[4, 4] A, float[4, 4] B, float[4, 4] C> "
        "{ a = MatMul(X, A) b = Relu(a) c = MatMul(b, B) d = Relu(c) Y = MatMul(d, C) }"
    )
    for place, node in enumerate(graph.graph.node):
        node.name = f"node {place}"
    del graph.graph.initializer[:]
    rng = np.random.default_rng(0)
    for name in "ABC":
        graph.graph.initializer.append(onnx.numpy_helper.from_array(rng.random((4, 4), np.float32), name))
    return graph


def test_large_tensors_stay():
    graph = layers()
    limit = LARGEST["fp16"] / HEADROOM
    assert mixed_precision(graph, "fp16", largest={"c": 0.9 * limit})[1] == ("node 4",)
    assert mixed_precision(graph, "fp16", largest={"c": 1.1 * limit})[1] == ("node 2", "node 4")
    assert mixed_precision(graph, "bf16", largest={"c": 1.1 * limit})[1] == ("node 4",)


def test_stand_in_rounds_every_result(low):
    """By hand: a product of the smaller type is rounded once, after it was summed in float32."""
    mixed, _ = mixed_precision(layers(), low)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in mixed.graph.initializer}
    dtype = weights[f"A.{low}"].dtype
    rows = np.random.default_rng(1).random((3, 4), np.float32).astype(dtype)
    hidden = rows
    for name in "AB":
        hidden = (hidden.astype(np.float32) @ weights[f"{name}.{low}"].astype(np.float32)).astype(dtype)
    expected = hidden.astype(np.float32) @ weights["C"]
    found = session_of(storage_rounded(mixed))({"X": rows.astype(np.float32)})["Y"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_bf16_has_its_opset(tiny_graphs):
    """Convolutions and pooling in BF16 exist from opset 22 on."""
    graph = onnx.load(str(tiny_graphs["visual"]))
    graph.opset_import.insert(0, onnx.helper.make_opsetid("other", 1))
    opsets = {each.domain: each.version for each in mixed_precision(graph, "bf16")[0].opset_import}
    assert opsets == {"other": 1, "": 22}
