"""Graphs in INT8: what is rounded, how, and that outliers are dealt with."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from fv2es_builders import quantise
from fv2es_builders.errors import BuildUsageError, CalibrationError
from fv2es_builders.gpu_speed import parity_inputs
from fv2es_builders.parity import PRECISION_TOLERANCES as TOLERANCES
from fv2es_builders.parity import Case, accept_outputs, session_of
from fv2es_builders.precision import converter
from fv2es_builders.quantise import Study, study_products
from fv2es_pipelines.specification import Profile

ANY_ERROR = 10.0
MODELS = ("visual", "acoustic", "text", "fusion")


def graph_of(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    """A graph with the output Y, which goes through one more product, `last`: the last one is never rounded."""
    graph = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    for place, node in enumerate(graph.graph.node):
        node.name = f"node {place}"
        node.output[:] = ["y" if name == "Y" else name for name in node.output]
    size = graph.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    graph.graph.node.append(onnx.helper.make_node("MatMul", ["y", "same"], ["Y"], name="last"))
    weights["same"] = np.eye(size, dtype=np.float32)
    graph.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return graph


def quantised(study: Study, *, limit: float, profile: Profile) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    lower, (*kept, last) = quantise.quantised(study, limit=limit, profile=profile)
    assert last == "last"
    return lower, tuple(kept)


def relative_error(graph: onnx.ModelProto, lower: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> float:
    exact, found = session_of(graph)(inputs)["Y"], session_of(lower)(inputs)["Y"]
    return float(np.sqrt(np.square(found - exact).mean() / np.square(exact - exact.mean(axis=0)).mean()))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def product(rng):
    return graph_of(
        "(float[N, 32] X) => (float[N, 16] Y) { Y = MatMul(X, W) }", W=rng.normal(size=(32, 16)).astype("f4")
    )


@pytest.fixture
def rows(rng):
    return rng.normal(size=(256, 32)).astype(np.float32)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_error_is_what_comes_out(product, rows, profile):
    """The error on which products are chosen is that of the graph that is written."""
    study = study_products(product, [{"X": rows}], profile, raw_input=False)
    lower, kept = quantised(study, limit=ANY_ERROR, profile=profile)
    assert kept == ()
    measured = relative_error(product, lower, {"X": rows})
    assert 1e-3 < measured < 0.03
    assert study.choices["node 0"].error == pytest.approx(measured, rel=0.1)


def test_rounding_by_hand(monkeypatch):
    """Range -1..2 on a CPU: step 3/255, zero at 85; weights -127..127 by column."""
    graph = graph_of(
        "(float[N, 2] X) => (float[N, 2] Y) { Y = MatMul(X, W) }", W=np.array([[1.27, 0.0], [0.635, -2.54]], np.float32)
    )
    monkeypatch.setattr(quantise, "WORTH", 0.0)  # channels are not scaled
    rows = np.array([[-1.0, 2.0], [0.5, 0.001]], np.float32)
    study = study_products(graph, [{"X": rows}], "cpu", raw_input=False)
    lower, _ = quantised(study, limit=ANY_ERROR, profile="cpu")
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in lower.graph.initializer}
    assert held["W/whole"].tolist() == [[127, 0], [64, -127]]  # 63.5 to even
    np.testing.assert_allclose(held["W/whole/step"], [0.01, 0.02], rtol=1e-6)
    assert (held["X/matmul/zero"], held["X/matmul/zero"].dtype) == (85, np.uint8)
    assert held["X/matmul/step"] == pytest.approx(3 / 255)
    step = 3 / 255
    whole = np.array([[-85, 170], [42, 0]]) * step  # 0.5 / step = 42.5 to even, 0.001 to 0
    expected = whole @ np.array([[1.27, 0.0], [0.64, -2.54]])
    np.testing.assert_allclose(session_of(lower)({"X": rows})["Y"], expected, atol=1e-5)


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_outlier_channel(product, rows, profile, monkeypatch):
    """One channel a thousand times the others leaves them no steps, unless channels are scaled. Its weights are small, as in trained nets."""
    rows[:, 7] *= 1000
    weights = numpy_helper.to_array(product.graph.initializer[0]).copy()
    weights[7] *= 1e-3
    product.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "W"))

    def error(worth: float) -> float:
        monkeypatch.setattr(quantise, "WORTH", worth)
        study = study_products(product, [{"X": rows[:128]}], profile, raw_input=False)
        return relative_error(product, quantised(study, limit=ANY_ERROR, profile=profile)[0], {"X": rows[128:]})

    assert error(worth=0.0) > 0.5  # never scaled
    assert error(worth=0.7) < 0.05


def test_limit(product, rows):
    study = study_products(product, [{"X": rows}], "cpu", raw_input=False)
    error = study.choices["node 0"].error
    assert quantised(study, limit=error, profile="cpu")[1] == ()
    lower, kept = quantised(study, limit=0.99 * error, profile="cpu")
    assert kept == ("node 0",)
    assert [node.op_type for node in lower.graph.node] == ["MatMul", "MatMul"]


def test_same_each_time(product, rows):
    graphs = [
        quantised(study_products(product, [{"X": rows}], "cpu", raw_input=False), limit=1, profile="cpu")[0]
        for _ in range(2)
    ]
    assert graphs[0] == graphs[1]


@pytest.mark.parametrize("attributes", ["", "<transB = 1>", "<alpha = 2.0>", "<beta = 0.5>"])
@pytest.mark.parametrize("bias", [", B", ""])
def test_gemm(rng, rows, attributes, bias):
    """A Gemm that is no plain layer stays as it is, the others become products: never anything else."""
    weight = rng.normal(size=(16, 32) if "transB" in attributes else (32, 16)).astype(np.float32)
    graph = graph_of(
        f"(float[N, 32] X) => (float[N, 16] Y) {{ Y = Gemm {attributes} (X, W{bias}) }}",
        W=weight,
        **({"B": rng.normal(size=16).astype(np.float32)} if bias else {}),
    )
    lower, kept = quantised(study_products(graph, [{"X": rows}], "cpu", raw_input=False), limit=1, profile="cpu")
    plain = bool(bias) and attributes in ("", "<transB = 1>")
    assert kept == (() if plain else ("node 0",))
    assert relative_error(graph, lower, {"X": rows}) < 0.03


def test_shared_weights_are_stored_once(rng, rows):
    """ALBERT's layers share their weights, though each has its own input."""
    weight = rng.normal(size=(32, 32)).astype(np.float32) / 6
    rows[:, 3] *= 300
    graph = graph_of("(float[N, 32] X) => (float[N, 32] Y) { a = MatMul(X, W) b = Relu(a) Y = MatMul(b, W) }", W=weight)
    lower, kept = quantised(
        study_products(graph, [{"X": rows}], "cpu", raw_input=False), limit=ANY_ERROR, profile="cpu"
    )
    assert kept == ()
    assert (
        sum(tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2 for tensor in lower.graph.initializer) == 1
    )
    assert relative_error(graph, lower, {"X": rows}) < 0.1


