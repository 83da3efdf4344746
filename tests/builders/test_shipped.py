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
from fv2es_builders.graphs import BUILT_FILES, ENGINES, graph_path
from fv2es_builders.manifest import MANIFEST_PATH, read_current
from fv2es_builders.presets import PRESETS
from fv2es_builders.shipped import RepositorySource, shipped_repository
from fv2es_builders.storage import restored

COMMITTED = Path(__file__).resolve().parents[2] / "model_repository"
MAX_BYTES = 60_000_000
"""Of all graphs together."""


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
    graphs = [COMMITTED / name for name in manifest["build"]["files"] if name.endswith(".onnx")]
    assert sum(path.stat().st_size for path in graphs) <= MAX_BYTES
    assert set(manifest["build"]["files"]) == set(BUILT_FILES)
    if (COMMITTED.parent / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "model_repository"], cwd=COMMITTED.parent, check=True, capture_output=True, text=True
        )
        assert set(listed.stdout.split()) >= {f"model_repository/{name}" for name in (*BUILT_FILES, MANIFEST_PATH)}
    assert set(manifest["branches"]) == {"text", "visual", "acoustic"}
    unknown = {
        name: [label for label, known in zip(manifest["labels"], own["known"], strict=True) if not known]
        for name, own in manifest["branches"].items()
    }
    assert unknown == {"text": [], "visual": [], "acoustic": ["surprise"]}
    assert shipped_repository(PRESETS["starter"]) == COMMITTED


def test_other_presets_bring_no_weights(tmp_path, capsys):
    assert cli.main(["--preset", "fv2es-iemocap", "--output", str(tmp_path)]) == 2
    assert "comes with no trained weights here; give --checkpoint PATH, or --seed N" in capsys.readouterr().err


WITHOUT_TORCH = """
import importlib.metadata, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "onnxscript"):
            raise ModuleNotFoundError(name=name)

installed = importlib.metadata.version
def version(name):
    if name in ("torch", "transformers", "onnxscript"):
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)

sys.meta_path.insert(0, Missing())
importlib.metadata.version = version
from fv2es_builders.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""The command where these packages are not installed."""


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_default_build_is_trained_and_needs_no_torch(tmp_path, precision):
    """The committed weights in another precision, by the command alone."""
    arguments = ["--output", tmp_path / "repository", "--cache", tmp_path / "cache", "--precision", precision]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)], timeout=200, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    manifest, committed = manifest_of(tmp_path / "repository"), manifest_of(COMMITTED)
    assert manifest["precision"] == precision
    for name in ("labels", "pos_weight", "modality_weights", "branches", "trained", "licences"):
        assert manifest[name] == committed[name]
    assert manifest["sha256"] != committed["sha256"]  # its FP32 weights are rounded
    replaced = committed["source"]["taken_from"]["replaced"]
    taken = {"sha256": committed["sha256"], "precision": "fp16", "parity": committed["parity"], "replaced": replaced}
    assert manifest["source"] == {**committed["source"], "taken_from": taken}
    assert manifest["parity"]["graphs"] == {}
    assert f"Its weights are those of a repository in fp16, but for {', '.join(replaced)}." in run.stdout


@pytest.mark.parametrize(("profile", "precision"), [("cpu", "fp32"), ("cpu", "fp16"), ("gpu", "fp16")])
def test_a_repository_is_built_from(in_fp16, tiny, cache, tmp_path, profile, precision):
    """Its graphs in FP32 are those that it serves, and any profile can be made of them."""
    request = BuildRequest(
        preset=tiny, output=tmp_path, cache=cache, repository=in_fp16, profile=profile, precision=precision
    )
    result = build(request)
    assert result.manifest["trained"]
    if profile == "cpu":
        for model in ENGINES:
            served, found = (onnx.load(str(folder / graph_path(model))) for folder in (in_fp16, tmp_path))
            assert restored(found).graph == restored(served).graph
    assert build(request).made == ()


def test_one_in_fp32_keeps_its_name(in_fp16, tiny, cache, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for source, output in ((in_fp16, first), (first, second)):
        build(BuildRequest(preset=tiny, output=output, cache=cache, repository=source))
    assert manifest_of(first)["sha256"] == manifest_of(second)["sha256"] != manifest_of(in_fp16)["sha256"]


def test_what_cannot_be_built_from_is_refused(in_fp16, copy, tiny, tmp_path, tokenizer_folder):
    def tried(repository: Path, **changed: object) -> None:
        source = RepositorySource(preset=replace(tiny, **changed), repository=repository)
        source.make(tmp_path / "graphs", lambda _line: None)

    with pytest.raises(BuildUsageError, match="is of preset tiny, but the build is for large; give --preset tiny"):
        tried(in_fp16, name="large")
    with pytest.raises(OtherLabels, match="was trained for glad, sad, but the build is for sad, glad"):
        tried(in_fp16, labels=("sad", "glad"))
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


def test_bad_usage(in_fp16, tiny, tmp_path, tokenizer_folder, capsys):
    for wrong in ({"tokenizer": tokenizer_folder}, {"seed": 1}, {"checkpoint": tmp_path / "weights.pt"}):
        with pytest.raises(BuildUsageError, match="brings its own weights and tokenizer; leave"):
            BuildRequest(preset=tiny, output=tmp_path, cache=tmp_path, repository=in_fp16, **wrong)
    with pytest.raises(BuildUsageError, match="is where the weights come from, and would be lost"):
        BuildRequest(preset=tiny, output=in_fp16, cache=tmp_path, repository=in_fp16)
    assert cli.main(["--output", str(COMMITTED)]) == 2
    assert "would be lost; name another folder as output" in capsys.readouterr().err
    assert cli.main(["--seed", "0", "--checkpoint", "x.pt", "--output", str(tmp_path)]) == 2
    assert "seed 0 is of untrained weights, but x.pt is given" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli.main(["--checkpoint", str(tmp_path / "empty"), "--output", str(tmp_path / "out")]) == 1
    assert "holds no manifest/1/manifest.json; name a repository that" in " ".join(capsys.readouterr().err.split())
