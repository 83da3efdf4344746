"""What training found out travels with the weights, and weights for other labels are refused."""

import json
from dataclasses import asdict, replace

import pytest
from checkpoints import published, trained_model
from safetensors.torch import save_file

from fv2es_builders.errors import OtherLabels, UnreadableCheckpoint
from fv2es_builders.importing import model_from_checkpoint
from fv2es_builders.trained import METADATA_KEY, BranchFacts, TrainedFacts

BRANCH = BranchFacts(known=(True, False), base_rates=(0.25, 0.5), thresholds=(0.3, 0.5))
FACTS = TrainedFacts(labels=("glad", "sad"), pos_weight=(2.0, 4.5), branches={"acoustic": BRANCH})


@pytest.fixture
def saved(tiny, tmp_path):
    def save(metadata: dict[str, str] | None):
        path = tmp_path / "weights.safetensors"
        state = {name: tensor.contiguous() for name, tensor in published(trained_model(tiny)).items()}
        save_file(state, path, metadata=metadata)
        return path

    return save


def test_a_checkpoint_brings_its_facts(tiny, saved):
    imported = model_from_checkpoint(saved(FACTS.metadata()), tiny)
    assert imported.branches == {"acoustic": BRANCH}
    assert imported.preset == replace(tiny, pos_weight=(2.0, 4.5))
    assert imported.model.preset.pos_weight == (2.0, 4.5)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_checkpoint_without_facts_keeps_the_presets(tiny, saved, metadata):
    imported = model_from_checkpoint(saved(metadata), tiny)
    assert imported.branches == {}
    assert imported.preset == tiny


@pytest.mark.parametrize("labels", [("sad", "glad"), ("glad", "mad")])
def test_other_labels_are_refused(tiny, saved, labels):
    path = saved(FACTS.metadata())
    with pytest.raises(
        OtherLabels, match=f"was trained for glad, sad, but the build is for {', '.join(labels)}; .* --labels glad,sad"
    ):
        model_from_checkpoint(path, replace(tiny, labels=labels))


@pytest.mark.parametrize(
    "entry",
    [
        "no JSON",
        "[]",
        "{}",
        json.dumps({"labels": ["glad", "sad"], "pos_weight": "x", "branches": {}}),
        json.dumps({"labels": ["glad", "sad"], "pos_weight": [1.0], "branches": {}}),
        json.dumps({"labels": ["glad", "sad"], "pos_weight": None, "branches": {"audio": asdict(BRANCH)}}),
        json.dumps(
            {"labels": ["glad", "sad"], "pos_weight": None, "branches": {"text": asdict(BRANCH) | {"known": [True]}}}
        ),
        json.dumps(
            {
                "labels": ["glad", "sad"],
                "pos_weight": None,
                "branches": {"text": asdict(BRANCH) | {"base_rates": [0, 1]}},
            }
        ),
    ],
)
def test_an_entry_of_another_form_is_refused(tiny, saved, entry):
    path = saved({METADATA_KEY: entry})
    with pytest.raises(UnreadableCheckpoint, match=f"its metadata entry {METADATA_KEY} is not of this version"):
        model_from_checkpoint(path, tiny)