def test_products_without_a_plain_weight_stay(rng):
    graph = graph_of(
        "(float[N, 3, 4] X) => (float[N, 3, 3] Y) { a = MatMul(X, W) t = Transpose <perm = [0, 2, 1]> (X) Y = MatMul(a, t) }",
        W=rng.normal(size=(1, 4, 4)).astype(np.float32),
    )
    calibration = [{"X": rng.normal(size=(2, 3, 4)).astype(np.float32)}]
    study = study_products(graph, calibration, "cpu", raw_input=False)
    assert quantised(study, limit=ANY_ERROR, profile="cpu")[1] == ("node 0", "node 2")


@pytest.fixture
def convolution(rng):
    graph = graph_of(
        "(float[N, 4, 6, 6] X) => (float[N, 8, 4, 4] Y) { Y = Conv(X, W) }",
        W=rng.normal(size=(8, 4, 3, 3)).astype("f4"),
    )
    return graph, [{"X": rng.normal(size=(16, 4, 6, 6)).astype(np.float32)}]


@pytest.mark.parametrize(("profile", "kept"), [("cpu", ("node 0",)), ("gpu", ())])
def test_convolution_to_floats(convolution, profile, kept):
    """ONNX Runtime would compute it in FP32 all the same."""
    graph, calibration = convolution
    study = study_products(graph, calibration, profile, raw_input=False)
    lower, found = quantised(study, limit=ANY_ERROR, profile=profile)
    assert found == kept
    assert relative_error(graph, lower, calibration[0]) < 0.03


def test_raw_input(convolution):
    graph, calibration = convolution
    raw = study_products(graph, calibration, "gpu", raw_input=True)
    assert quantised(raw, limit=ANY_ERROR, profile="gpu")[1] == ("node 0",)


@pytest.mark.parametrize(("graph", "kept"), [
    ("a = Conv(X, V) n = LayerNormalization(a, S) Y = Conv(n, W)", ("node 0",)),
    ("a = Conv(X, V) b = Relu(a) Y = Conv(b, W)", ("node 0", "node 2")),
], ids=["tamed", "never tamed"])  # fmt: skip
def test_raw_until_layer_norm(rng, graph, kept):
    """What is loud would take all steps from what is quiet: a sum over both shows no error."""
    made = graph_of(
        f"(float[N, 4, 6, 6] X) => (float[N, 8, 2, 2] Y) {{ {graph} }}",
        V=rng.normal(size=(4, 4, 3, 3)).astype("f4"),
        S=np.ones(4, "f4"),
        W=rng.normal(size=(8, 4, 3, 3)).astype("f4"),
    )
    calibration = [{"X": rng.exponential(size=(16, 4, 6, 6)).astype(np.float32) ** 4}]
    study = study_products(made, calibration, "gpu", raw_input=True)
    assert quantised(study, limit=ANY_ERROR, profile="gpu")[1] == kept


CHAINS = {
    "rounded": ("b = Relu(a) c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b) d = Reshape(c, R) Y = MatMul(d, M)", True),
    "seen as floats too": ("b = Relu(a) e = Exp(a) f = Add(b, e) c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (f) d = Reshape(c, R) Y = MatMul(d, M)", False),
    "no plain way": ("b = Sigmoid(a) c = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (b) d = Reshape(c, R) Y = MatMul(d, M)", False),
}  # fmt: skip


