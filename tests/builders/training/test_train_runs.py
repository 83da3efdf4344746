"""Whole runs on the small sets: what a run writes is what the model takes."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fv2es_builders.build import BuildRequest, build
from fv2es_builders.errors import BuildUsageError, TrainingDataError, TrainingError
from fv2es_builders.export import onnx_from_module, served_parts
from fv2es_builders.importing import model_from_checkpoint
from fv2es_builders.modules.model import empty_model, seeded_model
from fv2es_builders.parity import onnx_runner
from fv2es_builders.presets import Preset
from fv2es_builders.trained import BranchFacts
from fv2es_builders.training import runs
from fv2es_builders.training.branches import load_branch
from fv2es_builders.training.cli import main
from fv2es_builders.training.finish import facts_before, fusion_before
from fv2es_builders.training.recipe import Recipe
from fv2es_builders.training.request import RunRequest
from fv2es_builders.training.spectrum import mel_pieces
from fv2es_builders.training.speech import load_emodb
from fv2es_builders.training.whole import run_utterances


@pytest.fixture(scope="module")
def small_batches() -> pytest.MonkeyPatch:
    """Recipes whose batches fit the small sets."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("VISUAL_RECIPE", "SEQUENCE_RECIPE", "TEXT_RECIPE", "ACOUSTIC_RECIPE"):
            recipe: Recipe = getattr(runs, name)
            patch.setattr(runs, name, dataclasses.replace(recipe, batch=6, epochs=2))
        yield patch


