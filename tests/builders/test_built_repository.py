"""From a published checkpoint through `fv2es build` to a real server, which says what the checkpoint's own modules say."""

from pathlib import Path

import pytest
import torch
from checkpoints import published, trained_model

from fv2es import Client, EmbeddedServer
from fv2es_builders import assets
from fv2es_builders.build import BuildRequest, build
from fv2es_builders.importing import model_from_checkpoint
from fv2es_builders.parity import PRECISION_TOLERANCES
from fv2es_builders.reference import Reference
from served import assert_agrees

pytestmark = pytest.mark.server


@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-3), ("fp16", 2.5e-3), ("int8", 1e-2)])
def test_folded_checkpoint_is_served(
    precision, atol, tiny, tokenizer_folder, tmp_path, tmp_path_factory, astronaut: Path, astronaut_srt: Path
):
    checkpoint = tmp_path / "v2em.pt"
    torch.save({"state_dict": published(trained_model(tiny), folded=True)}, checkpoint)
    request = BuildRequest(
        preset=tiny,
        output=tmp_path / "repository",
        cache=tmp_path_factory.getbasetemp() / "cache of tiny",  # the graphs are made once
        checkpoint=checkpoint,
        tokenizer=tokenizer_folder,
        precision=precision,
    )
    result = build(request)
    source = result.manifest["source"]
    assert (source["kind"], source["form"], source["detector"]) == ("checkpoint", "folded", "checkpoint")
    assert set(source["ignored_keys"]) >= {"A.0.head.weight", "A.0.head.bias"}
    text = assets.load_tokenizer(tokenizer_folder / "tokenizer.json", vocabulary=tiny.text.config["vocab_size"])
    reference = Reference(model=model_from_checkpoint(checkpoint, tiny).model, tokenizer=text)
    with EmbeddedServer(request.output) as server:
        assert atol <= max(PRECISION_TOLERANCES[precision]["PROBABILITIES"].value, 1e-3)
        assert_agrees(astronaut, astronaut_srt, server, reference, atol=atol)
        with Client(server.address) as client:
            model = client.analyze(astronaut).model
    assert (model.name, model.precision, model.trained) == ("tiny", precision, True)
