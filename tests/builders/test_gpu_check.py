"""What of the check of a GPU can be tried without one, and what needs one."""

import dataclasses
import hashlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from fake_driver import FakeDriver
from fv2es_builders import gpu_check, gpu_decode
from fv2es_builders.cuda import Driver, find_gpu, gpu_context
from fv2es_builders.engines import accept_engine, runner_of
from fv2es_builders.errors import (
    BuildUsageError,
    CudaError,
    GpuMissing,
    GpuUnsupported,
    ParityError,
    PlanDamaged,
    PlanForeign,
    PlanRefused,
    TensorRtMissing,
)
from fv2es_builders.gpu_speed import ENGINE_ROWS, engine_inputs, parity_inputs, real_inputs
from fv2es_builders.parity import onnx_runner
from fv2es_builders.plan_runner import PlanRunner, check_plan, speed_of
from fv2es_builders.plans import PLAN_NAME, PlanFacts, plan_from_onnx, shape_profile
from fv2es_pipelines.gpu import NoGpu
from fv2es_pipelines.gpu import find_gpu as pipelines_find_gpu
from fv2es_pipelines.plan_check import Machine

pytestmark = pytest.mark.xdist_group("graphs")

MODELS = tuple(ENGINE_ROWS)
L4 = find_gpu(FakeDriver())
DATA = b"a plan"
FACTS = PlanFacts(
    model="visual",
    flavour="tensorrt",
    tensorrt_version="10.13.3.9",
    compute_capabilities=("9.0",),
    gpu="NVIDIA H100",
    onnx_sha256="0" * 64,
    sha256=hashlib.sha256(DATA).hexdigest(),
    num_layers=3,
    num_bytes=len(DATA),
    duration_s=1.0,
)


@pytest.mark.parametrize("model", MODELS)
def test_inputs(model, tiny, tiny_graphs):
    """The graph takes them, they lie within what plans are built for, and outputs differ from row to row."""
    run = onnx_runner(tiny_graphs[model])
    profile = shape_profile(model, num_labels=len(tiny.labels))
    sizes = [(f"[{rows}]", engine_inputs(model, tiny, num_rows=rows)) for rows in ENGINE_ROWS[model]]
    for _, inputs in [*sizes, *parity_inputs(model, tiny)]:
        assert inputs.keys() == profile.keys()
        for name, array in inputs.items():
            wanted = zip(array.shape, profile[name].least, profile[name].most, strict=True)
            assert all(least <= length <= most for length, least, most in wanted)
        output = next(iter(run(inputs).values()))
        assert np.isfinite(output).all()
        assert len(output) == 1 or np.ptp(output, axis=0).max() > 0
    assert len(next(iter(run(sizes[-1][1]).values()))) == ENGINE_ROWS[model][-1]


def test_real_inputs(tiny):
    assert [name for name, _ in parity_inputs("visual", tiny)][-1] == "real"
    assert [name for name, _ in parity_inputs("acoustic", tiny)][-1] == "real"


def test_usable_flavour():
    hopper = dataclasses.replace(L4, compute_capability="9.0")
    assert gpu_check.usable_flavour(L4, ["tensorrt_rtx"]) == "tensorrt_rtx"
    assert gpu_check.usable_flavour(L4, ["tensorrt_rtx", "tensorrt"]) == "tensorrt"
    assert gpu_check.usable_flavour(hopper, ["tensorrt", "tensorrt_rtx"]) == "tensorrt"
    with pytest.raises(
        GpuUnsupported, match=r"tensorrt_rtx does not support compute capability 9\.0; install TensorRT"
    ):
        gpu_check.usable_flavour(hopper, ["tensorrt_rtx"])
    with pytest.raises(TensorRtMissing, match="tensorrt is not installed; install TensorRT itself"):
        gpu_check.usable_flavour(L4, [])


