"""NVIDIA's own parser and builder judge every graph: TensorRT for RTX builds plans without a GPU."""

import hashlib
import logging
import resource
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tensorrt_rtx

from fv2es_builders.errors import (
    BuildError,
    GpuMissing,
    GraphRefused,
    PlanFailed,
    PlanUnwritten,
    ProfileError,
    TensorRtMissing,
)
from fv2es_builders.gpu_speed import parity_inputs
from fv2es_builders.plans import (
    FLAVOURS,
    OLDEST,
    PLAN_NAME,
    RTX_CAPABILITIES,
    ShapeRange,
    available_flavours,
    network_flags,
    no_collection,
    plan_from_onnx,
    plan_logger,
    read_timing_cache,
    shape_profile,
    tensorrt,
)
from fv2es_builders.precision import INT8_LIMITS, converter
from fv2es_pipelines import specification
from fv2es_pipelines.constants import FRAME_STEP_S, HOP_LENGTH, MAX_TOKENS, PIECE_FRAMES, SAMPLE_RATE_HZ
from fv2es_pipelines.limits import MediaLimits

pytestmark = pytest.mark.xdist_group("graphs")

MODELS = ("visual", "acoustic", "text", "fusion")


@pytest.fixture
def built(tiny_graphs, tiny, tmp_path):
    """Builds a plan of one of the tiny graphs, or of what is given instead."""

    def build(model: str, **changes):
        arguments = {
            "source": tiny_graphs[model],
            "target": tmp_path / model / "1" / PLAN_NAME,
            "model": model,
            "profile": shape_profile(model, num_labels=len(tiny.labels)),
            "flavour": "tensorrt_rtx",
            **changes,
        }
        return plan_from_onnx(arguments.pop("source"), arguments.pop("target"), **arguments)

    return build


@pytest.mark.parametrize("model", MODELS)
def test_plans(built, tiny_graphs, tmp_path, model):
    facts = built(model)
    plan = tmp_path / model / "1" / PLAN_NAME
    assert [path.name for path in plan.parent.iterdir()] == [PLAN_NAME]
    assert facts.num_bytes == plan.stat().st_size
    assert facts.num_bytes > sum(
        onnx.numpy_helper.to_array(each).nbytes // 4 for each in onnx.load(tiny_graphs[model]).graph.initializer
    )
    assert facts.sha256 == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert facts.onnx_sha256 == hashlib.sha256(tiny_graphs[model].read_bytes()).hexdigest()
    assert facts.num_layers >= len(onnx.load(tiny_graphs[model]).graph.node)
    assert (facts.model, facts.flavour, facts.tensorrt_version) == (model, "tensorrt_rtx", tensorrt_rtx.__version__)
    assert facts.compute_capabilities == RTX_CAPABILITIES
    assert facts.gpu is None
    assert 0 < facts.duration_s < 60


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("model", MODELS)
def test_plans_in_less_precision(built, tiny, tiny_graphs, tmp_path, model, precision):
    """The types of the graph are the plan's: what `precision.converter` makes is taken as it is."""
    source = tmp_path / "model.onnx"
    calibration = [arrays for _, arrays in parity_inputs(model, tiny)]
    convert = converter(tiny_graphs[model], model=model, precision=precision, calibration=calibration, profile="gpu")
    convert(INT8_LIMITS[0]).write(source)
    assert built(model, source=source).num_bytes > 0


def test_profiles():
    """Every served shape, and as many rows as the configuration says, else Triton refuses the plan."""
    for name in MODELS:
        profile = shape_profile(name, num_labels=7)
        described = specification.model(name)
        assert set(profile) == {tensor.name for tensor in described.inputs}
        for wanted in profile.values():
            for lengths in zip(wanted.least, wanted.usual, wanted.most, strict=True):
                assert 1 <= lengths[0] <= lengths[1] <= lengths[2]
            if described.max_batch_size:
                assert wanted.most[0] == described.max_batch_size
    fusion = shape_profile("fusion", num_labels=7)
    assert fusion["TEXT"].most == (512, 7)
    assert fusion["PIECE_INDEX"] == ShapeRange(least=(1, 1), usual=(8, 25), most=(512, 301))
    assert shape_profile("visual", num_labels=7)["FACES"].usual == (64, 48, 48, 3)


