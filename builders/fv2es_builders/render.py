"""Configuration files, adapters, DALI graphs and tensor tables, rendered from `fv2es_pipelines.specification`."""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fv2es_builders.dali_graphs import dali_pipeline_bytes
from fv2es_builders.errors import BuildUsageError, MixedProfiles, ServerVersionError
from fv2es_pipelines.specification import AXIS_RANGES, CORE, Model, Profile, Tensor, models

HEADER = "# Rendered by `python -m fv2es_builders.render`; change fv2es_pipelines/specification.py instead.\n"
MODEL_WAITING_US = 2000
"""How long an engine waits for rows of other requests before it runs: small against the 20 ms and more that a run takes."""

ServerVersion = tuple[int, int]
"""Of Triton itself, such as (2, 75); not of the container that holds it, such as 26.11."""

OLDEST_SERVER: Final[ServerVersion] = (2, 51)
"""The embedded one; older ones were never tried."""
DEFAULT_SERVER: Final[Mapping[Profile, ServerVersion]] = {"cpu": OLDEST_SERVER, "gpu": (2, 75)}
_INFLIGHT_SINCE: Final[ServerVersion] = (2, 63)
MAX_INFLIGHT: Final = 8
"""Requests that an ensemble may have under way in one of its steps, where the server knows such a bound."""
MAX_QUEUED: Final = 64
"""Requests that may wait for a model on a GPU; further ones are rejected at once, and the client backs off."""
QUEUE_TIMEOUT_US: Final = 60_000_000
"""How long a request may wait for a model on a GPU: beyond it whoever asked has given up."""

_WORKERS: Final[Mapping[Profile, Mapping[str, str]]] = {
    "cpu": {"faces": "faces", "mel": "mel", "tokenizer": "tokenizer", "manifest": "manifest", "speech": "speech"},
    "gpu": {
        "frames": "frames",
        "faces": "device_faces",
        "sound": "sound",
        "tokenizer": "tokenizer",
        "manifest": "manifest",
        "speech": "speech",
    },
}
"""Which function of `fv2es_pipelines.workers` loads each model of the Python backend, without its `load_`."""

