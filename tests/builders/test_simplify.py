"""Exported graphs are as plain as they can be: what an engine's builder need not find out is not in them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from fv2es_builders.export import onnx_from_module, served_parts, text_spec
from fv2es_builders.modules.text import TextBranch, TextEncoder
from fv2es_builders.parity import ATOL, accept, case_from_module, onnx_runner
from fv2es_builders.presets import ALBERT_BASE_V2
from fv2es_builders.simplify import simplify

pytestmark = pytest.mark.xdist_group("graphs")

OVERHEAD_BYTES = 20_000
"""Names, shapes and small constants; of no account but beside the weights of a tiny model."""

NORMS = {"visual": 0, "acoustic": 3 * 2 + 2 + 1, "text": 1 + 2, "fusion": 2 * 2}
"""Layer norms: two a transformer layer, one a pooling, one before the end of NesT, one after the embeddings."""
ATTENTIONS = {"visual": 0, "acoustic": 3, "text": 1, "fusion": 2}
GELUS = {"visual": 0, "acoustic": 3, "text": 1, "fusion": 0}
MOST_NODES = {"visual": 20, "acoustic": 105, "text": 43, "fusion": 90}
"""Of the tiny model. An export without simplification has 121, 49 and 112 in the last three."""


@pytest.fixture(scope="module", params=["visual", "acoustic", "text", "fusion"])
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def graph(tiny_graphs, name) -> onnx.GraphProto:
    return onnx.load(tiny_graphs[name]).graph


def arrays_of(graph) -> dict[str, np.ndarray]:
    return {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}


def test_one_node_for_each_layer(graph, name):
    counts = Counter(node.op_type for node in graph.node)
    assert counts["LayerNormalization"] == NORMS[name]
    assert counts["Softmax"] == ATTENTIONS[name]
    assert counts["Gelu"] == GELUS[name]
    assert len(graph.node) <= MOST_NODES[name]
    assert not counts.keys() & {
        "Identity",
        "Dropout",
        "Erf",
        "Tanh",
        "Pow",
        "ReduceMean",
        "Constant",
        "ConstantOfShape",
    }


def test_no_arithmetic_on_shapes(graph, name):
    """Only the length of the sequences is asked for: to cut the positions of the text, to repeat CLS."""
    constants = arrays_of(graph)
    assert all(node.input[1] in constants for node in graph.node if node.op_type == "Reshape")
    num_shapes = sum(node.op_type == "Shape" for node in graph.node)
    assert num_shapes == {"visual": 0, "acoustic": 0, "text": 1, "fusion": 1}[name]


def test_no_node_undoes_or_prepares_another(graph):
    """No transposition after a transposition or of a weight, no two reshapes in a row."""
    constants = arrays_of(graph)
    maker = {output: node.op_type for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ("Transpose", "Reshape", "Cast"):
            assert maker.get(node.input[0]) != node.op_type
            assert node.input[0] not in constants
        assert any(each not in constants for each in node.input)  # else it is a constant itself


def test_file_holds_weights_once(tiny_graphs, tiny_model, graph, name):
    module = {spec.name: module for _, module, spec in served_parts(tiny_model)}[name]
    num_bytes = sum(each.nbytes for each in module.parameters())
    assert tiny_graphs[name].stat().st_size <= 1.05 * num_bytes + OVERHEAD_BYTES
    contents = [array.tobytes() for array in arrays_of(graph).values() if array.size > 1]
    assert len(contents) == len(set(contents))
    used = {each for node in graph.node for each in node.input}
    assert {each.name for each in graph.initializer} <= used


def test_weights_that_layers_share(tiny, tmp_path):
    """ALBERT's layers are one layer: its weights are kept once, already transposed, and its GELU is one node."""
    size = replace(
        ALBERT_BASE_V2,
        config={
            **ALBERT_BASE_V2.config,
            "vocab_size": 50,
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
        },
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = TextEncoder(size)
        branch = TextBranch(encoder, torch.nn.Linear(96, 2)).eval()
    path = onnx_from_module(branch, text_spec(tiny), tmp_path / "albert.onnx")
    graph = onnx.load(path).graph
    constants = arrays_of(graph)
    counts = Counter(node.op_type for node in graph.node)
    assert counts["Gelu"] == counts["Softmax"] == 3
    assert not any(node.op_type == "Transpose" and node.input[0] in constants for node in graph.node)
    assert path.stat().st_size <= 1.05 * sum(each.nbytes for each in branch.parameters()) + OVERHEAD_BYTES
    ids = np.array([[2, 31, 4, 3], [2, 7, 3, 0]])
    inputs = {"INPUT_IDS": ids, "ATTENTION_MASK": (ids > 0).astype(np.int64)}
    case = case_from_module("words", branch, inputs, ["TEXT"])
    accept(path, onnx_runner(path), cases=[case], atol=ATOL["export"])


RESHAPES = """
<ir_version: 9, opset_import: ["" : 20]>
g (float[U, L, 12] X, float[P, Q] Y) => (float[U, L, 3, 4] KEPT, float[U, W] LEFT, float[A, B, 1] UNKNOWN)
<int64[2] tail = {3, 4}, int64[1] one = {1}>
{
    u = Shape<start = 0, end = 1>(X)
    l = Shape<start = 1, end = 2>(X)
    kept = Concat<axis = 0>(u, l, tail)
    KEPT = Reshape(X, kept)
    minus = Neg(one)
    left = Concat<axis = 0>(u, minus)
    LEFT = Reshape(X, left)
    swapped = Shape<start = 1, end = 2>(Y)
    number = Shape<start = 0, end = 1>(Y)
    unknown = Concat<axis = 0>(swapped, number, one)
    UNKNOWN = Reshape(Y, unknown)
}
"""


def test_computed_shapes():
    """A shape that a constant can say becomes one; one that needs two lengths from elsewhere is left alone."""
    proto = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(RESHAPES), data_prop=True)
    model = ir.from_proto(proto)
    simplify(model)
    plain = ir.to_proto(model)
    constants = arrays_of(plain.graph)
    shapes = {node.output[0]: node.input[1] for node in plain.graph.node if node.op_type == "Reshape"}
    assert constants[shapes["KEPT"]].tolist() == [0, 0, 3, 4]
    assert constants[shapes["LEFT"]].tolist() == [0, -1]
    assert shapes["UNKNOWN"] not in constants
    assert Counter(node.op_type for node in plain.graph.node) == {"Reshape": 3, "Shape": 2, "Concat": 1}

    rng = np.random.default_rng(0)
    inputs = {"X": rng.random((2, 5, 12), dtype=np.float32), "Y": rng.random((3, 4), dtype=np.float32)}
    for before, after in zip(run(proto, inputs), run(plain, inputs), strict=True):
        np.testing.assert_array_equal(before, after)


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    return onnx.reference.ReferenceEvaluator(model).run(None, inputs)