def test_axis_ranges_are_those_of_a_clip():
    limits, ranges = MediaLimits(), specification.AXIS_RANGES
    assert ranges["U"][2] == limits.max_utterances
    assert ranges["N"][2] == limits.max_utterance_s / FRAME_STEP_S
    num_frames = limits.max_utterance_s * SAMPLE_RATE_HZ // HOP_LENGTH + 1
    assert ranges["M"][2] == np.ceil(num_frames / PIECE_FRAMES)
    assert ranges["L"][2] == MAX_TOKENS
    assert ranges["F"][2] == ranges["P"][2] == specification.MAX_ROWS


@pytest.mark.parametrize("content", [b"", b"no ONNX at all", bytes(range(256)) * 8], ids=["empty", "text", "bytes"])
def test_no_onnx(built, tmp_path, content):
    source = tmp_path / "model.onnx"
    source.write_bytes(content)
    with pytest.raises(GraphRefused, match=r"model.onnx: TensorRT refuses the file") as caught:
        built("visual", source=source)
    assert caught.value.node == caught.value.operator == ""
    assert not (tmp_path / "visual").exists()


def test_truncated_onnx(built, tiny_graphs, tmp_path):
    source = tmp_path / "model.onnx"
    source.write_bytes(tiny_graphs["visual"].read_bytes()[:-1000])
    with pytest.raises(GraphRefused, match=r"model.onnx: TensorRT refuses"):
        built("visual", source=source)


def test_unknown_operator(built, tmp_path):
    graph = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20]> g (float[F, 3] X) => (float[F, 3] Y) { h = Relu(X) Y = Unheard(h) }'
    )
    graph.graph.node[1].name = "here"
    source = tmp_path / "model.onnx"
    source.write_bytes(graph.SerializeToString())
    with pytest.raises(GraphRefused, match=r"refuses node 'here' \(Unheard\): .+; give an ONNX file that") as caught:
        built("visual", source=source)
    assert (caught.value.node, caught.value.operator) == ("here", "Unheard")


FACES = ShapeRange(least=(1, 48, 48, 3), usual=(4, 48, 48, 3), most=(8, 48, 48, 3))


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({}, r"profile of FACES: missing, though its shape \[-1, 48, 48, 3\] varies"),
        ({"FACES": FACES, "SOUND": FACES}, "profile of SOUND: the graph has no such input; it has FACES"),
        ({"FACES": replace(FACES, least=(0, 48, 48, 3))}, r"lengths \[0, 4, 8\] must satisfy 1 <= least"),
        ({"FACES": replace(FACES, usual=(9, 48, 48, 3))}, r"lengths \[1, 9, 8\] must satisfy"),
        ({"FACES": replace(FACES, most=(8, 48, 48, 4))}, r"lengths \[3, 3, 4\] of an axis that is 3 in the graph"),
        ({"FACES": replace(FACES, most=(8, 48, 48))}, "must have 4 axes"),
    ],
    ids=["missing", "unknown", "zero", "not ascending", "fixed axis", "axes"],
)
def test_profile_out_of_range(built, tmp_path, profile, message):
    with pytest.raises(ProfileError, match=message):
        built("visual", profile=profile)
    assert not (tmp_path / "visual").exists()


def test_target_cannot_be_made(built, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PlanUnwritten, match=r"model.plan: the plan can't be written \(.+\); make room or name another"):
        built("visual", target=tmp_path / "file" / "1" / PLAN_NAME)