def test_no_gpu(tmp_path, capsys):
    """One line that says so, status 1, no file."""
    try:
        pipelines_find_gpu()
    except NoGpu:
        assert gpu_check.main(["--output", str(tmp_path / "out" / "gpu.json")]) == 1
        captured = capsys.readouterr()
        assert captured.err.startswith("gpu-check: no usable NVIDIA GPU (")
        assert len(captured.err.splitlines()) == 1
        assert not list(tmp_path.iterdir())
    else:
        pytest.skip("there is a GPU")


def test_bad_usage(tmp_path, capsys):
    assert gpu_check.main([]) == 2
    assert gpu_check.main(["--output", str(tmp_path / "gpu.json"), "--preset", "none"]) == 2
    assert "preset 'none' does not exist" in capsys.readouterr().err
    assert gpu_check.main(["--output", str(tmp_path / "gpu.json"), "--precision", "fp8"]) == 2
    assert gpu_check.main(["--help"]) == 0
    assert "(default: fp32 and fp16)" in " ".join(capsys.readouterr().out.split())


def result_of(engines: list[dict], decoder: dict) -> dict:
    return {"engines": engines, "decoder": decoder}


def text_of(result: dict) -> str:
    console = Console(file=io.StringIO(), width=150)
    for table in gpu_check.tables(result):
        console.print(table)
    return console.file.getvalue()


def test_tables():
    """Of a made-up result: one engine measured, one wrong, one skipped."""
    speed = speed_of([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], num_rows=8)
    engines = [
        {
            "model": "visual",
            "precision": "fp32",
            "plan": dataclasses.asdict(FACTS),
            "memory_bytes": 5_000_000,
            "parity": {"VISUAL": {"max_abs": 3e-6, "allowed": 1e-4}},
            "from_fp32": {"VISUAL": {"max_abs": 4e-6}},
            "speeds": [dataclasses.asdict(speed)],
        },
        {"model": "acoustic", "precision": "fp32", "error": "too far"},
        {"model": "text", "precision": "fp32", "skipped": "no time left"},
    ]
    film = {"width_px": 640, "height_px": 360, "film_s": 10.0, "num_pictures": 20}
    film |= {"median_ms": 40.0, "film_s_per_s": 250.0, "mean_difference": 1.25}
    text = text_of(result_of(engines, {"films": [film]}))
    for words in (
        "Engines",
        "Speed",
        "Decoder (NVDEC)",
        "3.0e-06",
        "1.0e-04",
        "4.0e-06",
        "2.00",
        "4000",
        "640x360",
        "250",
        "1.2",
    ):
        assert words in text
    lines = {line.split()[0]: line for line in text.splitlines() if line.split()[1:2] == ["fp32"]}
    assert "FAILED" in lines["acoustic"]
    assert "skipped" in lines["text"]
    assert "skipped: no NVDEC" in text_of(result_of([], {"skipped": "no NVDEC"}))
    assert "error: broken" in text_of(result_of([], {"films": [], "error": "broken"}))


def test_speed():
    speed = speed_of([float(ms) for ms in range(1, 102)], [2.0] * 101, num_rows=64)
    assert speed.num_runs == 101
    assert speed.device_ms == (51.0, 96.0)
    assert speed.whole_ms == (2.0, 2.0)
    assert speed.rows_per_s == pytest.approx(64 / 0.051)


@pytest.fixture(scope="module")
def real(tiny, tiny_graphs):
    return real_inputs(tiny_graphs, tiny)


