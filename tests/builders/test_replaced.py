"""Builds that put a newly trained branch into a repository."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import published, trained_model
from safetensors.torch import save_file

from fv2es_builders import cli
from fv2es_builders.build import BuildRequest, build
from fv2es_builders.cases import parity_inputs
from fv2es_builders.errors import BuildUsageError, TrainingError, UnusableRepository
from fv2es_builders.graphs import BUILT_FILES, graph_path
from fv2es_builders.manifest import MANIFEST_PATH
from fv2es_builders.modules.model import V2EM
from fv2es_builders.parity import onnx_runner
from fv2es_builders.presets import Preset
from fv2es_builders.replaced import ReplacedSource
from fv2es_builders.shipped import RepositorySource
from fv2es_builders.training.branches import PARAMETERS, Part

ROUNDED = 2e-3
"""Of logits near 1 whose weights were rounded to FP16 on the way."""
FACTS = {"known": [True, False], "base_rates": [0.25, 0.5], "thresholds": [0.3, 0.4]}


@torch.no_grad()
def uneven_model(preset: Preset, seed: int = 0) -> V2EM:
    """No two weights alike, as training leaves them: tensors that are equal would be one and the same in a graph."""
    model = trained_model(preset, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def repository(tiny, tokenizer_folder, tmp_path_factory) -> Path:
    """The tiny model in FP16 for a CPU."""
    folder = tmp_path_factory.mktemp("fp16")
    torch.save(published(uneven_model(tiny)), folder / "weights.pt")
    request = BuildRequest(
        preset=tiny,
        output=folder / "repository",
        cache=folder / "cache",
        checkpoint=folder / "weights.pt",
        tokenizer=tokenizer_folder,
        precision="fp16",
    )
    build(request)
    return request.output


def finished_run(preset: Preset, part: Part, folder: Path, *, seed: int) -> Path:
    """What a run on this branch leaves behind, with seeded weights."""
    weights = uneven_model(preset, seed).state_dict()
    save_file(
        {name: own.contiguous() for name, own in weights.items() if name.startswith(PARAMETERS[part])},
        folder / "weights.safetensors",
    )
    (folder / "calibration.json").write_text(json.dumps({"known": FACTS["known"], "pos_weight": [3.0, 1.0]}))
    (folder / "report.json").write_text(json.dumps({"thresholds": FACTS["thresholds"]}))
    return folder


@pytest.mark.parametrize(("part", "changed"), [("visual", {"visual", "fusion"}), ("text", {"text"})])
def test_one_branch_is_replaced_and_the_others_stay_the_same_files(repository, tiny, tmp_path, part, changed):
    run = finished_run(tiny, part, tmp_path, seed=1)
    request = BuildRequest(
        preset=tiny,
        output=tmp_path / "new",
        cache=tmp_path / "cache",
        repository=repository,
        branch=run,
        precision="fp16",
    )
    build(request)
    before, manifest = (json.loads((folder / MANIFEST_PATH).read_text()) for folder in (repository, request.output))
    other = {name for name in BUILT_FILES if (repository / name).read_bytes() != (request.output / name).read_bytes()}
    assert other == {graph_path(name) for name in changed}
    assert set(manifest["parity"]["graphs"]) == changed
    assert manifest["branches"] == {**before["branches"], part: FACTS}
    assert manifest["sha256"] != before["sha256"]
    assert set(manifest["source"]["taken_from"]["replaced"]) == {part}
    for name in ("pos_weight", "modality_weights", "labels", "trained"):
        assert manifest[name] == before[name]
    assert build(request).made == ()


def fusion_run(folder: Path, **pos_weight: float) -> Path:
    """What a run on the fusion leaves behind; the tiny model has two labels."""
    folder.mkdir()
    found = {"weights": {"text": 0.5, "visual": 0.25, "acoustic": 2.0}, "pos_weight": list(pos_weight.values())}
    (folder / "calibration.json").write_text(json.dumps(found))
    (folder / "report.json").write_text("{}")
    return folder


def test_the_fusion_is_weighted_anew_and_the_branches_stay_the_same_files(repository, tiny, tmp_path, reference):
    def built(run: Path, source: Path, name: str) -> Path:
        request = BuildRequest(
            preset=tiny,
            output=tmp_path / name,
            cache=tmp_path / "cache",
            repository=source,
            branch=run,
            precision="fp16",
        )
        build(request)
        return request.output

    first = built(finished_run(tiny, "text", tmp_path, seed=1), repository, "first")
    second = built(fusion_run(tmp_path / "fused", first=3.0, second=1.5), first, "second")
    other = {name for name in BUILT_FILES if (first / name).read_bytes() != (second / name).read_bytes()}
    assert other == {graph_path("fusion")}
    before, manifest = (json.loads((folder / MANIFEST_PATH).read_text()) for folder in (first, second))
    assert manifest["modality_weights"] == {"text": 0.5, "visual": 0.25, "acoustic": 2.0}
    assert manifest["pos_weight"] == [3.0, 1.5]
    assert manifest["branches"] == before["branches"]
    assert set(manifest["source"]["taken_from"]["replaced"]) == {"text", "fusion"}
    _, arrays = parity_inputs(uneven_model(tiny), reference.tokenizer)["fusion"][-1]
    old, new = (onnx_runner(folder / graph_path("fusion"))(arrays) for folder in (first, second))
    np.testing.assert_array_equal(new["MODALITY_LOGITS"], old["MODALITY_LOGITS"])
    logits = new["MODALITY_LOGITS"].transpose(0, 2, 1) @ np.array([0.5, 0.25, 2.0], np.float32)
    np.testing.assert_allclose(new["LOGITS"], logits, atol=ROUNDED)
    odds = np.exp(logits) / np.array([3.0, 1.5], np.float32)
    np.testing.assert_allclose(new["PROBABILITIES"], odds / (1 + odds), atol=ROUNDED)


def test_a_fusion_of_other_labels_is_refused(repository, tiny, tmp_path):
    base = RepositorySource(preset=tiny, repository=repository)
    run = fusion_run(tmp_path / "fused", first=3.0)
    with pytest.raises(TrainingError, match="is of 1 labels, the preset of 2"):
        ReplacedSource(base=base, branch=run).make(tmp_path / "graphs", lambda _line: None)
    (run / "calibration.json").write_text('{"weights": {"text": 1}, "pos_weight": [1, 1]}')
    with pytest.raises(TrainingError, match="holds no finished run"):
        ReplacedSource(base=base, branch=run).key()


def test_the_other_branches_answer_as_before(repository, tiny, tmp_path, reference):
    """New weights of the visual branch change its answers alone; its former weights none."""
    inputs = parity_inputs(uneven_model(tiny), reference.tokenizer)["fusion"]
    runs = {}
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        output = folder / "new"
        run = finished_run(tiny, "visual", folder, seed=seed)
        build(BuildRequest(preset=tiny, output=output, cache=tmp_path / "cache", repository=repository, branch=run))
        runs[seed] = onnx_runner(output / graph_path("fusion"))
    before = onnx_runner(repository / graph_path("fusion"))
    moved = 0.0
    for _, arrays in inputs:
        old, same, new = (run(arrays) for run in (before, runs[0], runs[1]))
        for name in ("LOGITS", "PROBABILITIES", "MODALITY_LOGITS"):
            np.testing.assert_allclose(same[name], old[name], atol=ROUNDED)
        text_and_sound = [0, 2]
        np.testing.assert_array_equal(
            new["MODALITY_LOGITS"][:, text_and_sound], old["MODALITY_LOGITS"][:, text_and_sound]
        )
        moved = max(moved, float(np.abs(new["MODALITY_LOGITS"][:, 1] - old["MODALITY_LOGITS"][:, 1]).max()))
    assert moved > 0.05


def test_what_does_not_fit_is_refused(repository, tiny, tmp_path, capsys):
    run = finished_run(tiny, "visual", tmp_path, seed=1)
    other = replace(tiny, visual=replace(tiny.visual, hidden=16))

    def tried(preset: Preset, branch: Path) -> None:
        source = ReplacedSource(base=RepositorySource(preset=preset, repository=repository), branch=branch)
        source.key()
        source.make(tmp_path / "graphs", lambda _line: None)

    with pytest.raises(TrainingError, match=r"v_flatten\.0\.bias has shape \[8\], the preset asks for \[16\]"):
        tried(other, run)
    with pytest.raises(TrainingError, match="holds no finished run"):
        tried(tiny, tmp_path / "nothing")
    with pytest.raises(BuildUsageError, match="no repository is given; give one as checkpoint"):
        BuildRequest(preset=tiny, output=tmp_path / "o", cache=tmp_path, branch=run)
    assert cli.main(["--seed", "0", "--branch", str(run), "--output", str(tmp_path / "o")]) == 2
    assert "no repository is given" in capsys.readouterr().err


def test_a_fusion_of_other_sizes_is_refused(repository, tiny, tmp_path):
    run = finished_run(tiny, "visual", tmp_path, seed=1)
    deeper = replace(tiny, temporal=replace(tiny.temporal, layers=2))
    source = ReplacedSource(base=RepositorySource(preset=deeper, repository=repository), branch=run)
    with pytest.raises(UnusableRepository, match="its fusion is not that of preset tiny"):
        source.make(tmp_path / "graphs", lambda _line: None)
