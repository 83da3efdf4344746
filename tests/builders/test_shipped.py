"""Builds that start from a repository: the one that comes with the project, and any other in FP32 or FP16."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from checkpoints import published, trained_model

from fv2es_builders import cli
from fv2es_builders.build import BuildRequest, build
from fv2es_builders.errors import BuildUsageError, OtherLabels, UnusableRepository
from fv2es_builders.graphs import ENGINES, graph_path
from fv2es_builders.manifest import MANIFEST_PATH, read_current
from fv2es_builders.presets import PRESETS
from fv2es_builders.shipped import graphs_from_repository, shipped_repository
from fv2es_builders.storage import restored

COMMITTED = Path(__file__).resolve().parents[2] / "model_repository"
MAX_BYTES = 60_000_000
"""Of all that is committed: what a clone costs."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def in_fp16(tiny, tokenizer_folder, tmp_path_factory, cache) -> Path:
    """The tiny model with other weights than a seed gives, in FP16 for a CPU."""
    folder = tmp_path_factory.mktemp("fp16")
    torch.save(published(trained_model(tiny)), folder / "weights.pt")
    build(
        BuildRequest(
            preset=tiny,
            output=folder / "repository",
            cache=cache,
            checkpoint=folder / "weights.pt",
            tokenizer=tokenizer_folder,
            precision="fp16",
        )
    )
    return folder / "repository"


@pytest.fixture
def copy(in_fp16, tmp_path) -> Path:
    return Path(shutil.copytree(in_fp16, tmp_path / "copy"))


def manifest_of(repository: Path) -> dict:
    return json.loads((repository / MANIFEST_PATH).read_text())


def test_what_is_committed_is_whole_and_small():
    manifest = manifest_of(COMMITTED)
    assert read_current(COMMITTED, manifest["build"]["inputs_sha256"]) == manifest
    assert manifest["trained"]
    assert (manifest["profile"], manifest["precision"]) == ("cpu", "fp16")
    assert sum((COMMITTED / name).stat().st_size for name in manifest["build"]["files"]) <= MAX_BYTES
    assert set(manifest["branches"]) == {"text", "visual", "acoustic"}
    unknown = {
        name: [label for label, known in zip(manifest["labels"], own["known"], strict=True) if not known]
        for name, own in manifest["branches"].items()
    }
    assert unknown == {"text": [], "visual": [], "acoustic": ["surprise"]}
    assert shipped_repository(PRESETS["starter"]) == COMMITTED


def test_other_presets_bring_no_weights(tmp_path, capsys):
    assert cli.main(["--preset", "fv2es-iemocap", "--output", str(tmp_path)]) == 2
    assert "comes with no trained weights here; give --checkpoint FILE, or --seed N" in capsys.readouterr().err


def test_the_default_build_is_trained_and_needs_no_torch(tmp_path):
    """The committed weights in another precision, by the command alone."""
    code = (
        "import sys; from fv2es_builders.cli import main;"
        f"status = main(['--output', {str(tmp_path / 'repository')!r}, '--cache', {str(tmp_path / 'cache')!r}]);"
        "sys.exit(status if 'torch' not in sys.modules else 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, capture_output=True)
    manifest, committed = manifest_of(tmp_path / "repository"), manifest_of(COMMITTED)
    assert manifest["precision"] == "fp32"
    for name in ("sha256", "labels", "pos_weight", "modality_weights", "branches", "trained", "licences"):
        assert manifest[name] == committed[name]
    assert manifest["source"] == {**committed["source"], "taken_from": {"precision": "fp16"}}


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_repository_is_built_from(in_fp16, tiny, cache, tmp_path, profile):
    """Its graphs in FP32 are those that it serves, and any profile can be made of them."""
    precision = "fp32" if profile == "cpu" else "fp16"
    request = BuildRequest(
        preset=tiny, output=tmp_path, cache=cache, checkpoint=in_fp16, profile=profile, precision=precision
    )
    result = build(request)
    assert result.manifest["sha256"] == manifest_of(in_fp16)["sha256"]
    assert result.manifest["trained"]
    if profile == "cpu":
        for model in ENGINES:
            served, found = (onnx.load(str(folder / graph_path(model))) for folder in (in_fp16, tmp_path))
            assert found == restored(served)
    assert build(request).made == ()


def test_itself_can_be_replaced(copy, tiny, cache):
    build(BuildRequest(preset=tiny, output=copy, cache=cache, checkpoint=copy))
    assert manifest_of(copy)["precision"] == "fp32"


def test_what_cannot_be_built_from_is_refused(in_fp16, copy, tiny, tmp_path, tokenizer_folder):
    def tried(repository: Path, **changed: object) -> None:
        graphs_from_repository(repository, replace(tiny, **changed), tmp_path / "graphs")

    with pytest.raises(UnusableRepository, match=r"holds no manifest/1/manifest\.json; name a repository"):
        tried(tmp_path)
    with pytest.raises(BuildUsageError, match="is of preset tiny, but the build is for large; give --preset tiny"):
        tried(in_fp16, name="large")
    with pytest.raises(OtherLabels, match="was trained for glad, sad, but the build is for sad, glad"):
        tried(in_fp16, labels=("sad", "glad"))
    with pytest.raises(BuildUsageError, match=r"brings its own tokenizer; leave .* out"):
        BuildRequest(preset=tiny, output=tmp_path, cache=tmp_path, checkpoint=in_fp16, tokenizer=tokenizer_folder)
    manifest = manifest_of(copy)
    for changed in ({"profile": "gpu"}, {"precision": "int8"}):
        (copy / MANIFEST_PATH).write_text(json.dumps(manifest | changed))
        with pytest.raises(UnusableRepository, match="give one of profile cpu in fp32 or fp16, or the checkpoint"):
            tried(copy)
    (copy / MANIFEST_PATH).write_text(json.dumps({"profile": "cpu"}))
    with pytest.raises(UnusableRepository, match=r"its manifest is not of this version \(KeyError\('precision'\)\)"):
        tried(copy)
    (copy / MANIFEST_PATH).write_text(json.dumps(manifest))
    path = copy / graph_path("text")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnusableRepository, match=r"text/1/model\.onnx is not the file that was built"):
        tried(copy)
    path.unlink()
    with pytest.raises(UnusableRepository, match=r"text/1/model\.onnx is not the file that was built"):
        tried(copy)