_WEIGHTS: Final[Mapping[Profile, tuple[str, ...]]] = {"cpu": ("model.onnx",), "gpu": ("model.plan", "source.onnx")}
"""Files of an engine by which a profile's repository is known: plans, and what they are made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderTarget:
    """What a repository is rendered for."""

    profile: Profile = "cpu"
    server_version: ServerVersion = OLDEST_SERVER
    num_labels: int | None = None
    """Length of the axis C where it is fixed, as in plans of TensorRT: on the `gpu` profile alone; >= 1."""

    def __post_init__(self) -> None:
        if self.profile not in _WORKERS:
            raise BuildUsageError(f"profile {self.profile!r} must be one of {', '.join(_WORKERS)}")
        if self.server_version < OLDEST_SERVER:
            raise ServerVersionError(dotted(self.server_version), f"is older than {dotted(OLDEST_SERVER)}")
        if self.profile == "gpu" and (self.num_labels is None or self.num_labels < 1):
            raise BuildUsageError(
                f"num_labels={self.num_labels} must be >= 1 on profile gpu: plans are made for one number of labels; "
                "give that of the preset"
            )
        if self.profile == "cpu" and self.num_labels is not None:
            raise BuildUsageError(
                f"num_labels={self.num_labels} has no meaning on profile cpu, which serves any number; leave it out"
            )


def server_version_from(text: str) -> ServerVersion:
    """The version in a text such as "2.75" or "2.75.0".

    Raises:
        ServerVersionError: it is none.
    """
    found = re.fullmatch(r"(\d{1,3})\.(\d{1,3})(\.\d{1,3})?", text.strip())
    if found is None:
        raise ServerVersionError(text, "is no version such as 2.75")
    return int(found[1]), int(found[2])


def dotted(version: ServerVersion) -> str:
    """The version as people write it."""
    return ".".join(map(str, version))


def config_from_model(model: Model, target: RenderTarget | None = None) -> str:
    """The text of `config.pbtxt`.

    Args:
        model: which model, of the target's profile.
        target: None: the CPU, and the embedded server.
    """
    target = target or RenderTarget()
    lines = [HEADER + f'name: "{model.name}"', _backend(model, target.profile)]
    lines.append(f"max_batch_size: {model.max_batch_size}")
    for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
        entries = ",\n".join(_tensor_entry(each, model, target.num_labels) for each in tensors)
        lines.append(f"{kind} [\n{entries}\n]")
    if model.role == "ensemble":
        lines.append(_steps(models(target.profile), target.server_version))
        return "\n".join(lines) + "\n"
    on_gpu = target.profile == "gpu" and model.role in ("engine", "graph")
    share = f' rate_limiter {{ resources [{{ name: "{CORE}" count: 1 }}] }}' if model.takes_core else ""
    lines.append(f"instance_group [{{ kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} count: {model.instances}{share} }}]")
    if model.max_batch_size:
        lines.append(_batching(model) if on_gpu else f"dynamic_batching {{ {_WAITING} }}")
    if not on_gpu:
        lines += [
            f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
            for key, value in model.parameters.items()
        ]
    return "\n".join(lines) + "\n"


_WAITING: Final = f"max_queue_delay_microseconds: {MODEL_WAITING_US}"


def _backend(model: Model, profile: Profile) -> str:
    if model.role == "ensemble":
        return 'platform: "ensemble"'
    if model.role == "graph":
        return 'backend: "dali"'
    if model.role == "engine" and profile == "gpu":
        return 'platform: "tensorrt_plan"\nbackend: "tensorrt"'
    return 'backend: "python"'


def _tensor_entry(tensor: Tensor, model: Model, num_labels: int | None) -> str:
    axes = tensor.axes[1:] if model.max_batch_size else tensor.axes
    fixed = {"C": num_labels} if num_labels is not None else {}
    dims = ", ".join(str(axis if isinstance(axis, int) else fixed.get(axis, -1)) for axis in axes)
    data_type = "STRING" if tensor.data_type == "BYTES" else tensor.data_type
    return f'  {{ name: "{tensor.name}" data_type: TYPE_{data_type} dims: [{dims}] }}'


def _batching(model: Model) -> str:
    """Batching and queue of a model on a GPU. None of our models answers more than once, so a bounded queue is safe."""
    lines = []
    if model.max_batch_size > 1:
        usual = AXIS_RANGES[str(model.inputs[0].axes[0])][1]
        lines = [f"  preferred_batch_size: [{usual}, {4 * usual}]", f"  {_WAITING}"]
    return "\n".join(
        [
            "dynamic_batching {",
            *lines,
            "  default_queue_policy {",
            "    timeout_action: REJECT",
            f"    default_timeout_microseconds: {QUEUE_TIMEOUT_US}",
            f"    max_queue_size: {MAX_QUEUED}",
            "  }",
            "}",
        ]
    )


def _steps(members: Iterable[Model], version: ServerVersion) -> str:
    """Tensors of one name are one tensor: that alone ties the steps together."""
    steps = []
    for each in members:
        if each.role in ("alone", "ensemble"):
            continue
        maps = [f'input_map {{ key: "{t.name}" value: "{t.name}" }}' for t in each.inputs]
        maps += [f'output_map {{ key: "{t.name}" value: "{t.name}" }}' for t in each.outputs]
        inner = "\n".join(f"      {line}" for line in maps)
        steps.append(f'    {{\n      model_name: "{each.name}"\n      model_version: -1\n{inner}\n    }}')
    bound = f"\n  max_inflight_requests: {MAX_INFLIGHT}" if version >= _INFLIGHT_SINCE else ""
    return "ensemble_scheduling {\n  step [\n" + ",\n".join(steps) + f"\n  ]{bound}\n}}"


def adapter_from_model(model: Model, profile: Profile = "cpu") -> str:
    """The text of `1/model.py` for a model of the Python backend."""
    worker = _WORKERS[profile].get(model.name)
    load = f"workers import load_{worker}" if worker else "engine import load_engine"
    return (
        f'"""`{model.name}`: {model.summary}. Tensors: see the README of the repository."""\n\n'
        "import triton_python_backend_utils as pb_utils\n\n"
        "from fv2es_pipelines.adapter import adapt\n"
        f"from fv2es_pipelines.{load} as load\n\n"
        "TritonPythonModel = adapt(pb_utils, load)\n"
    )


def tensor_tables(members: Sequence[Model], level: str = "###") -> str:
    """Markdown: one table of tensors for each model, under headings of a level."""
    parts = []
    for each in members:
        rows = [("in", t) for t in each.inputs] + [("out", t) for t in each.outputs]
        parts.append(f"{level} `{each.name}`\n{each.summary[0].upper()}{each.summary[1:]}.\n")
        parts.append("| | tensor | type | shape | holds |\n|---|---|---|---|---|")
        parts += [
            f"| {way} | `{t.name}` | {t.data_type} | [{', '.join(map(str, t.axes))}] | {t.meaning} |" for way, t in rows
        ]
        parts.append("")
    return "\n".join(parts)


def render_repository(folder: Path, target: RenderTarget | None = None) -> list[Path]:
    """Write configuration and code of every model of a profile below `folder`; what is there already stays if it is equal.

    What an earlier rendering wrote for the other profile is removed; weights never are.

    Args:
        folder: the repository; made if it does not exist.
        target: None: the CPU, and the embedded server.

    Returns:
        The files that were written anew or changed.

    Raises:
        MixedProfiles: weights for the other profile lie in the folder.
    """
    target = target or RenderTarget()
    files = repository_files(target)
    refuse_other_weights(folder, target.profile)
    _remove_other_files(folder, target.profile, keep=files)
    changed = []
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            changed.append(path)
    return changed


def repository_files(target: RenderTarget) -> dict[str, bytes]:
    """All rendered files of a repository by their path in it: the weights alone are left to be added."""
    files = {}
    for model in models(target.profile):
        files[f"{model.name}/config.pbtxt"] = config_from_model(model, target).encode()
        if model.role == "ensemble":
            files[f"{model.name}/1/.gitkeep"] = b""
        elif model.role == "graph":
            files[f"{model.name}/1/model.dali"] = dali_pipeline_bytes(model.name, target.profile)
        elif model.role in ("media", "alone") or target.profile == "cpu":
            files[f"{model.name}/1/model.py"] = adapter_from_model(model, target.profile).encode()
    return files


def _other(profile: Profile) -> Profile:
    return "gpu" if profile == "cpu" else "cpu"


def refuse_other_weights(folder: Path, profile: Profile) -> None:
    """See that no weights for the other profile lie in a repository.

    Raises:
        MixedProfiles: they do.
    """
    other = _other(profile)
    engines = [each.name for each in models(other) if each.role == "engine"]
    found = [path for name in engines for each in _WEIGHTS[other] for path in (folder / name).glob(f"*/{each}")]
    if found:
        raise MixedProfiles(folder, profile=profile, files=found)


def _remove_other_files(folder: Path, profile: Profile, *, keep: Mapping[str, bytes]) -> None:
    for model in models(_other(profile)):
        own = folder / model.name
        names = ["config.pbtxt", "1/model.py", "1/model.dali", "1/.gitkeep"]
        for name in names:
            if f"{model.name}/{name}" not in keep:
                (own / name).unlink(missing_ok=True)
        if f"{model.name}/config.pbtxt" not in keep:
            for emptied in (own / "1" / "__pycache__", own / "1", own):
                if emptied.is_dir() and not any(emptied.iterdir()):
                    emptied.rmdir()


TABLES_MARK = "<!-- tensor tables: rendered, do not edit below -->\n"


def readme_with_tables(readme: str) -> str:
    """The README of the repository with its tables brought up to date: all models of `cpu`, and those of `gpu` that differ."""
    head, _, _ = readme.partition(TABLES_MARK)
    known = models("cpu")
    others = [each for each in models("gpu") if each not in known]
    return "".join(
        [
            *(head, TABLES_MARK, tensor_tables(known), "\n## Tensors of the `gpu` profile\n"),
            "All other models have the tensors above.\n\n",
            tensor_tables(others),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m fv2es_builders.render REPOSITORY`: bring the CPU's configurations, adapters and the README's tables up to date."""
    parser = argparse.ArgumentParser(prog="python -m fv2es_builders.render", description=main.__doc__)
    parser.add_argument("repository", type=Path)
    folder: Path = parser.parse_args(argv).repository
    render_repository(folder)
    readme = folder / "README.md"
    if readme.exists():
        readme.write_text(readme_with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
