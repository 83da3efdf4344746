"""The GPU of the machine, and whether a repository's plans were made for it."""

import hashlib
import json
import subprocess
import sys

import pytest

from fake_driver import FakeDriver
from fv2es_pipelines.adapter import ModelFolder
from fv2es_pipelines.errors import PipelineError
from fv2es_pipelines.gpu import NoGpu, find_gpu
from fv2es_pipelines.plan_check import (
    LIBRARIES,
    PLAN_NAME,
    Machine,
    NoPlans,
    PlanMismatch,
    check_plans,
    tensorrt_version,
)
from fv2es_pipelines.refusal import NONE
from fv2es_pipelines.workers import load_manifest

HERE = Machine(tensorrt_version="11.0.0.114", compute_capability="8.9")


@pytest.fixture
def plans(tmp_path) -> dict[str, dict]:
    """Facts of the four plans that lie in `tmp_path` and belong to HERE."""
    facts = {}
    for model in ("visual", "acoustic", "text", "fusion"):
        path = tmp_path / model / "1" / PLAN_NAME
        path.parent.mkdir(parents=True)
        path.write_bytes(model.encode())
        facts[model] = {
            "flavour": "tensorrt",
            "tensorrt_version": HERE.tensorrt_version,
            "compute_capabilities": ["8.9"],
            "sha256": hashlib.sha256(model.encode()).hexdigest(),
        }
    return facts


def test_plans_of_this_machine(tmp_path, plans):
    check_plans(tmp_path, plans, HERE)
    check_plans(tmp_path, {}, HERE)


def test_other_tensorrt_and_gpu(tmp_path, plans):
    plans["text"] |= {"tensorrt_version": "10.13.3.9", "compute_capabilities": ["9.0"]}
    message = (
        r"model text's plan was built by TensorRT 10\.13\.3\.9 for compute capability 9\.0, "
        r"this server has TensorRT 11\.0\.0\.114 on 8\.9; rebuild: fv2es plans REPOSITORY"
    )
    with pytest.raises(PlanMismatch, match=message) as caught:
        check_plans(tmp_path, plans, HERE)
    assert isinstance(caught.value, PipelineError)
    assert caught.value.model == "text"


@pytest.mark.parametrize(
    "change",
    [
        {"tensorrt_version": "11.0.0.115"},  # another build of the same release
        {"tensorrt_version": "11.0.0"},
        {"compute_capabilities": ["8.6"]},
        {"compute_capabilities": []},
    ],
)
def test_one_difference_is_enough(tmp_path, plans, change):
    plans["visual"] |= change
    with pytest.raises(PlanMismatch, match="model visual's plan was built by TensorRT"):
        check_plans(tmp_path, plans, HERE)


def test_plan_for_several_gpus(tmp_path, plans):
    plans["visual"]["compute_capabilities"] = ["8.0", "8.6", "8.9"]
    check_plans(tmp_path, plans, HERE)


def test_no_tensorrt_here(tmp_path, plans):
    with pytest.raises(PlanMismatch, match=r"this server has TensorRT none on 8\.9"):
        check_plans(tmp_path, plans, Machine(tensorrt_version="none", compute_capability="8.9"))


def test_damaged_plan(tmp_path, plans):
    path = tmp_path / "text" / "1" / PLAN_NAME
    path.write_bytes(b"tex")
    with pytest.raises(PlanMismatch, match=r"built with sha256 982d9e3eb996, this server has sha256 [0-9a-f]{12} at "):
        check_plans(tmp_path, plans, HERE)
    path.unlink()
    with pytest.raises(PlanMismatch, match=r"this server has no file at .+/text/1/model.plan"):
        check_plans(tmp_path, plans, HERE)


def test_gpu_is_asked_for(tmp_path, plans):
    """Without a machine given, it is this one."""
    try:
        find_gpu()
    except NoGpu:
        with pytest.raises(NoGpu, match="no usable NVIDIA GPU"):
            check_plans(tmp_path, plans)
    else:
        plans["visual"]["compute_capabilities"] = ["1.0"]
        with pytest.raises(PlanMismatch, match=r"compute capability 1\.0"):
            check_plans(tmp_path, plans)


