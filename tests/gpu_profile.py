"""The `gpu` profile's ensemble without a GPU: DALI's graphs on the CPU, plans replaced by the ONNX files they are made of."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import av
import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fv2es_builders.render import RenderTarget, adapter_from_model, repository_files
from fv2es_pipelines import workers
from fv2es_pipelines.adapter import Arrays, ModelFolder, Worker
from fv2es_pipelines.decode_graph import GraphRunner, decode_pipeline
from fv2es_pipelines.engine import load_engine
from fv2es_pipelines.errors import PipelineError
from fv2es_pipelines.mel import mel_pipeline
from fv2es_pipelines.specification import models

NUM_LABELS = 7
LOADERS: Mapping[tuple[str, str], Callable[[ModelFolder], Worker]] = {
    ("cpu", "faces"): workers.load_faces,
    ("cpu", "mel"): workers.load_mel,
    ("gpu", "frames"): workers.load_frames,
    ("gpu", "decode"): lambda _: decode_on_cpu(),
    ("gpu", "faces"): workers.load_device_faces,
    ("gpu", "sound"): workers.load_sound,
    ("gpu", "mel"): lambda _: mel_on_cpu(),
}


def decode_on_cpu() -> Worker:
    """DALI's graph of `decode` on the CPU, as Triton's backend runs it: a batch of one."""
    runner = GraphRunner(decode_pipeline("cpu"))
    return lambda requests: [
        {"PICTURES": np.stack(runner(**{name: list(array) for name, array in request.items()}))} for request in requests
    ]


def mel_on_cpu() -> Worker:
    """DALI's graph of `mel` on the CPU: rows of a request are the batch."""
    runner = GraphRunner(mel_pipeline("cpu", max_batch=1024))
    return lambda requests: [
        {"PIECES": np.stack(runner(**{name: list(array) for name, array in request.items()}))} for request in requests
    ]


class Ensemble:
    """The rendered ensemble of a profile, step by step in this process, on the weights of the repository."""

    def __init__(self, profile: str, repository: Path) -> None:
        self._workers: dict[str, Worker] = {}
        self._configs = {}
        target = RenderTarget(profile=profile, num_labels=NUM_LABELS if profile == "gpu" else None)
        for name, content in repository_files(target).items():
            if name.endswith("config.pbtxt"):
                config = text_format.Parse(content.decode(), model_config_pb2.ModelConfig())
                self._configs[config.name] = config
        for name, config in self._configs.items():
            if name in ("emotion", "speech"):  # `speech` is no step
                continue
            parameters = {key: value.string_value for key, value in config.parameters.items()}
            if "device" in parameters:
                parameters["device"] = "cpu"
            folder = ModelFolder(path=repository / name / "1", parameters=parameters, batched=config.max_batch_size > 0)
            known = {"tokenizer": workers.load_tokenizer, "manifest": workers.load_manifest}
            load = LOADERS.get((profile, name)) or known.get(name, load_engine)
            self._workers[name] = load(folder)

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """All tensors, those between the steps too. An error of a step is raised."""
        tensors: dict[str, np.ndarray] = dict(inputs)
        waiting = list(self._configs["emotion"].ensemble_scheduling.step)
        while waiting:
            step = next(each for each in waiting if set(each.input_map.values()) <= set(tensors))
            waiting.remove(step)
            (answer,) = self._workers[step.model_name]([{key: tensors[to] for key, to in step.input_map.items()}])
            if isinstance(answer, PipelineError):
                raise answer
            self._check(step.model_name, answer)
            tensors |= {to: answer[key] for key, to in step.output_map.items()}
        return tensors

    def _check(self, name: str, answer: Arrays) -> None:
        """Triton would refuse an output that is not of the declared form."""
        config = self._configs[name]
        for declared in config.output:
            array = answer[declared.name]
            dims = array.shape[1:] if config.max_batch_size else array.shape
            assert len(dims) == len(declared.dims), (name, declared.name, array.shape)
            assert all(want in (-1, is_) for want, is_ in zip(declared.dims, dims, strict=True)), (name, array.shape)
            kind = model_config_pb2.DataType.Name(declared.data_type)
            assert kind == TYPES.get(array.dtype.name, kind if array.dtype == object else None), (name, declared.name)