@pytest.fixture(scope="module")
def trained(
    starter_tiny: Preset,
    small_sets: Path,
    small_batches: object,
    tokenizer_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with the outputs `visual`, `text`, `acoustic` and `fusion`."""
    folder = tmp_path_factory.mktemp("trained")

    def request(name: str, **more: object) -> RunRequest:
        return RunRequest(
            preset=starter_tiny, data=small_sets, output=folder / name, tokenizer=tokenizer_folder, **more
        )

    def quiet(_line: str) -> None:
        pass

    runs.run_visual(request("visual"), quiet)
    runs.run_text(request("text"), quiet)
    runs.run_acoustic(request("acoustic", held_out=("08",)), quiet)
    parts = tuple(folder / name for name in ("visual", "text", "acoustic"))
    runs.run_fusion(request("fusion", branches=parts), quiet)
    return folder


def test_the_fused_file_is_the_whole_model(trained, starter_tiny):
    model = empty_model(starter_tiny)
    model.load_state_dict(load_file(trained / "fusion" / "weights.safetensors"), strict=True)
    for name in ("visual", "text", "acoustic"):
        for key, tensor in load_file(trained / name / "weights.safetensors").items():
            assert torch.equal(tensor, model.state_dict()[key]), key
    written = json.loads((trained / "fusion" / "calibration.json").read_text())
    assert model.weighted_fusion.weight[0].tolist() == pytest.approx(
        [written["weights"][name] for name in ("text", "visual", "acoustic")]
    )
    assert len(written["pos_weight"]) == 7


def test_the_acoustic_branch_has_no_vote_on_surprise(trained, starter_tiny):
    model = empty_model(starter_tiny)
    model.load_state_dict(load_file(trained / "fusion" / "weights.safetensors"))
    said = model.a_out(torch.randn(4, model.a_out.in_features))
    surprise = starter_tiny.labels.index("surprise")
    assert (said[:, surprise] == 0).all()
    assert (said[:, :surprise] != 0).all()


def test_an_earlier_run_tells_its_facts(trained, starter_tiny, tmp_path):
    report = json.loads((trained / "acoustic" / "report.json").read_text())
    knows = tuple(label != "surprise" for label in starter_tiny.labels)
    rates = tuple(
        pytest.approx(1.5 / 7 if known else 0.5, abs=1e-6) for known in knows
    )  # one sentence of six, and half one more
    assert facts_before(trained / "acoustic") == BranchFacts(
        known=knows, base_rates=rates, thresholds=tuple(report["thresholds"])
    )
    with pytest.raises(TrainingError, match="holds no finished run"):
        facts_before(tmp_path)
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(TrainingError, match="holds no finished run"):
        facts_before(tmp_path)


def test_the_fused_file_tells_its_facts_to_the_build(trained, starter_tiny):
    imported = model_from_checkpoint(trained / "fusion" / "weights.safetensors", starter_tiny)
    written = json.loads((trained / "fusion" / "calibration.json").read_text())
    assert imported.preset == dataclasses.replace(starter_tiny, pos_weight=tuple(written["pos_weight"]))
    assert imported.model.preset == imported.preset
    assert imported.branches == {name: facts_before(trained / name) for name in ("visual", "text", "acoustic")}
    unknown = {
        name: [label for label, known in zip(starter_tiny.labels, facts.known, strict=True) if not known]
        for name, facts in imported.branches.items()
    }
    assert unknown == {"visual": [], "text": [], "acoustic": ["surprise"]}


@torch.no_grad()
def test_the_net_says_the_same_of_sound_in_training_and_as_served(trained, starter_tiny, small_sets, tmp_path):
    """Sentences held out, from what was kept for training to the graph, with the calibration that was folded in."""
    model = model_from_checkpoint(trained / "fusion" / "weights.safetensors", starter_tiny).model
    ((_, served, spec),) = (part for part in served_parts(model) if part[2].name == "acoustic")
    run = onnx_runner(onnx_from_module(served, spec, tmp_path / "model.onnx"))
    _, held_out = load_emodb(small_sets / "emodb", starter_tiny.labels).parted(["08"])
    said = []
    for wave in held_out.waves:
        features = torch.from_numpy(run({"PIECES": mel_pieces(wave).numpy()})["ACOUSTIC"])[None]  # [1, p, dim]
        mask = torch.ones(features.shape[:2], dtype=torch.bool)
        said.append(model.a_out(model.a_transformer(features, mask))[0].numpy())
    with np.load(trained / "acoustic" / "choose.npz") as kept:
        assert np.stack(said) == pytest.approx(kept["evidence"], rel=2e-3, abs=2e-2)  # what is heard is kept in float16
        assert np.ptp(kept["evidence"], axis=0).max() > 0.1


def test_reports_score_what_was_not_chosen_by(trained, starter_tiny):
    report = json.loads((trained / "text" / "report.json").read_text())
    assert report["labels"] == list(starter_tiny.labels)
    assert set(report["scores"]) == {"choose", "report", "report_as_spoken"}
    assert 0 <= report["scores"]["report"]["ece_labels"] <= 1


def test_logits_as_served_are_those_that_the_folded_weights_give(trained, starter_tiny, small_sets):
    """The visual branch: pictures of the half chosen by, through the served modules."""
    from fv2es_builders.training.faces import halves, load_faces

    model = empty_model(starter_tiny).eval()
    load_branch(model, trained / "visual" / "weights.safetensors")
    choose, _ = halves(
        load_faces(small_sets / "fer2013" / "public_test.npz", starter_tiny.labels), seed=runs.SPLIT_SEED
    )
    faces = choose.images[..., None].expand(-1, -1, -1, 3)
    with torch.no_grad():
        features = model.visual(faces)
        mask = torch.ones(len(faces), 1, dtype=torch.bool)
        found = model.v_out(model.v_transformer(features[:, None], mask)).numpy()
    with np.load(trained / "visual" / "choose.npz") as kept:
        assert found == pytest.approx(kept["evidence"], abs=0.05)  # features there were computed in bfloat16


def test_held_out_speakers_of_earlier_runs_calibrate_a_run_without(
    trained, starter_tiny, small_sets, small_batches, tmp_path
):
    request = RunRequest(preset=starter_tiny, data=small_sets, output=tmp_path)
    with pytest.raises(BuildUsageError, match="no speaker is held out"):
        runs.run_acoustic(request, print)
    with pytest.raises(TrainingError, match="nowhere: holds no finished run"):
        runs.run_acoustic(dataclasses.replace(request, branches=(tmp_path / "nowhere",)), print)
    folders = (trained / "acoustic", trained / "acoustic")
    report = runs.run_acoustic(
        dataclasses.replace(
            request, branches=folders, start=trained / "acoustic" / "best.safetensors", output=tmp_path / "all"
        ),
        print,
    )
    assert report["scores"]["choose"]["rows"] == 12  # six of speaker 08, twice
    with np.load(trained / "acoustic" / "choose.npz") as one, np.load(tmp_path / "all" / "choose.npz") as both:
        assert np.array_equal(both["logits"], np.concatenate([one["logits"]] * 2))


def test_a_start_of_another_kind_is_refused(trained, starter_tiny, small_sets, small_batches, tmp_path):
    path = trained / "acoustic" / "best.safetensors"
    request = RunRequest(preset=starter_tiny, data=small_sets, output=tmp_path, start=path)
    with pytest.raises(TrainingError, match="can't be started from"):
        runs.run_visual(request, print)


def test_a_branch_in_part_or_of_another_size_is_refused(trained, starter_tiny, tiny, tmp_path):
    weights = load_file(trained / "visual" / "weights.safetensors")
    path = tmp_path / "weights.safetensors"
    with pytest.raises(TrainingError, match=re.escape("v_out.bias has shape [7], the preset asks for [2]")):
        load_branch(seeded_model(tiny, 0), trained / "visual" / "weights.safetensors")
    save_file({name: own for name, own in weights.items() if name != "V.0.bias"}, path)
    with pytest.raises(TrainingError, match=r"V\.0\.bias and 0 more are missing"):
        load_branch(seeded_model(starter_tiny, 0), path)
    save_file({**weights, "W.0": torch.zeros(1)}, path)
    with pytest.raises(TrainingError, match=r"W\.0 and 0 more are none of the model's"):
        load_branch(seeded_model(starter_tiny, 0), path)


@pytest.mark.parametrize("part", ["visual", "acoustic", "text", "fusion"])
def test_utterances_train_a_branch_or_the_whole(part, iemocap_tiny, iemocap_folder, tokenizer_folder, tmp_path):
    lines = []
    request = RunRequest(
        preset=iemocap_tiny, data=iemocap_folder, output=tmp_path, tokenizer=tokenizer_folder, epochs=1
    )
    report = run_utterances(part)(request, lines.append)
    assert lines[0] == "train: 18 utterances, 3 without pictures, 3 without sound"
    test = report["scores"]["test"]
    assert test["rows"] == 6
    assert test["accuracy_of_none"] == pytest.approx(5 / 6)
    model = seeded_model(iemocap_tiny, 0)
    if part == "fusion":
        model.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
    else:
        assert load_branch(model, tmp_path / "weights.safetensors") == part
    assert len(list((tmp_path / "faces").glob("*.npy"))) == 30


def test_a_preset_without_utterances_is_refused(starter_tiny, tmp_path, tokenizer_folder):
    request = RunRequest(preset=starter_tiny, data=tmp_path, output=tmp_path, tokenizer=tokenizer_folder)
    with pytest.raises(TrainingDataError, match="no set of utterances belongs to preset 'starter'"):
        run_utterances("text")(request, print)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["visual", "--preset", "none", "--data", ".", "--output", "."], 2, "preset 'none' does not exist"),
        (["visual", "--data", "nowhere", "--output", "."], 1, "not an .npz"),
        (["visual", "--epochs", "0", "--data", "nowhere", "--output", "."], 2, "epochs=0"),
        (["everything"], 2, "invalid choice: 'everything'"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, status, said, capsys):
    assert main(arguments) == status
    assert said in capsys.readouterr().err


def test_a_repository_answers_for_text_and_faces(trained, starter_tiny, small_sets, tokenizer_folder, tmp_path):
    """Found on a build of the runs, the fusion is that of the runs themselves."""
    request = BuildRequest(
        preset=starter_tiny,
        output=tmp_path / "repository",
        cache=tmp_path / "cache",
        checkpoint=trained / "fusion" / "weights.safetensors",
        tokenizer=tokenizer_folder,
    )
    build(request)

    def asked(start: Path) -> RunRequest:
        return RunRequest(
            preset=starter_tiny,
            data=small_sets,
            output=tmp_path / "fusion",
            start=start,
            branches=(trained / "acoustic",),
        )

    report = runs.run_fusion(asked(request.output), lambda _line: None)
    found, expected = fusion_before(tmp_path / "fusion"), fusion_before(trained / "fusion")
    assert found.weights == pytest.approx(expected.weights, abs=2e-3)
    assert found.pos_weight == pytest.approx(expected.pos_weight, rel=2e-3)
    assert not (tmp_path / "fusion" / "weights.safetensors").exists()
    assert 0 <= report["scores"]["put_together"]["ece_top"] <= 1
    with pytest.raises(TrainingError, match="its graphs can't be run"):
        runs.run_fusion(asked(tmp_path / "nothing"), lambda _line: None)
