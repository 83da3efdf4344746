"""A gpu repository built on a machine without GPU, judged by NVIDIA's parser, and what becomes of its plans."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from rich.console import Console
from tritonclient.grpc import model_config_pb2

from fake_driver import FakeDriver
from fv2es_builders import plan_repository
from fv2es_builders.build import BuildRequest, build
from fv2es_builders.cuda import find_gpu
from fv2es_builders.errors import BuildUsageError, MixedProfiles, NotARepository, TensorRtMissing
from fv2es_builders.graphs import ENGINES, SOURCE_NAME
from fv2es_builders.manifest import MANIFEST_PATH, read_current
from fv2es_builders.plan_repository import (
    make_plans,
    place_plans,
    plan_facts,
    plan_key,
    plan_path,
    plans_are_current,
    plans_table,
    read_manifest,
    source_path,
    timing_name,
)
from fv2es_builders.plans import PLAN_NAME, PlanFacts, available_flavours, plan_from_onnx, shape_profile
from fv2es_pipelines.plan_check import Machine, NoPlans, check_manifest
from fv2es_pipelines.specification import models

pytestmark = pytest.mark.xdist_group("gpu repository")

L4 = find_gpu(FakeDriver())
HERE = Machine(tensorrt_version="10.13.3.9", compute_capability=L4.compute_capability)


@pytest.fixture(scope="module")
def request_of(tiny, tokenizer_folder, tmp_path_factory):
    """Builds of the tiny preset that share a cache."""
    cache = tmp_path_factory.mktemp("cache")

    def made(output: Path, **options) -> BuildRequest:
        return BuildRequest(preset=tiny, tokenizer=tokenizer_folder, cache=cache, output=output, **options)

    return made


@pytest.fixture(scope="module")
def fp16(request_of, tmp_path_factory) -> Path:
    """Tests must not change it."""
    output = tmp_path_factory.mktemp("fp16")
    build(request_of(output, profile="gpu", precision="fp16"))
    return output


@pytest.fixture
def repository(fp16, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(fp16, tmp_path / "repository"))


def manifest_of(repository: Path) -> dict:
    return json.loads((repository / MANIFEST_PATH).read_text())


def content_of(repository: Path) -> dict[str, bytes]:
    return {str(path.relative_to(repository)): path.read_bytes() for path in repository.rglob("*") if path.is_file()}


def inflight_of(repository: Path) -> int:
    return config_of(repository, "emotion").ensemble_scheduling.max_inflight_requests


def config_of(repository: Path, model: str):
    text = (repository / model / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_files(fp16, tiny):
    """All but the plans: what the engines are made of lies beside where they will."""
    files = set(content_of(fp16))
    assert {f"{model.name}/config.pbtxt" for model in models("gpu")} <= files
    assert {source_path(model) for model in ENGINES} <= files
    assert {"decode/1/model.dali", "mel/1/model.dali", "tokenizer/1/tokenizer.json", "faces/1/pnet.onnx"} <= files
    assert not [name for name in files if name.endswith(("model.onnx", PLAN_NAME, ".part"))]
    for model in models("gpu"):
        config = config_of(fp16, model.name)
        assert config.name == model.name
        axes = {tensor.name: tensor.axes for tensor in model.outputs}
        for output in config.output:
            if "C" in axes[output.name]:
                assert len(tiny.labels) in output.dims


def test_manifest(fp16):
    manifest = manifest_of(fp16)
    assert (manifest["profile"], manifest["precision"], manifest["server_version"]) == ("gpu", "fp16", "2.75")
    assert "plans" not in manifest
    assert {*ENGINES, "chain"} == set(manifest["parity"]["engines"])
    assert {source_path(model) for model in ENGINES} <= set(manifest["build"]["files"])
    assert read_current(fp16, manifest["build"]["inputs_sha256"]) == manifest
    with pytest.raises(NoPlans, match="has no plans yet"):
        check_manifest(fp16, manifest)


@pytest.mark.parametrize("model", ENGINES)
def test_tensorrt_takes_the_graphs(fp16, tiny, tmp_path, model):
    profile = shape_profile(model, num_labels=len(tiny.labels))
    target = tmp_path / PLAN_NAME
    facts = plan_from_onnx(fp16 / source_path(model), target, model=model, profile=profile, flavour="tensorrt_rtx")
    assert facts.onnx_sha256 == manifest_of(fp16)["build"]["files"][source_path(model)]


def test_int8(fp16, request_of, tiny, tmp_path):
    """From the same graphs as `fp16`, with quantised products that TensorRT takes."""
    output = tmp_path / "int8"
    assert build(request_of(output, profile="gpu", precision="int8")).made == ("engines",)
    assert manifest_of(output)["precision"] == "int8"
    assert manifest_of(output)["sha256"] == manifest_of(fp16)["sha256"]
    quantised = [model for model in ENGINES if b"QuantizeLinear" in (output / source_path(model)).read_bytes()]
    assert quantised
    for model in quantised:
        profile = shape_profile(model, num_labels=len(tiny.labels))
        plan_from_onnx(
            output / source_path(model), tmp_path / PLAN_NAME, model=model, profile=profile, flavour="tensorrt_rtx"
        )


def test_servers_differ(fp16, request_of, tmp_path):
    assert inflight_of(fp16) > 0
    result = build(request_of(tmp_path, profile="gpu", precision="fp16", server_version="2.51"))
    assert result.made == ()  # all from the cache
    assert inflight_of(tmp_path) == 0
    assert manifest_of(tmp_path)["server_version"] == "2.51"


def test_another_profile_is_refused(repository, request_of, tmp_path):
    before = content_of(repository)
    with pytest.raises(MixedProfiles, match=r"holds weights of another profile than cpu \(.*visual/1/source.onnx"):
        build(request_of(repository))
    assert content_of(repository) == before
    on_cpu = tmp_path / "cpu"
    build(request_of(on_cpu))
    before = content_of(on_cpu)
    with pytest.raises(MixedProfiles, match=r"than gpu \(.*visual/1/model.onnx"):
        build(request_of(on_cpu, profile="gpu", precision="fp16"))
    assert content_of(on_cpu) == before
    with pytest.raises(NotARepository, match="it is of profile cpu, which has no plans; make a repository with"):
        read_manifest(on_cpu)


def test_bf16_is_for_gpus(request_of, tmp_path):
    with pytest.raises(BuildUsageError, match="precision 'bf16' can't be served on profile cpu"):
        request_of(tmp_path, precision="bf16")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"manifest/1/manifest.json can't be read \("),
        (b"{", "can't be read"),
        (b"\xff", "can't be read"),
        (b"[]", "is none of a repository"),
        (b'{"profile": "gpu"}', r"is none of a repository \(KeyError\('build'\)\)"),
        (b'{"profile": "gpu", "build": {"files": {}}, "labels": [], "precision": "fp16"}', "has no labels"),
        (
            b'{"profile": "gpu", "build": {"files": {}}, "labels": ["a"], "precision": "fp16"}',
            "visual/1/source.onnx is",
        ),
    ],
    ids=["absent", "cut off", "no text", "list", "keys missing", "no labels", "no files"],
)
def test_damaged_manifest(tmp_path, content, message, capsys):
    if content is not None:
        (tmp_path / MANIFEST_PATH).parent.mkdir(parents=True)
        (tmp_path / MANIFEST_PATH).write_bytes(content)
    with pytest.raises(NotARepository, match=message) as caught:
        read_manifest(tmp_path)
    assert caught.value.folder == tmp_path
    assert plan_repository.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"fv2es plans: {tmp_path}: ")


def test_no_folder_is_made(tmp_path):
    assert plan_repository.main([str(tmp_path / "absent")]) == 1
    assert not list(tmp_path.iterdir())


def test_damaged_graph(repository):
    path = repository / source_path("text")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(NotARepository, match=r"text/1/source.onnx is missing, or not the one that was built"):
        read_manifest(repository)
    path.unlink()
    with pytest.raises(NotARepository, match=r"text/1/source.onnx is missing"):
        read_manifest(repository)


def test_no_tensorrt(repository, tmp_path, capsys):
    if "tensorrt" in available_flavours():
        pytest.skip("TensorRT itself is here")
    before = content_of(repository)
    with pytest.raises(TensorRtMissing):
        make_plans(repository, tmp_path / "cache")
    assert plan_repository.main([str(repository), "--cache", str(tmp_path / "cache")]) == 1
    error = capsys.readouterr().err
    assert "tensorrt is not installed; install the one that the server has" in error
    assert content_of(repository) == before
    assert not (tmp_path / "cache").exists()


def test_bad_usage(capsys):
    assert plan_repository.main([]) == 2
    assert "REPOSITORY" in capsys.readouterr().err
    assert plan_repository.main(["--help"]) == 0


def test_keys(repository):
    """Graph, precision, number of labels, TensorRT and GPU decide; where the repository lies does not."""
    manifest = manifest_of(repository)
    version = HERE.tensorrt_version

    def key(model="visual", manifest=manifest, tensorrt_version=version, gpu=L4, folder=repository):
        return plan_key(folder, manifest, model, tensorrt_version=tensorrt_version, gpu=gpu)

    moved = repository.rename(repository.with_name("moved"))
    first = key(folder=moved)
    moved.rename(repository)
    assert key() == first
    others = [
        key(model="text"),
        key(tensorrt_version="10.13.3.10"),
        key(gpu=dataclasses.replace(L4, name="NVIDIA GeForce RTX 4090")),
        key(gpu=dataclasses.replace(L4, compute_capability="9.0")),
        key(manifest={**manifest, "precision": "fp32"}),
        key(model="fusion"),
        key(model="fusion", manifest={**manifest, "labels": ["a", "b", "c"]}),
    ]
    (repository / source_path("visual")).write_bytes(b"another graph")
    others.append(key())
    assert len({first, *others}) == len(others) + 1


def test_timing_cache_is_of_one_kind_of_gpu():
    assert timing_name("10.13.3.9", L4) == "timing-10.13.3.9-NVIDIA-L4-8.9"


def made_plans(folder: Path, content: str) -> dict[str, tuple[Path, dict]]:
    """Stand-ins for plans of HERE, as a cache gives them."""
    made = {}
    for model in ENGINES:
        path = folder / model / PLAN_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content} {model}")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        facts = PlanFacts(
            model=model,
            flavour="tensorrt",
            tensorrt_version=HERE.tensorrt_version,
            compute_capabilities=(L4.compute_capability,),
            gpu=L4.name,
            onnx_sha256="0" * 64,
            sha256=sha256,
            num_layers=12,
            num_bytes=2_500_000,
            duration_s=61.25,
        )
        outputs = {"LOGITS": {"max_abs": 2e-3, "mean_abs": 1e-4, "median_abs": 1e-4, "allowed": 1e-2, "num_cases": 8}}
        made[model] = path, {**plan_facts(facts, outputs), "inputs_sha256": f"{content} {model}"}
    return made


def test_plans_are_placed(repository, tmp_path):
    """A server starts on them, a build takes the repository for up to date, and only what was made is there."""
    manifest = manifest_of(repository)
    made = made_plans(tmp_path / "made", "first")
    returned = place_plans(repository, manifest, made)
    written = manifest_of(repository)
    assert returned == written == {**manifest, "plans": {model: facts for model, (_, facts) in made.items()}}
    check_manifest(repository, written, HERE)
    assert read_current(repository, manifest["build"]["inputs_sha256"]) == written
    assert {name for name in content_of(repository) if "plan" in name} == {plan_path(model) for model in ENGINES}
    assert not list(repository.rglob("*.part"))

    keys = {model: f"first {model}" for model in ENGINES}
    assert plans_are_current(repository, written, keys)
    assert not plans_are_current(repository, manifest, keys)
    assert not plans_are_current(repository, {**manifest, "plans": None}, keys)
    assert not plans_are_current(repository, written, {**keys, "text": "another"})
    (repository / plan_path("text")).write_bytes(b"")
    assert not plans_are_current(repository, written, keys)


def test_failure_while_copying_leaves_the_old_plans(repository, tmp_path):
    place_plans(repository, manifest_of(repository), made_plans(tmp_path / "first", "first"))
    before = content_of(repository)
    second = made_plans(tmp_path / "second", "second")
    second["fusion"][0].unlink()
    with pytest.raises(FileNotFoundError):
        place_plans(repository, manifest_of(repository), second)
    assert content_of(repository) == before


def test_failure_while_moving_leaves_none_that_are_named(repository, tmp_path):
    place_plans(repository, manifest_of(repository), made_plans(tmp_path / "first", "first"))
    obstacle = repository / plan_path("text")
    obstacle.unlink()
    obstacle.mkdir()
    second = made_plans(tmp_path / "second", "second")
    with pytest.raises(OSError, match="directory"):
        place_plans(repository, manifest_of(repository), second)
    assert manifest_of(repository)["plans"] is None
    assert not list(repository.rglob("*.part"))
    with pytest.raises(NoPlans):
        check_manifest(repository, manifest_of(repository), HERE)
    obstacle.rmdir()
    place_plans(repository, manifest_of(repository), second)
    check_manifest(repository, manifest_of(repository), HERE)
    assert obstacle.read_text() == "second text"


def test_a_new_build_forgets_the_plans(repository, request_of, tmp_path):
    """Other graphs: plans of the old ones still lie there, but no server starts on them."""
    place_plans(repository, manifest_of(repository), made_plans(tmp_path / "made", "first"))
    build(request_of(repository, profile="gpu"))
    assert (repository / plan_path("text")).is_file()
    with pytest.raises(NoPlans):
        check_manifest(repository, manifest_of(repository), HERE)


def test_table(tmp_path):
    made = made_plans(tmp_path, "any")
    console = Console(width=120)
    with console.capture() as capture:
        console.print(plans_table({model: facts for model, (_, facts) in made.items()}))
    lines = capture.get().splitlines()
    assert len(lines) == 1 + len(ENGINES)
    assert lines[1].split() == ["visual", "2.5", "12", "61.2", "LOGITS", "2.0e-03", "1.0e-02"]


def test_facts_survive_json(tmp_path):
    for _, facts in made_plans(tmp_path, "any").values():
        assert json.loads(json.dumps(facts)) == facts


def test_needs_no_torch():
    code = "import sys, fv2es_builders.plan_repository; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert not {"torch", "transformers", "nvidia.dali"} & set(done.stdout.split())


def test_whole(gpu, repository, tmp_path):
    """On a GPU with TensorRT itself: plans are made, proven, recorded; the second time there is nothing to do."""
    if "tensorrt" not in available_flavours() and os.environ.get("FV2ES_REQUIRE_GPU") != "1":
        pytest.skip("TensorRT itself is not here")
    lines: list[str] = []
    manifest = make_plans(repository, tmp_path / "cache", lines.append)
    assert manifest == manifest_of(repository)
    check_manifest(repository, manifest)
    for model in ENGINES:
        facts = manifest["plans"][model]
        assert facts["gpu"] == gpu.name
        assert facts["onnx_sha256"] == hashlib.sha256((repository / model / "1" / SOURCE_NAME).read_bytes()).hexdigest()
        assert all(each["max_abs"] <= each["allowed"] for each in facts["parity"].values())
        assert f"{model}: made" in lines
    before = content_of(repository)
    lines.clear()
    assert make_plans(repository, tmp_path / "cache", lines.append) == manifest
    assert lines[-1] == "up to date"
    assert content_of(repository) == before
    (repository / plan_path("text")).unlink()
    lines.clear()
    make_plans(repository, tmp_path / "cache", lines.append)
    assert "text: taken from the cache" in lines
    assert content_of(repository) == before
