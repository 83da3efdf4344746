"""Checkpoints of every form, and everything that may be wrong with one."""

import io
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from builders.checkpoints import detector_keys, published, trained_model
from fv2es_builders.checkpoint_detector import detector_shapes
from fv2es_builders.detector import NETS, DetectorNet, onnx_from_detector, parity_inputs
from fv2es_builders.errors import (
    BuildUsageError,
    CheckpointMismatch,
    CheckpointValues,
    LabelMismatch,
    MixedForms,
    UnknownModel,
    UnknownSize,
    UnreadableCheckpoint,
    UnsafeCheckpoint,
)
from fv2es_builders.export import onnx_from_module, served_parts
from fv2es_builders.importing import model_from_checkpoint
from fv2es_builders.modules.model import MME2E, V2EM, empty_model
from fv2es_builders.modules.visual import RepVGGBlock, fold_blocks
from fv2es_builders.parity import ATOL, accept, case_from_module, onnx_runner
from fv2es_builders.presets import (
    ALBERT_BASE_V2,
    AcousticSize,
    Preset,
    TextSize,
    VggAcousticSize,
    VisualSize,
    preset_by_name,
)
from fv2es_builders.reference import load_reference

IGNORED = {"A.0.head.weight", "A.0.head.bias", "mtcnn.onet.dense6_3.weight", "mtcnn.onet.dense6_3.bias"}


@pytest.fixture(scope="module")
def model(tiny: Preset) -> V2EM:
    return trained_model(tiny)


@pytest.fixture
def state(model: V2EM) -> dict[str, torch.Tensor]:
    """As published, in training form; a test may change it."""
    return published(model)


@pytest.fixture
def saved(tmp_path):
    def save(content) -> Path:
        torch.save(content, tmp_path / "weights.pt")
        return tmp_path / "weights.pt"

    return save


def same(found: torch.nn.Module, expected: torch.nn.Module) -> bool:
    left, right = found.state_dict(), expected.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# --- What is read ----------------------------------------------------------------------------------------------------


def test_published_key_counts():
    """570 tensors in training form and 510 folded; MME2E 342. As counted on the published modules."""

    def count(preset: Preset, *, folded: bool = False) -> int:
        with torch.device("meta"):
            model = empty_model(preset)
            if folded:
                fold_blocks(model.V)
        nest_classifier = 2 if preset.architecture == "v2em" else 0
        return len(model.state_dict()) + len(detector_keys()) + nest_classifier

    paper = preset_by_name("fv2es-iemocap")
    assert count(paper) == 570
    assert count(paper, folded=True) == 510
    assert count(replace(paper, acoustic=VggAcousticSize())) == 342


def test_training_form(model, state, saved, tiny):
    found = model_from_checkpoint(saved(state), tiny)
    assert same(found.model, model)
    assert found.preset == found.model.preset == tiny
    assert (found.architecture, found.form) == ("v2em", "training")
    assert not found.model.training
    assert set(found.ignored) == IGNORED
    assert found.num_used + len(found.ignored) == len(state)
    assert "never calls" in found.ignored["A.0.head.weight"]
    assert len(found.sha256) == 64