REQUEST = {name: NONE.to_array() for name in ("PICTURES_REFUSAL", "SOUND_REFUSAL", "WORDS_REFUSAL")}


def manifest_folder(repository, **manifest) -> ModelFolder:
    path = repository / "manifest" / "1"
    path.mkdir(parents=True, exist_ok=True)
    (path / "manifest.json").write_text(json.dumps(manifest))
    return ModelFolder(path=path, parameters={}, batched=False)


def test_start_on_plans_of_this_machine(tmp_path, plans):
    worker = load_manifest(manifest_folder(tmp_path, profile="gpu", plans=plans), HERE)
    (answer,) = worker([REQUEST])
    assert json.loads(answer["MANIFEST"][0]) == {"profile": "gpu", "plans": plans}


@pytest.mark.parametrize("manifest", [{}, {"plans": None}, {"plans": {}}], ids=["never made", "being made", "empty"])
def test_no_start_without_plans(tmp_path, plans, manifest):
    """Also where plans lie there: the manifest alone says which are whole."""
    message = rf"{tmp_path} has no plans yet \(.+\); run on this machine: fv2es plans {tmp_path}"
    with pytest.raises(NoPlans, match=message) as caught:
        load_manifest(manifest_folder(tmp_path, profile="gpu", **manifest), HERE)
    assert set(caught.value.models) == set(plans)
    assert isinstance(caught.value, PipelineError)


def test_no_start_where_one_plan_is_missing(tmp_path, plans):
    del plans["fusion"]
    with pytest.raises(NoPlans) as caught:
        load_manifest(manifest_folder(tmp_path, profile="gpu", plans=plans), HERE)
    assert caught.value.models == ("fusion",)


def test_no_start_on_foreign_or_damaged_plans(tmp_path, plans):
    folder = manifest_folder(tmp_path, profile="gpu", plans=plans)
    with pytest.raises(PlanMismatch, match=r"this server has TensorRT 11\.0\.0\.114 on 9\.0; rebuild: fv2es plans"):
        load_manifest(folder, Machine(tensorrt_version=HERE.tensorrt_version, compute_capability="9.0"))
    (tmp_path / "acoustic" / "1" / PLAN_NAME).write_bytes(b"")
    with pytest.raises(PlanMismatch, match="model acoustic's plan"):
        load_manifest(folder, HERE)


@pytest.mark.parametrize("manifest", [{"profile": "cpu"}, {}], ids=["cpu", "older"])
def test_other_profiles_have_no_plans(tmp_path, manifest):
    (answer,) = load_manifest(manifest_folder(tmp_path, **manifest))([REQUEST])
    assert json.loads(answer["MANIFEST"][0]) == manifest


def test_version_of_a_library():
    """The library itself is asked, which may be there without any Python package."""
    rtx = pytest.importorskip("tensorrt_rtx")
    assert tensorrt_version("tensorrt_rtx") == rtx.__version__


def test_absent_library(monkeypatch):
    monkeypatch.setitem(LIBRARIES, "tensorrt", ("libnvinfer.so.999",))
    assert tensorrt_version("tensorrt") is None


def test_no_tensorrt_is_imported():
    code = "import sys, fv2es_pipelines.plan_check; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert not {"tensorrt", "tensorrt_rtx", "numpy", "torch"} & set(done.stdout.split())


def test_gpu_found():
    gpu = find_gpu(FakeDriver())
    assert (gpu.name, gpu.compute_capability, gpu.cuda_version) == ("NVIDIA L4", "8.9", "13.0")
    assert gpu.memory_bytes == 24 * 2**30
    assert gpu.driver_version


def test_no_gpu_found():
    with pytest.raises(NoGpu, match="the driver sees no device; see that nvidia-smi works") as caught:
        find_gpu(FakeDriver(num_devices=0))
    assert caught.value.reason == "the driver sees no device"
    with pytest.raises(NoGpu, match="cuDeviceTotalMem_v2 answers CUDA error 999"):
        find_gpu(FakeDriver(failing="cuDeviceTotalMem_v2"))
