from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fv2es_builders.errors import BuildUsageError
from fv2es_builders.modules.model import V2EM, empty_model
from fv2es_builders.modules.visual import RepVGGBlock
from fv2es_builders.presets import PRESETS, AcousticSize, preset_by_name


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module", params=["fv2es-iemocap", "fv2es-mosei"])
def paper(request) -> V2EM:
    with torch.device("meta"):
        return V2EM(preset_by_name(request.param)).eval()


def test_paper_sizes(paper):
    """The counts that the paper's authors and the published modules give."""
    assert count(paper.V) == pytest.approx(1.8e6, rel=0.02)
    assert count(paper.v_flatten) == pytest.approx(4.8e6, rel=0.01)
    assert count(paper.A) == pytest.approx(67e6, rel=0.01)
    assert count(paper.a_flatten) == pytest.approx(34e6, rel=0.02)
    assert count(paper.T) == pytest.approx(11.7e6, rel=0.01)  # ALBERT-base-v2, pooler included
    assert len(paper.v_transformer.encoder.layers) == len(paper.a_transformer.encoder.layers) == 4
    assert paper.weighted_fusion.weight.shape == (1, 3)


def test_folding_saves_parameters():
    with torch.device("meta"):
        trunk = V2EM(preset_by_name("fv2es-iemocap")).V
        for block in trunk:
            if isinstance(block, RepVGGBlock):
                block.fold()
    assert count(trunk) == pytest.approx(1.6e6, rel=0.02)


def test_published_names(paper):
    """One name of every kind that the published state dict holds."""
    names = set(paper.state_dict())
    assert names >= {
        "T.albert.embeddings.word_embeddings.weight",
        "V.0.weight",
        "V.1.running_var",
        *(f"V.{index}.rbr_dense.conv.weight" for index in (4, 5, 6, 8, 10)),
        *(f"V.{index}.rbr_1x1.bn.running_mean" for index in (4, 5, 6, 8, 10)),
        *(f"V.{index}.rbr_identity.weight" for index in (4, 5)),
        "v_flatten.0.weight",
        "v_flatten.2.bias",
        "v_transformer.cls_emb.weight",
        "v_transformer.encoder.layers.3.self_attn.in_proj_weight",
        "A.0.patch_embed.proj.weight",
        "A.0.levels.0.pos_embed",
        "A.0.levels.1.pool.conv.weight",
        "A.0.levels.1.pool.norm.weight",
        "A.0.levels.2.transformer_encoder.19.attn.qkv.bias",
        "A.0.levels.2.transformer_encoder.19.mlp.fc2.weight",
        "A.0.norm.weight",
        "a_flatten.0.weight",
        "t_out.weight",
        "v_out.weight",
        "a_out.weight",
        "weighted_fusion.weight",
    }
    assert not any("rbr_identity" in name for name in names if name.startswith(("V.6", "V.8", "V.10")))
    assert {name.split(".")[0] for name in names} == {
        "T", "V", "A", "v_flatten", "a_flatten", "v_transformer", "a_transformer", "v_out", "t_out", "a_out",
        "weighted_fusion",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "gflop"), [("fv2es-iemocap", 11.2), ("starter", 0.0974)])
def test_cost_of_a_piece(name, gflop):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        empty_model(preset_by_name(name)).eval().acoustic(torch.zeros(1, 4, 32, 32))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=0.01)


def test_labels():
    assert PRESETS["fv2es-iemocap"].labels == ("ang", "exc", "fru", "hap", "neu", "sad")
    assert PRESETS["fv2es-mosei"].labels == ("anger", "disgust", "fear", "happy", "sad", "surprise")
    assert PRESETS["starter"].labels[-1] == "neutral"
    assert len({preset.sha256 for preset in PRESETS.values()}) == 3


def test_errors():
    with pytest.raises(BuildUsageError, match=r"'large' does not exist; choose one of .*starter"):
        preset_by_name("large")
    with pytest.raises(BuildUsageError, match=r"pos_weight .* one number > 0 for each of the 7 labels"):
        replace(PRESETS["starter"], pos_weight=(1.0,))
    with pytest.raises(BuildUsageError, match="> 0"):
        replace(PRESETS["starter"], pos_weight=(1.0,) * 6 + (0.0,))
    with pytest.raises(BuildUsageError, match="equally long"):
        AcousticSize(depths=(1, 2))
    with pytest.raises(BuildUsageError, match="dim 128 must be a multiple of its heads 5"):
        AcousticSize(heads=(5, 8, 16))