def test_folded_form(model, saved, tiny, golden):
    """The same answers as before folding; the blocks stay one kernel."""
    folded = trained_model(tiny)
    found = model_from_checkpoint(saved(published(folded, folded=True)), tiny)
    assert found.form == "folded"
    assert same(found.model, folded)
    assert all(block.rbr_dense is None for block in found.model.V if isinstance(block, RepVGGBlock))
    faces = torch.from_numpy(golden.faces)
    with torch.no_grad():
        expected = model.visual.eval()(faces)
        assert expected.std() > 1e-3
        torch.testing.assert_close(found.model.visual.folded()(faces), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_wrapped_and_parallel(model, state, saved, tiny, wrapper):
    parallel = {f"module.{name}": tensor for name, tensor in state.items()}
    found = model_from_checkpoint(saved({wrapper: parallel, "epoch": 3, "optimizer": {"state": {}}}), tiny)
    assert same(found.model, model)
    assert set(found.ignored) == IGNORED | {"epoch", "optimizer"}
    assert found.ignored["epoch"] == f"an entry beside the state dict, which stands under {wrapper}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_safetensors_and_precision(model, state, tmp_path, tiny, dtype):
    cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file({name: tensor.contiguous() for name, tensor in cast.items()}, tmp_path / "weights.safetensors")
    found = model_from_checkpoint(tmp_path / "weights.safetensors", tiny).model
    for name, tensor in found.state_dict().items():
        assert tensor.dtype == model.state_dict()[name].dtype
        assert torch.equal(tensor, cast[name].to(tensor.dtype))


def test_legacy_file(model, state, tmp_path, tiny):
    torch.save(state, tmp_path / "weights.pth", _use_new_zipfile_serialization=False)
    assert same(model_from_checkpoint(tmp_path / "weights.pth", tiny).model, model)


def test_older_transformers(state, saved, tiny):
    """Buffers that it saved and that are made anew today."""
    state["T.bert.embeddings.position_ids"] = torch.arange(512)[None]
    state["T.bert.embeddings.token_type_ids"] = torch.zeros(1, 512, dtype=torch.int64)
    found = model_from_checkpoint(saved(state), tiny)
    assert "older versions of transformers" in found.ignored["T.bert.embeddings.position_ids"]
    assert len(found.ignored) == len(IGNORED) + 2


def test_random_state_is_left(state, saved, tiny):
    path, before = saved(state), torch.get_rng_state()
    model_from_checkpoint(path, tiny)
    assert torch.equal(torch.get_rng_state(), before)


# --- Sizes -----------------------------------------------------------------------------------------------------------


def test_sizes_are_read(tiny, saved):
    """From a preset of other sizes to those of the checkpoint; what no shape shows is kept."""
    sizes = replace(
        tiny,
        visual=VisualSize(stem_channels=6, stage_channels=((4, 6, 6), (8, 8), (10,)), hidden=12),
        acoustic=AcousticSize(dims=(32, 64, 96), heads=(1, 2, 3), depths=(1, 2, 1), hidden=14),
        temporal=replace(tiny.temporal, dim=16, layers=3, feed_forward=10),
    )
    found = model_from_checkpoint(saved(published(trained_model(sizes))), tiny)
    assert found.preset == sizes
    assert found.preset.labels == tiny.labels
    assert found.preset.pos_weight == tiny.pos_weight


def test_paper_sizes_are_read_without_the_paper(tiny):
    """Of the published shapes alone, whatever the preset: heads of NesT, of ALBERT and its layers by the published rules."""
    from fv2es_builders.checkpoint_sizes import sized_preset

    for paper in (preset_by_name("fv2es-iemocap"), replace(preset_by_name("fv2es-mosei"), acoustic=VggAcousticSize())):
        with torch.device("meta"):
            shapes = {name: tuple(tensor.shape) for name, tensor in empty_model(paper).state_dict().items()}
        found = sized_preset(
            replace(tiny, labels=paper.labels, pos_weight=paper.pos_weight), shapes, Path("weights.pt")
        )
        assert found.visual == paper.visual
        assert found.acoustic == paper.acoustic
        assert found.temporal == paper.temporal
        assert found.text.kind == "albert"
        assert {**found.text.config, **paper.text.config} == found.text.config


def test_bert_sizes_are_read(tiny):
    from fv2es_builders.checkpoint_sizes import sized_preset

    config = {
        "vocab_size": 500,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 56,
        "max_position_embeddings": 200,
    }
    small = replace(tiny, text=TextSize(kind="bert", config=config))
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in empty_model(small).state_dict().items()}
    found = sized_preset(replace(tiny, text=preset_by_name("starter").text), shapes, Path("weights.pt")).text
    assert {name: found.config[name] for name in config} == config
    assert found.package is None