def test_golden_inputs(tiny, tiny_graphs, real):
    """Each graph takes them; two requests at least, so that not all are what ranges are taken from."""
    assert set(real) == set(MODELS)
    for model, cases in real.items():
        assert len(cases) >= 2
        run = onnx_runner(tiny_graphs[model])
        assert all(np.isfinite(next(iter(run(inputs).values()))).all() for _, inputs in cases)
    assert all(inputs["INPUT_IDS"].max() < tiny.text.config["vocab_size"] for _, inputs in real["text"])


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_lowered_graphs_stay_near(tiny_graphs, tmp_path, real, precision):
    """What is built on a GPU is another graph than the FP32 one, within its precision's tolerance of itself and not equal to FP32."""
    source = tmp_path / "visual" / "fp32.onnx"
    source.parent.mkdir()
    source.write_bytes(tiny_graphs["visual"].read_bytes())
    graph, kept = gpu_check.lowered(source, model="visual", precision=precision, real=real["visual"])
    assert graph.name == f"{precision}.onnx"
    assert 0 <= kept["kept"] <= kept["products"]
    run = runner_of(graph, "gpu")
    found = gpu_check.differences(tmp_path / PLAN_NAME, run, onnx_runner(source), real["visual"])
    assert 0 < found["VISUAL"]["mean_abs"] <= found["VISUAL"]["max_abs"] < 1
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_differences(tiny_graphs, tmp_path, real):
    """None from itself, the true one from another, and numbers that are none are an error."""
    run, inputs = onnx_runner(tiny_graphs["visual"]), real["visual"]
    plan = tmp_path / PLAN_NAME
    assert gpu_check.differences(plan, run, run, inputs)["VISUAL"]["max_abs"] == 0
    off = gpu_check.differences(plan, lambda arrays: {"VISUAL": run(arrays)["VISUAL"] + np.float32(0.5)}, run, inputs)
    assert off["VISUAL"]["median_abs"] == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(ParityError, match=r"model.plan: \|error\| nan"):
        gpu_check.differences(plan, lambda arrays: {"VISUAL": run(arrays)["VISUAL"] * np.float32("nan")}, run, inputs)


def test_fp32_is_the_source(tiny_graphs, real):
    source = tiny_graphs["text"]
    assert gpu_check.lowered(source, model="text", precision="fp32", real=real["text"]) == (source, {})


def test_limit_of_time():
    assert not gpu_check.Clock(1000).over()
    assert gpu_check.Clock(0).over()
    assert gpu_check.LIMIT_S < gpu_check.END_S < 600


