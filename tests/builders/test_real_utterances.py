"""Engines made on the built-in utterances answer on others, from three data sets, as FP32 does."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from builders.real_utterances import compose
from fv2es_builders.assets import read_tokenizer
from fv2es_builders.engines import accept_chain, make_engines, real_inputs, runner_of
from fv2es_builders.golden.utterances import golden_utterances
from fv2es_builders.graphs import ENGINES, TOKENIZER_PATH, graph_path
from fv2es_builders.parity import onnx_runner
from fv2es_builders.precision import INT8_LIMITS, converter
from fv2es_builders.presets import PRESETS
from fv2es_builders.shipped import RepositorySource
from fv2es_builders.utterances import Utterance, answers

pytestmark = pytest.mark.timeout(600)

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
TOKENIZER = REPOSITORY / TOKENIZER_PATH


def shipped(folder: Path) -> dict[str, Path]:
    """The committed graphs, trained, in FP32."""
    RepositorySource(preset=PRESETS["starter"], repository=REPOSITORY).make(folder, lambda _line: None)
    return {model: folder / graph_path(model) for model in ENGINES}


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
    graphs, others = shipped(tmp_path / "fp32"), compose(shared_data, 28)
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
    graphs, others = shipped(tmp_path / "fp32"), compose(shared_data, 112)
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