def test_package_tokenizer_is_kept(tiny):
    """Where the encoder is the preset's own, so is its tokenizer."""
    from fv2es_builders.checkpoint_sizes import sized_preset

    starter = preset_by_name("starter")
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in empty_model(starter).state_dict().items()}
    assert sized_preset(starter, shapes, Path("weights.pt")) == starter


def test_mme2e(tiny, saved, golden):
    """Told by its keys, whatever the preset's own architecture."""
    acoustic = VggAcousticSize(stem_channels=3, stage_channels=((4, 4), (5,)), hidden=8)
    trained = trained_model(replace(tiny, acoustic=acoustic))
    found = model_from_checkpoint(saved(published(trained)), tiny)
    assert (found.architecture, found.preset.architecture, type(found.model)) == ("mme2e", "mme2e", MME2E)
    assert found.preset.acoustic == acoustic
    assert found.preset.visual == tiny.visual
    assert same(found.model, trained)
    pieces = torch.from_numpy(golden.pieces[:2])
    with torch.no_grad():
        expected = trained.acoustic.eval()(pieces)
        folded = found.model.acoustic.folded()
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
        torch.testing.assert_close(folded(pieces), expected, rtol=1e-5, atol=1e-4)
        assert same(found.model, trained)  # folding made a copy


@pytest.mark.parametrize("part", [0, 1])
def test_mme2e_as_onnx(tiny, tmp_path, golden, part):
    """Takes the tensors that are served, and agrees."""
    model = trained_model(
        replace(tiny, acoustic=VggAcousticSize(stem_channels=3, stage_channels=((4, 4), (5,)), hidden=8))
    )
    reference, module, spec = served_parts(model)[part]
    path = onnx_from_module(module, spec, tmp_path / "model.onnx")
    assert not {"BatchNormalization"} & {node.op_type for node in onnx.load(path).graph.node}
    inputs = {"FACES": golden.faces} if spec.name == "visual" else {"PIECES": golden.pieces}
    figures = accept(
        path, onnx_runner(path), cases=[case_from_module("real", reference, inputs, spec.outputs)], atol=ATOL["export"]
    )
    assert figures.max_abs > 0


def test_heads_that_no_rule_gives(tiny, saved):
    odd = replace(tiny, acoustic=replace(tiny.acoustic, dims=(8, 8, 16)))
    with pytest.raises(UnknownSize, match=r"\[8, 8, 16\] wide; with 32 channels a head \[8, 8, 16\] .* give a preset"):
        model_from_checkpoint(saved(published(trained_model(odd))), tiny)
    narrow = saved(published(trained_model(replace(tiny, temporal=replace(tiny.temporal, dim=12, heads=3)))))
    many = replace(tiny, temporal=replace(tiny.temporal, heads=8))
    with pytest.raises(UnknownSize, match=r"12 wide, which the preset's 8 heads do not divide"):
        model_from_checkpoint(narrow, many)


def test_text_that_no_rule_gives(tiny, saved):
    albert = {**ALBERT_BASE_V2.config, "vocab_size": 40, "embedding_size": 8, "hidden_size": 48, "intermediate_size": 9}
    state = published(trained_model(replace(tiny, text=TextSize(kind="albert", config=albert))))
    with pytest.raises(UnknownSize, match=r"ALBERT is 48 wide \(9 inside\).* number of layers: give a preset"):
        model_from_checkpoint(saved(state), tiny)
    bert = {**tiny.text.config, "vocab_size": 40, "hidden_size": 24}
    state = published(trained_model(replace(tiny, text=TextSize(kind="bert", config=bert))))
    with pytest.raises(UnknownSize, match=r"BERT is 24 wide, which 64 channels a head do not divide"):
        model_from_checkpoint(saved(state), tiny)


# --- The detector ----------------------------------------------------------------------------------------------------