def test_end_whatever_happens(tmp_path):
    """A step that never returns does not keep the process: it writes what it has and ends with status 1."""
    path = tmp_path / "result.json"
    code = (
        "import threading; from pathlib import Path; from fv2es_builders.gpu_check import end_after, write_result;"
        f"end_after(0.1, lambda: write_result(Path({str(path)!r}), {{'failures': ['late']}}));"
        "threading.Event().wait()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert done.returncode == 1
    assert json.loads(path.read_text()) == {"failures": ["late"]}


def test_recorded_facts(tmp_path):
    here = Machine(tensorrt_version="10.13.3.9", compute_capability="9.0")
    plan = tmp_path / PLAN_NAME
    check_plan(plan, DATA, FACTS, here)
    with pytest.raises(PlanDamaged, match=r"model.plan: damaged \(5 bytes instead of 6\); build it anew"):
        check_plan(plan, DATA[:-1], FACTS, here)
    with pytest.raises(PlanDamaged, match="its sha256 is not the recorded one"):
        check_plan(plan, b"A plan", FACTS, here)
    older = dataclasses.replace(here, tensorrt_version="10.12.0.36")
    with pytest.raises(
        PlanForeign, match=r"was built by TensorRT 10\.13\.3\.9 .+, here is TensorRT 10\.12\.0\.36 on 9\.0"
    ):
        check_plan(plan, DATA, FACTS, older)
    with pytest.raises(PlanForeign, match=r"for compute capability 9\.0, here is .+ on 8\.9"):
        check_plan(plan, DATA, FACTS, dataclasses.replace(here, compute_capability="8.9"))


def test_driver_errors():
    with pytest.raises(CudaError, match="cuDeviceGetCount failed with CUDA error 999") as caught:
        Driver(FakeDriver(failing="cuDeviceGetCount"))("cuDeviceGetCount", None)
    assert (caught.value.call, caught.value.status) == ("cuDeviceGetCount", 999)
    with pytest.raises(GpuMissing, match=r"no usable NVIDIA GPU \(the driver sees no device\); run this on a machine"):
        find_gpu(FakeDriver(num_devices=0))


def test_no_plan(tmp_path):
    """Bytes that are no plan are refused, with or without a GPU."""
    plan = tmp_path / PLAN_NAME
    plan.write_bytes(bytes(1000))
    with pytest.raises(PlanRefused, match=r"model.plan: TensorRT refuses it: .+; build it anew on this machine"):
        PlanRunner(plan, flavour="tensorrt_rtx", driver=Driver(FakeDriver()))
    with pytest.raises(PlanDamaged, match="1000 bytes instead of 6"):
        PlanRunner(plan, flavour="tensorrt_rtx", driver=Driver(FakeDriver()), facts=FACTS)


def test_decode_film():
    """The decoder's part, on the CPU: the same graph decodes VP9 there."""
    pytest.importorskip("fv2es_pipelines.decode_graph")
    row = gpu_decode.decode_speed(
        gpu_decode.film("cpu", width_px=64, height_px=48, num_pictures=60), device="cpu", num_runs=1
    )
    assert (row["width_px"], row["height_px"], row["film_s"], row["num_pictures"]) == (64, 48, 2.4, 5)
    assert row["mean_difference"] <= gpu_check.PICTURE_LEVELS
    assert row["film_s_per_s"] > 0


@pytest.fixture
def plan(gpu, tiny, tiny_graphs, tmp_path):
    """Builds a tiny plan and makes it ready on this machine's GPU."""
    flavour, driver = gpu_check.usable_flavour(gpu), Driver()

    def ready(model: str) -> PlanRunner:
        path = tmp_path / model / PLAN_NAME
        profile = shape_profile(model, num_labels=len(tiny.labels))
        facts = plan_from_onnx(tiny_graphs[model], path, model=model, profile=profile, flavour=flavour)
        return PlanRunner(path, flavour=flavour, driver=driver, facts=facts)

    with gpu_context(driver):
        yield ready


@pytest.mark.parametrize("model", MODELS)
def test_plans_run(plan, tiny, tiny_graphs, model):
    runner = plan(model)
    source = onnx_runner(tiny_graphs[model])
    inputs = parity_inputs(model, tiny)
    figures = accept_engine(runner.plan, runner.run, source=source, inputs=inputs, precision="fp32")
    assert all(each["num_cases"] >= 2 for each in figures.values())
    speed = runner.speed(engine_inputs(model, tiny, num_rows=8), num_rows=8)
    assert 0 < speed.device_ms[0] <= speed.device_ms[1]
    assert speed.whole_ms[0] >= speed.device_ms[0] * 0.5
    assert runner.memory_bytes >= 0


def test_shapes_that_a_plan_was_not_built_for(plan, tiny):
    runner = plan("visual")
    with pytest.raises(BuildUsageError, match=r"FACES of shape \[2000, 48, 48, 3\] is outside of what the plan"):
        runner.run(engine_inputs("visual", tiny, num_rows=2000))
    with pytest.raises(BuildUsageError, match="input FACES is missing; it takes FACES"):
        runner.run({})


def test_truncated_plan(plan, tmp_path):
    runner = plan("visual")
    runner.plan.write_bytes(runner.plan.read_bytes()[:-100])
    with pytest.raises(PlanRefused):
        PlanRunner(runner.plan, flavour=gpu_check.usable_flavour(find_gpu()), driver=Driver())


def test_absent_gpu_fails_where_it_must_be_there(tmp_path):
    """The tests above skip on a laptop; where FV2ES_REQUIRE_GPU=1, they fail."""
    try:
        pipelines_find_gpu()
    except NoGpu:
        pass
    else:
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::test_truncated_plan"]
    environment = {"FV2ES_REQUIRE_GPU": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 1
    assert "FV2ES_REQUIRE_GPU=1, but: no usable NVIDIA GPU" in done.stdout
