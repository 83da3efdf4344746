"""Graphs and plans of the paper's size, of untrained weights: `make test-paper`."""

import onnx
import pytest

from fv2es_builders.export import onnx_from_module, served_parts
from fv2es_builders.modules.model import seeded_model
from fv2es_builders.plans import PLAN_NAME, plan_from_onnx, shape_profile
from fv2es_builders.presets import preset_by_name

pytestmark = [pytest.mark.paper, pytest.mark.timeout(600)]

NODES = {"visual": 24, "acoustic": 567, "text": 375, "fusion": 234}


def test_plans(tmp_path):
    preset = preset_by_name("fv2es-iemocap")
    model = seeded_model(preset, 0)
    for _, module, spec in served_parts(model):
        source = onnx_from_module(module, spec, tmp_path / spec.name / "model.onnx")
        assert len(onnx.load(source).graph.node) <= NODES[spec.name]
        num_bytes = sum(parameter.nbytes for parameter in module.parameters())
        assert source.stat().st_size <= 1.05 * num_bytes
        facts = plan_from_onnx(
            source,
            tmp_path / spec.name / PLAN_NAME,
            model=spec.name,
            profile=shape_profile(spec.name, num_labels=len(preset.labels)),
            flavour="tensorrt_rtx",
        )
        assert facts.num_bytes > 0.9 * source.stat().st_size