def test_detector(state, saved, tiny, golden):
    """The package's own weights, by facenet's names and back: equal outputs, also as ONNX."""
    found = model_from_checkpoint(saved(state), tiny)
    for name in NETS:
        ours, packaged = DetectorNet(name, found.detector[name]).eval(), DetectorNet(name).eval()
        for _, inputs in parity_inputs(name, seed=0, pictures=list(golden.faces)):
            images = torch.from_numpy(inputs["images"])
            for left, right in zip(ours(images), packaged(images), strict=True):
                assert torch.equal(left, right)


def test_detector_names():
    """48 tensors and two of the landmarks; names of every kind."""
    shapes = detector_shapes()
    assert len(shapes) == 48
    assert shapes["mtcnn.pnet.conv4_1.weight"] == (2, 32, 1, 1)
    assert shapes["mtcnn.rnet.dense4.weight"] == (128, 576)
    assert shapes["mtcnn.onet.prelu5.weight"] == (256,)
    assert "mtcnn.onet.prelu5.bias" not in shapes
    keys = detector_keys()
    assert set(keys) == {*shapes, "mtcnn.onet.dense6_3.weight", "mtcnn.onet.dense6_3.bias"}
    assert {name: tuple(keys[name].shape) for name in shapes} == shapes


def test_trained_detector(state, saved, tiny, tmp_path):
    """Weights that differ from the package's reach the ONNX file."""
    state["mtcnn.rnet.dense5_1.bias"] += torch.tensor([0.0, 3.0])
    found = model_from_checkpoint(saved(state), tiny)
    images = np.zeros((1, 3, 24, 24), dtype=np.float32)
    path = onnx_from_detector("rnet", tmp_path / "rnet.onnx", found.detector["rnet"])
    probability = onnx_runner(path)({"images": images})["probability"]
    packaged = DetectorNet("rnet").eval()(torch.from_numpy(images))[0].detach().numpy()
    shift = np.log(probability / (1 - probability)) - np.log(packaged / (1 - packaged))
    np.testing.assert_allclose(shift, 3, atol=1e-3)


def test_without_detector(model, state, saved, tiny):
    found = model_from_checkpoint(
        saved({name: tensor for name, tensor in state.items() if not name.startswith("mtcnn.")}), tiny
    )
    assert found.detector is None
    assert same(found.model, model)


def test_half_a_detector(state, saved, tiny):
    del state["mtcnn.pnet.conv2.weight"]
    with pytest.raises(CheckpointMismatch, match=r"1 missing: mtcnn.pnet.conv2.weight"):
        model_from_checkpoint(saved(state), tiny)


# --- What is refused -------------------------------------------------------------------------------------------------


def test_missing_keys(state, saved, tiny):
    """Also those that sizes are read from."""
    gone = ["v_flatten.0.weight", "A.0.levels.2.pos_embed", "V.1.num_batches_tracked", "T.bert.pooler.dense.bias"]
    for name in gone:
        path = saved({key: tensor for key, tensor in state.items() if key != name})
        with pytest.raises(CheckpointMismatch, match=rf"; 1 missing: {name}\. Save the whole") as caught:
            model_from_checkpoint(path, tiny)
        assert caught.value.missing == (name,)


@pytest.mark.parametrize("key", ["v_transformer.cls_emb.weight", "v_out.weight", "V.0.weight", "a_flatten.0.weight"])
def test_missing_size(state, saved, tiny, key):
    del state[key]
    with pytest.raises(CheckpointMismatch, match=f"1 missing: {key}"):
        model_from_checkpoint(saved(state), tiny)


def test_missing_block(state, saved, tiny):
    for name in list(state):
        if name.startswith("V.6."):
            del state[name]
    with pytest.raises(CheckpointMismatch, match=r"missing: V.6.rbr_dense.conv.weight, .* and \d+ more"):
        model_from_checkpoint(saved(state), tiny)


def test_extra_key(state, saved, tiny):
    state["V.4.se.down.weight"] = torch.ones(2)
    with pytest.raises(CheckpointMismatch, match=r"; 1 unknown: V.4.se.down.weight\.") as caught:
        model_from_checkpoint(saved(state), tiny)
    assert (caught.value.missing, caught.value.unexpected) == ((), ("V.4.se.down.weight",))