TYPES = {
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "bool": "TYPE_BOOL",
}


def request(
    film: Path, spans_s: Sequence[tuple[float, float]], words: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The inputs of `emotion`."""
    return {
        "CLIP": np.fromfile(film, np.uint8),
        "UTTERANCES": np.array(spans_s, np.float64),
        "WORDS": np.array([each.encode() for each in words or [""] * len(spans_s)], np.object_),
    }


def recoded(source: Path, path: Path, *, codec: str, every: int = 5, until_s: float = 6.0) -> Path:
    """The beginning of a film with every n-th picture coded anew, its sound as it is."""
    with av.open(source) as reader, av.open(path, "w") as writer:
        video, audio = reader.streams.video[0], reader.streams.audio[0]
        options = (
            {"qmin": "2", "qmax": "2"} if codec == "mjpeg" else {"deadline": "realtime", "cpu-used": "8", "crf": "10"}
        )
        pictures = writer.add_stream(codec, rate=video.average_rate / every, options=options)
        pictures.width, pictures.height = video.codec_context.width, video.codec_context.height
        pictures.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        pictures.codec_context.time_base = video.time_base
        sound = writer.add_stream_from_template(audio)
        packets = []
        for number, frame in enumerate(reader.decode(video)):
            if frame.time >= until_s:
                break
            if number % every == 0:
                fresh = frame.reformat(format=pictures.pix_fmt)
                fresh.pts, fresh.time_base = frame.pts, frame.time_base
                fresh.pict_type = 0
                packets += pictures.encode(fresh)
        packets += pictures.encode(None)
        reader.seek(0)
        for packet in reader.demux(audio):
            if packet.dts is not None and float(packet.pts * packet.time_base) < until_s:
                packet.stream = sound
                packets.append(packet)
        for packet in sorted(packets, key=lambda each: float((each.dts or 0) * each.time_base)):
            writer.mux(packet)
    return path


STAND_IN = """import sys

import triton_python_backend_utils as pb_utils

sys.path.insert(0, {tests!r})
from fv2es_pipelines.adapter import adapt
from gpu_profile import {name}_on_cpu

TritonPythonModel = adapt(pb_utils, lambda _: {name}_on_cpu())
"""


def stand_in_repository(folder: Path, repository: Path) -> Path:
    """The `gpu` profile's repository with the same configurations, but for backends that the embedded server has."""
    target = RenderTarget(profile="gpu", num_labels=NUM_LABELS)
    files = {name: content for name, content in repository_files(target).items() if not name.endswith("model.dali")}
    for model in models("gpu"):
        name = f"{model.name}/config.pbtxt"
        text = files[name].decode()
        for theirs, ours in (
            ('platform: "tensorrt_plan"\nbackend: "tensorrt"', 'backend: "python"'),
            ('backend: "dali"', 'backend: "python"'),
            ("KIND_GPU", "KIND_CPU"),
            (f"count: {model.instances}", "count: 1"),
            ('string_value: "gpu"', 'string_value: "cpu"'),
        ):
            text = text.replace(theirs, ours)
        files[name] = text.encode()
        if model.role == "graph":
            files[f"{model.name}/1/model.py"] = STAND_IN.format(
                tests=str(Path(__file__).parent), name=model.name
            ).encode()
        elif model.role == "engine":
            files[f"{model.name}/1/model.py"] = adapter_from_model(model).encode()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for weights in [*repository.glob("*/1/*.onnx"), *repository.glob("*/1/*.json")]:
        (folder / weights.relative_to(repository)).symlink_to(weights)
    return folder
