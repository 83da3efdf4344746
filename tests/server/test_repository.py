"""The committed repository is what the specification renders, and Triton's own parser takes it."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fv2es_builders.render import adapter_from_model, config_from_model, readme_with_tables
from fv2es_pipelines.specification import MODELS, Model

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"


@pytest.mark.parametrize("model", MODELS, ids=lambda each: each.name)
def test_committed_files_are_rendered(model: Model):
    assert (REPOSITORY / model.name / "config.pbtxt").read_text() == config_from_model(model)
    if model.role != "ensemble":
        assert (REPOSITORY / model.name / "1" / "model.py").read_text() == adapter_from_model(model)


def test_readme_tables_are_rendered():
    text = (REPOSITORY / "README.md").read_text()
    assert text == readme_with_tables(text)


@pytest.mark.parametrize("model", MODELS, ids=lambda each: each.name)
def test_configuration_parses(model: Model):
    config = text_format.Parse(config_from_model(model), model_config_pb2.ModelConfig())
    assert config.name == model.name
    assert [each.name for each in config.output] == [each.name for each in model.outputs]
    batched = config.max_batch_size > 0
    for declared, tensor in zip(config.input, model.inputs, strict=True):
        assert len(declared.dims) == len(tensor.axes) - batched


def test_every_input_of_a_step_is_made_before_or_comes_from_outside():
    config = text_format.Parse(config_from_model(MODELS[-1]), model_config_pb2.ModelConfig())
    made = {each.name for each in config.input}
    for step in config.ensemble_scheduling.step:
        made |= set(step.output_map.values())
    wanted = {name for step in config.ensemble_scheduling.step for name in step.input_map.values()}
    assert wanted <= made
    assert {each.name for each in config.output} <= made