def test_extra_layer_far_away(state, saved, tiny):
    """A number in a name makes no model of that size."""
    state["v_transformer.encoder.layers.999999999.norm1.weight"] = torch.ones(64)
    with pytest.raises(CheckpointMismatch, match=r"1 unknown: v_transformer.encoder.layers.999999999"):
        model_from_checkpoint(saved(state), tiny)


def test_wrong_shape(state, saved, tiny):
    state["a_transformer.encoder.layers.0.linear1.weight"] = torch.ones(9, 64)
    with pytest.raises(
        CheckpointMismatch,
        match=r"1 of another shape or type: a_transformer.encoder.layers.0.linear1.weight is \[9, 64\] float32, expected \[8, 64\]",
    ) as caught:
        model_from_checkpoint(saved(state), tiny)
    assert [name for name, _, _ in caught.value.wrong] == ["a_transformer.encoder.layers.0.linear1.weight"]


def test_wrong_type(state, saved, tiny):
    state["V.1.num_batches_tracked"] = torch.tensor(1.0)
    with pytest.raises(CheckpointMismatch, match=r"num_batches_tracked is \[\] float32, expected \[\] int64"):
        model_from_checkpoint(saved(state), tiny)


def test_two_modalities(state, saved, tiny):
    """Trained without sound."""
    state["weighted_fusion.weight"] = torch.ones(1, 2)
    with pytest.raises(CheckpointMismatch, match=r"weighted_fusion.weight is \[1, 2\] float32, expected \[1, 3\]"):
        model_from_checkpoint(saved(state), tiny)


def test_mixed_forms(model, state, saved, tiny):
    folded = published(trained_model(tiny), folded=True)
    for name in list(state):
        if name.startswith("V.4."):
            del state[name]
    state |= {name: tensor for name, tensor in folded.items() if name.startswith("V.4.")}
    with pytest.raises(MixedForms, match=r"blocks V.4 hold a folded kernel \(rbr_reparam\) and V.6, V.8 hold branches"):
        model_from_checkpoint(saved(state), tiny)