def test_full_disk(built, tmp_path):
    """The system refuses in the middle of the file: what was there before stays, no part is left."""
    target = tmp_path / PLAN_NAME
    target.write_bytes(b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(PlanUnwritten, match="can't be written"):
            built("visual", target=target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == [PLAN_NAME]


def test_too_little_workspace(built, tmp_path):
    with pytest.raises(
        PlanFailed, match=r"TensorRT built no plan: .+; give it more workspace or smaller largest shapes"
    ):
        built("acoustic", workspace_bytes=1000)
    assert not (tmp_path / "acoustic").exists()


def test_float32_stays_float32(built, tmp_path, monkeypatch):
    """TF32 would cut products of float32 to 10 bits; the builder has it on unless it is told."""
    flags = []
    original = tensorrt_rtx.Builder.build_serialized_network

    def remember(self, network, config):
        flags.append(config.get_flag(tensorrt_rtx.BuilderFlag.TF32))
        return original(self, network, config)

    monkeypatch.setattr(tensorrt_rtx.Builder, "build_serialized_network", remember)
    built("visual")
    assert flags == [False]


def test_messages_go_to_the_log(built, caplog):
    with caplog.at_level(logging.DEBUG, logger="fv2es_builders.plans"):
        built("text")
    assert any("INPUT_IDS" in record.message for record in caplog.records)
    assert all(record.levelno < logging.WARNING for record in caplog.records)


COLLECTS_IN_A_MESSAGE = """
import logging, sys
from pathlib import Path
import tensorrt_rtx
from fv2es_builders.plans import no_collection, plan_from_onnx, plan_logger, shape_profile

with no_collection():
    builders = [tensorrt_rtx.Builder(plan_logger(tensorrt_rtx))]

class Littering(logging.Handler):
    def emit(self, record):
        if builders:
            garbage = [builders.pop()]
            garbage.append(garbage)
            del garbage
            [[] for _ in range(2000)]  # more than it takes for a collection

log = logging.getLogger("fv2es_builders.plans")
log.setLevel(logging.DEBUG)
log.addHandler(Littering())
profile = shape_profile("text", num_labels=int(sys.argv[3]))
plan_from_onnx(Path(sys.argv[1]), Path(sys.argv[2]), model="text", profile=profile, flavour="tensorrt_rtx")
assert not builders, "no message came"
"""


def test_no_builder_ends_while_tensorrt_gives_a_message(tiny_graphs, tiny, tmp_path):
    """It would wait for a lock that its own thread holds. In a process of its own, which can be ended then."""
    command = [sys.executable, "-c", COLLECTS_IN_A_MESSAGE, str(tiny_graphs["text"]), str(tmp_path / "plan")]
    subprocess.run([*command, str(len(tiny.labels))], check=True, timeout=100)


def test_flavours():
    found = available_flavours()
    assert found["tensorrt_rtx"] == tensorrt_rtx.__version__
    assert list(found) == [flavour for flavour in FLAVOURS if flavour in found]
    assert tensorrt("tensorrt_rtx") is tensorrt_rtx


def test_old_tensorrt(monkeypatch):
    monkeypatch.setitem(OLDEST, "tensorrt_rtx", (99, 0))
    with pytest.raises(TensorRtMissing, match=r"tensorrt_rtx is 1\.7.*; install 99.0 or newer"):
        tensorrt("tensorrt_rtx")


def test_absent_tensorrt(built):
    if "tensorrt" in available_flavours():
        pytest.skip("TensorRT itself is here")
    with pytest.raises(
        TensorRtMissing, match="tensorrt is not installed; install the one that the server has"
    ) as caught:
        built("visual", flavour="tensorrt")
    assert isinstance(caught.value, BuildError)


@no_collection()
def test_networks_of_each_version():
    """The flag of strong typing: needed by 10, going away with 11."""
    flags = SimpleNamespace(STRONGLY_TYPED=1)
    ten = SimpleNamespace(__version__="10.12.0.36", NetworkDefinitionCreationFlag=flags)
    eleven = SimpleNamespace(__version__="11.0.0.1")
    assert network_flags(ten, "tensorrt") == 2
    assert network_flags(eleven, "tensorrt") == 0
    builder = tensorrt_rtx.Builder(plan_logger(tensorrt_rtx))
    network = builder.create_network(network_flags(tensorrt_rtx, "tensorrt_rtx"))
    assert network.get_flag(tensorrt_rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
@no_collection()
def test_timing_cache(tmp_path):
    """A cache is made, written and read again. TensorRT for RTX keeps the calls, though it measures nothing."""
    config = tensorrt_rtx.Builder(plan_logger(tensorrt_rtx)).create_builder_config()
    path = tmp_path / "timing.cache"
    cache = read_timing_cache(config, path)
    path.write_bytes(memoryview(cache.serialize()))
    assert bytes(read_timing_cache(config, path).serialize()) == path.read_bytes()


def test_timing_cache_is_left_alone(built, tmp_path):
    path = tmp_path / "timing.cache"
    path.write_bytes(b"of TensorRT")
    built("visual", timing_cache=path)
    assert path.read_bytes() == b"of TensorRT"


def test_facts_are_plain(built):
    facts = asdict(built("visual"))
    assert set(facts) >= {"flavour", "tensorrt_version", "compute_capabilities", "sha256"}


def test_tensorrt_needs_a_gpu(monkeypatch, built):
    """TensorRT itself is asked for nothing where there is no GPU to build on."""
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("fv2es_builders.plans.tensorrt", lambda flavour: tensorrt_rtx)
    with pytest.raises(GpuMissing, match="no usable NVIDIA GPU"):
        built("visual", flavour="tensorrt")
