"""Repositories for both profiles and several servers: parsed by Triton's own schema, never a mixture, nothing of this machine in them."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from nvidia.dali.pipeline import Pipeline
from tritonclient.grpc import model_config_pb2

from fv2es_builders.dali_graphs import dali_pipeline_bytes
from fv2es_builders.errors import BuildUsageError, MixedProfiles, ServerVersionError
from fv2es_builders.render import RenderTarget, config_from_model, render_repository, server_version_from
from fv2es_pipelines.specification import MAX_ROWS, models

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
TARGETS = [
    RenderTarget(),
    RenderTarget(server_version=(2, 75)),
    RenderTarget(profile="gpu", num_labels=6),
    RenderTarget(profile="gpu", server_version=(2, 62), num_labels=6),
    RenderTarget(profile="gpu", server_version=(2, 63), num_labels=7),
    RenderTarget(profile="gpu", server_version=(3, 0), num_labels=1),
]
ALL = [(target, model) for target in TARGETS for model in models(target.profile)]


def parsed(model, target):
    return text_format.Parse(config_from_model(model, target), model_config_pb2.ModelConfig())


@pytest.mark.parametrize(("target", "model"), ALL, ids=[f"{t.profile}-{t.server_version[1]}-{m.name}" for t, m in ALL])
def test_configurations_parse_and_say_what_is_specified(target, model):
    config = parsed(model, target)
    assert config.name == model.name
    assert config.max_batch_size == model.max_batch_size
    batched = config.max_batch_size > 0
    for declared, tensors in ((config.input, model.inputs), (config.output, model.outputs)):
        assert [each.name for each in declared] == [each.name for each in tensors]
        for entry, tensor in zip(declared, tensors, strict=True):
            axes = tensor.axes[1:] if batched else tensor.axes
            named = {"C": target.num_labels or -1}
            assert list(entry.dims) == [each if isinstance(each, int) else named.get(each, -1) for each in axes]
    inflight = config.ensemble_scheduling.max_inflight_requests
    assert (inflight > 0) == (model.role == "ensemble" and target.server_version >= (2, 63))
    queue = config.dynamic_batching.default_queue_policy
    assert (queue.max_queue_size > 0) == (target.profile == "gpu" and batched)
    on_gpu = target.profile == "gpu" and model.role in ("engine", "graph")
    if model.role != "ensemble":
        assert [each.kind for each in config.instance_group] == [
            model_config_pb2.ModelInstanceGroup.KIND_GPU if on_gpu else model_config_pb2.ModelInstanceGroup.KIND_CPU
        ]
        shares = [(each.name, each.count) for each in config.instance_group[0].rate_limiter.resources]
        assert shares == ([("core", 1)] if model.takes_core else [])


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_every_tensor_of_a_step_is_made_before_in_the_same_form(profile):
    target = RenderTarget(profile=profile, num_labels=6 if profile == "gpu" else None)
    configs = {model.name: parsed(model, target) for model in models(profile)}
    ensemble = configs.pop("emotion")
    del configs["speech"]  # no step: asked by itself
    made = {each.name: (each.data_type, list(each.dims)) for each in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        config = configs.pop(step.model_name)
        batch = [-1] if config.max_batch_size else []
        for each in config.input:
            data_type, dims = made[step.input_map[each.name]]
            assert data_type == each.data_type
            assert same_form(dims, batch + list(each.dims)), (step.model_name, each.name)
        made |= {step.output_map[each.name]: (each.data_type, batch + list(each.dims)) for each in config.output}
    assert not configs
    for each in ensemble.output:
        assert made[each.name][0] == each.data_type
        assert same_form(made[each.name][1], list(each.dims)), each.name


def same_form(left, right):
    return len(left) == len(right) and all(a == b or -1 in (a, b) for a, b in zip(left, right, strict=True))


def test_both_profiles_answer_with_the_same_tensors():
    cpu, gpu = (models(profile)[-1] for profile in ("cpu", "gpu"))
    assert cpu == gpu


def test_gpu_backends():
    target = RenderTarget(profile="gpu", num_labels=6)
    configs = {model.name: parsed(model, target) for model in models("gpu")}
    assert {name for name, each in configs.items() if each.platform == "tensorrt_plan"} == {
        "visual",
        "acoustic",
        "text",
        "fusion",
    }
    assert {name for name, each in configs.items() if each.backend == "dali"} == {"decode", "mel"}
    assert configs["decode"].max_batch_size == 1
    assert configs["mel"].max_batch_size == configs["acoustic"].max_batch_size == MAX_ROWS
    assert all(size <= MAX_ROWS for size in configs["visual"].dynamic_batching.preferred_batch_size)


def test_the_committed_repository_is_that_of_the_cpu(tmp_path):
    render_repository(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (REPOSITORY / path.relative_to(tmp_path)).read_bytes()


@pytest.mark.parametrize("model", ["decode", "mel"])
def test_graphs_are_files_without_a_trace_of_this_machine(model):
    content = dali_pipeline_bytes(model, "gpu")
    assert content == dali_pipeline_bytes(model, "gpu")
    assert b".py" not in content
    assert str(Path(__file__).resolve().parents[2]).encode() not in content
    on_cpu = dali_pipeline_bytes(model, "cpu")
    assert on_cpu != content
    Pipeline.deserialize(on_cpu).build()


def test_rendering_again_changes_nothing_and_the_other_profile_leaves_nothing(tmp_path):
    assert render_repository(tmp_path)
    assert render_repository(tmp_path) == []
    (tmp_path / "faces" / "1" / "pnet.onnx").write_bytes(b"weights")
    of_cpu = names(tmp_path)
    target = RenderTarget(profile="gpu", server_version=(2, 75), num_labels=6)
    assert render_repository(tmp_path, target)
    assert render_repository(tmp_path, target) == []
    of_gpu = names(tmp_path)
    assert "visual/1/model.py" not in of_gpu
    assert {"decode/1/model.dali", "mel/1/model.dali", "frames/1/model.py", "faces/1/pnet.onnx"} <= of_gpu
    assert "mel/1/model.py" not in of_gpu
    render_repository(tmp_path)
    assert names(tmp_path) == of_cpu
    assert not (tmp_path / "decode").exists()


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("profile", "weights"), [("gpu", "model.onnx"), ("cpu", "model.plan"), ("cpu", "source.onnx")])
def test_weights_of_the_other_profile_are_not_mixed_in(tmp_path, profile, weights):
    path = tmp_path / "text" / "1" / weights
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    with pytest.raises(MixedProfiles, match=f"text/1/{weights}") as caught:
        render_repository(tmp_path, RenderTarget(profile=profile, num_labels=6 if profile == "gpu" else None))
    assert caught.value.files == (path,)
    assert names(tmp_path) == {f"text/1/{weights}"}  # nothing was written or removed


@pytest.mark.parametrize("version", ["2.50", "2.5", "1.99.1"])
def test_servers_that_are_too_old(version):
    with pytest.raises(ServerVersionError, match=r"older than 2\.51") as caught:
        RenderTarget(server_version=server_version_from(version))
    assert caught.value.version in version


@pytest.mark.parametrize("version", ["", "26.11-py3", "2", "2.x", "v2.75", "2.75.1.2"])
def test_versions_that_are_none(version):
    with pytest.raises(ServerVersionError, match=r"is no version such as 2\.75"):
        server_version_from(version)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "tpu"}, "one of cpu, gpu"),
        ({"profile": "gpu"}, "num_labels=None must be >= 1"),
        ({"profile": "gpu", "num_labels": 0}, "num_labels=0 must be >= 1"),
        ({"num_labels": 6}, "no meaning on profile cpu"),
    ],
)
def test_targets_that_make_no_sense(options, message):
    with pytest.raises(BuildUsageError, match=message):
        RenderTarget(**options)