def test_labels(state, saved, tiny):
    with pytest.raises(
        LabelMismatch, match=r"answers with 2 labels \(v_out\), but preset tiny has 3: a, b, c; choose"
    ) as caught:
        model_from_checkpoint(saved(state), replace(tiny, labels=("a", "b", "c"), pos_weight=(1.0,) * 3))
    assert (caught.value.found, caught.value.labels) == (2, ("a", "b", "c"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values(state, saved, tiny, value):
    state["A.0.norm.weight"][3] = value
    with pytest.raises(CheckpointValues, match=r"NaN or infinity \(in float32\) in A.0.norm.weight; take") as caught:
        model_from_checkpoint(saved(state), tiny)
    assert caught.value.keys == ("A.0.norm.weight",)


def test_sparse_values(state, saved, tiny):
    state["t_out.weight"] = state["t_out.weight"].to_sparse()
    with pytest.raises(CheckpointValues, match=r"sparse or quantised values in t_out.weight; save plain tensors"):
        model_from_checkpoint(saved(state), tiny)


def test_another_model(saved, tiny):
    resnet = {
        f"layer{stage}.0.{name}": torch.ones(1)
        for stage in (1, 2, 3, 4)
        for name in ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean")
    } | {"conv1.weight": torch.ones(64, 3, 7, 7), "fc.weight": torch.ones(1000, 512)}
    with pytest.raises(
        UnknownModel, match=r"neither V2EM .* nor MME2E .*: found conv1.weight, fc.weight, .* more; name a"
    ):
        model_from_checkpoint(saved(resnet), tiny)


def test_sparse_mme2e(saved, tiny):
    state = {"A.low_level.0.weight": torch.ones(64, 1, 5, 5), "A.sparse_layers.0.0.0.weight": torch.ones(9, 64, 128)}
    with pytest.raises(UnknownModel, match=r"MME2E in its sparse form, which is not supported"):
        model_from_checkpoint(saved(state), tiny)


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


def as_pickle(content) -> bytes:
    return pickle.dumps(content)


def as_archive(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def as_legacy(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("written", [as_pickle, as_archive, as_legacy])
def test_code_does_not_run(tmp_path, tiny, written):
    mark, path = tmp_path / "it ran", tmp_path / "weights.pt"
    path.write_bytes(written({"A.0.levels.0.pos_embed": torch.ones(1), "x": Runs(mark)}))
    with pytest.raises(
        UnsafeCheckpoint, match=r"may run any code, so it was not opened; .*torch.save\(model.state_dict\(\)"
    ) as caught:
        model_from_checkpoint(path, tiny)
    assert any(name.endswith(".system") for name in caught.value.objects)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Runs(mark)))  # noqa: S301  # the trap works
    assert mark.exists()


@pytest.mark.parametrize("written", [as_pickle, as_archive, as_legacy])
def test_whole_module(tmp_path, tiny, written):
    path = tmp_path / "weights.pt"
    path.write_bytes(written(torch.nn.Sequential(torch.nn.Linear(2, 2))))
    with pytest.raises(
        UnsafeCheckpoint, match=r"torch.nn.modules.container.Sequential.*torch.save\(model.state_dict\(\)"
    ):
        model_from_checkpoint(path, tiny)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated(state, tmp_path, tiny, suffix, share):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UnreadableCheckpoint, match=r"not a whole .*; copy or download it again"):
        model_from_checkpoint(path, tiny)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_no_checkpoint_at_all(tmp_path, tiny, suffix):
    path = tmp_path / f"weights{suffix}"
    with pytest.raises(UnreadableCheckpoint, match=r"no such file; name a .pt, .pth or .safetensors file"):
        model_from_checkpoint(path, tiny)
    path.touch()
    with pytest.raises(UnreadableCheckpoint, match=r"is empty; copy or download it again"):
        model_from_checkpoint(path, tiny)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UnreadableCheckpoint, match=r"not a whole .*; copy or download it again"):
        model_from_checkpoint(path, tiny)
    with pytest.raises(UnreadableCheckpoint, match=r"is a folder; name the checkpoint file in it"):
        model_from_checkpoint(tmp_path, tiny)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(3), r"holds a Tensor, not a state dict; save one"),
        ({}, r"holds nothing, not a state dict; save one"),
        (
            {"epoch": 1, "weights": [1.0]},
            r"holds epoch, weights, but the state dict must be plain or stand under just one",
        ),
        ({"model": {"x": 1}, "state_dict": {"x": 2}}, r"holds model, state_dict, but .* under just one of state_dict"),
        ({"A.0.norm.weight": torch.ones(1), "epoch": 1}, r"epoch in the state dict are no tensors"),
    ],
)
def test_no_state_dict(saved, tiny, content, message):
    with pytest.raises(UnreadableCheckpoint, match=message):
        model_from_checkpoint(saved(content), tiny)


def test_wrong_class(tiny):
    """A preset's acoustic sizes belong to one architecture."""
    with pytest.raises(BuildUsageError, match=r"acoustic sizes are AcousticSize, this model takes VggAcousticSize"):
        MME2E(tiny)


# --- The reference ---------------------------------------------------------------------------------------------------


def test_reference(starter, saved):
    """What serving is compared with may hold a checkpoint's weights."""
    state = published(starter)
    state["t_out.bias"] = state["t_out.bias"] + 1
    found = load_reference("starter", checkpoint=saved(state))
    assert torch.equal(found.model.t_out.bias, starter.t_out.bias + 1)
    assert torch.equal(found.model.A[0].stem1.weight, starter.A[0].stem1.weight)
    assert found.tokenizer.encode("a").tokens == ["[CLS]", "a", "[SEP]"]