@pytest.mark.parametrize(("rest", "whole"), CHAINS.values(), ids=CHAINS)
def test_convolutions_on_a_cpu(rng, tmp_path, monkeypatch, rest, whole):
    """Whole numbers all the way to the next product, or not at all: ONNX Runtime's own optimised graph tells."""
    monkeypatch.setattr(quantise, "WORTH", 0.0)  # channels that are scaled before the product are floats there
    graph = graph_of(
        f"(float[N, 4, 6, 6] X) => (float[N, 3] Y) {{ a = Conv(X, W) {rest} }}",
        W=rng.normal(size=(8, 4, 3, 3)).astype("f4"),
        R=np.array([-1, 32]),
        M=rng.normal(size=(32, 3)).astype("f4"),
    )
    calibration = [{"X": rng.normal(size=(64, 4, 6, 6)).astype(np.float32)}]
    study = study_products(graph, calibration, "cpu", raw_input=False)
    lower, kept = quantised(study, limit=ANY_ERROR, profile="cpu")
    assert kept == (() if whole else ("node 0",))
    assert relative_error(graph, lower, calibration[0]) < 0.05
    operators = optimised(lower, tmp_path)
    assert ("QLinearConv" in operators) == whole
    assert ("Conv" in operators or "FusedConv" in operators) != whole


def optimised(graph: onnx.ModelProto, folder: Path) -> set[str]:
    """Operators that ONNX Runtime makes of a graph on this CPU."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}


def test_infinite_inside(rng):
    graph = graph_of(
        "(float[N, 4] X) => (float[N, 4] Y) { a = Exp(X) Y = MatMul(a, W) }", W=rng.normal(size=(4, 4)).astype("f4")
    )
    with pytest.raises(CalibrationError, match="calibration of g: its tensor a becomes infinite or no number; look at"):
        study_products(graph, [{"X": np.full((1, 4), 200, np.float32)}], "cpu", raw_input=False)


@pytest.mark.xdist_group("graphs")
@pytest.mark.parametrize("profile", ["cpu", "gpu"])
@pytest.mark.parametrize("model", MODELS)
def test_graphs_of_the_model(tiny_graphs, tiny, tmp_path, model, profile):
    inputs = parity_inputs(model, tiny)
    source = onnx.load(str(tiny_graphs[model]))
    convert = converter(
        tiny_graphs[model],
        model=model,
        precision="int8",
        calibration=[arrays for _, arrays in inputs],
        profile=profile,
    )
    lower = convert(0.05)
    lower.write(tmp_path / "1" / "model.onnx")
    graph = onnx.load(str(tmp_path / "1" / "model.onnx"))
    assert list(graph.graph.input) == list(source.graph.input)
    assert list(graph.graph.output) == list(source.graph.output)
    assert {each.key: each.value for each in graph.metadata_props}["fv2es.precision"] == "int8"
    rounded = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    assert bool(rounded) == (model != "fusion")
    assert (lower.products == len(lower.kept)) == (model == "fusion")
    run = session_of(source)
    cases = [Case(name=name, inputs=arrays, outputs=run(arrays)) for name, arrays in inputs]
    accept_outputs(tmp_path, session_of(graph), cases=cases, tolerances=TOLERANCES["int8"])


@pytest.mark.xdist_group("graphs")
@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "calibration of visual: no inputs were given; give at least one real one"),
        ([{"PIECES": np.ones(1)}], r"input 0 has \['PIECES'\], but the graph takes \['FACES'\]; give these"),
        (
            [{"FACES": np.full((1, 48, 48, 3), np.nan)}],
            "FACES of input 0 has numbers that are not finite; leave it out",
        ),
        ([{"FACES": np.zeros((0, 48, 48, 3), np.uint8)}], "FACES of input 0 is empty; leave it out"),
    ],
    ids=["none", "names", "NaN", "empty"],
)
def test_calibration_that_does_not_serve(tiny_graphs, inputs, message):
    for precision in ("fp16", "int8"):
        with pytest.raises(CalibrationError, match=message) as caught:
            converter(tiny_graphs["visual"], model="visual", precision=precision, calibration=inputs, profile="cpu")
        assert caught.value.subject == "visual"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp8"}, "precision 'fp8' does not exist; choose one of fp32, fp16, bf16, int8"),
        ({"profile": "tpu"}, "profile 'tpu' does not exist; choose one of cpu, gpu"),
        ({"model": "faces"}, "model 'faces' does not exist; choose one of visual, acoustic, text, fusion"),
        ({"precision": "bf16"}, "precision 'bf16' can't be served on profile cpu: .+ choose fp32, fp16 or int8"),
    ],
)
def test_usage(tmp_path, changes, message):
    arguments = {"model": "visual", "precision": "int8", "calibration": [], "profile": "cpu", **changes}
    with pytest.raises(BuildUsageError, match=message):
        converter(tmp_path / "none.onnx", **arguments)
