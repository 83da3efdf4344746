"""Configuration files and tensor tables, rendered from `fv2es_pipelines.specification`."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from fv2es_pipelines.specification import MODELS, Model, Tensor

HEADER = "# Rendered by `python -m fv2es_builders.render`; change fv2es_pipelines/specification.py instead.\n"
MODEL_WAITING_US = 2000
"""How long an engine waits for rows of other requests before it runs: small against the 20 ms and more that a run takes."""

_MEDIA_WORKERS = {
    "faces": "from fv2es_pipelines.workers import load_faces as load",
    "mel": "from fv2es_pipelines.workers import load_mel as load",
    "tokenizer": "from fv2es_pipelines.workers import load_tokenizer as load",
    "manifest": "from fv2es_pipelines.workers import load_manifest as load",
}


def config_from_model(model: Model, models: Sequence[Model] = MODELS) -> str:
    """The text of `config.pbtxt` for the `cpu` profile.

    Args:
        model: which model.
        models: all models, in the order of the ensemble's steps.
    """
    lines = [HEADER + f'name: "{model.name}"']
    lines.append('platform: "ensemble"' if model.role == "ensemble" else 'backend: "python"')
    lines.append(f"max_batch_size: {model.max_batch_size}")
    for kind, tensors in (("input", model.inputs), ("output", model.outputs)):
        lines.append(f"{kind} [\n" + ",\n".join(_tensor_entry(each, model) for each in tensors) + "\n]")
    if model.role == "ensemble":
        lines.append(_steps(model, models))
        return "\n".join(lines) + "\n"
    lines.append(f"instance_group [{{ kind: KIND_CPU count: {model.instances} }}]")
    if model.max_batch_size:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {MODEL_WAITING_US} }}")
    lines += [
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in model.parameters.items()
    ]
    return "\n".join(lines) + "\n"


def _tensor_entry(tensor: Tensor, model: Model) -> str:
    axes = tensor.axes[1:] if model.max_batch_size else tensor.axes
    dims = ", ".join(str(axis) if isinstance(axis, int) else "-1" for axis in axes)
    data_type = "STRING" if tensor.data_type == "BYTES" else tensor.data_type
    return f'  {{ name: "{tensor.name}" data_type: TYPE_{data_type} dims: [{dims}] }}'


def _steps(ensemble: Model, models: Iterable[Model]) -> str:
    """Tensors of one name are one tensor: that alone ties the steps together."""
    steps = []
    for each in models:
        if each.role == "ensemble":
            continue
        maps = [f'input_map {{ key: "{t.name}" value: "{t.name}" }}' for t in each.inputs]
        maps += [f'output_map {{ key: "{t.name}" value: "{t.name}" }}' for t in each.outputs]
        inner = "\n".join(f"      {line}" for line in maps)
        steps.append(f'    {{\n      model_name: "{each.name}"\n      model_version: -1\n{inner}\n    }}')
    return "ensemble_scheduling {\n  step [\n" + ",\n".join(steps) + "\n  ]\n}"


def adapter_from_model(model: Model) -> str:
    """The text of `1/model.py` for a model of the Python backend."""
    load = _MEDIA_WORKERS.get(model.name, "from fv2es_pipelines.engine import load_engine as load")
    return (
        f'"""`{model.name}`: {model.summary}. Tensors: see the README of the repository."""\n\n'
        "import triton_python_backend_utils as pb_utils\n\n"
        "from fv2es_pipelines.adapter import adapt\n"
        f"{load}\n\n"
        "TritonPythonModel = adapt(pb_utils, load)\n"
    )


def tensor_tables(models: Sequence[Model] = MODELS) -> str:
    """Markdown: one table of tensors for each model."""
    parts = []
    for each in models:
        rows = [("in", t) for t in each.inputs] + [("out", t) for t in each.outputs]
        parts.append(f"### `{each.name}`\n{each.summary[0].upper()}{each.summary[1:]}.\n")
        parts.append("| | tensor | type | shape | holds |\n|---|---|---|---|---|")
        parts += [
            f"| {way} | `{t.name}` | {t.data_type} | [{', '.join(map(str, t.axes))}] | {t.meaning} |" for way, t in rows
        ]
        parts.append("")
    return "\n".join(parts)


def render_repository(folder: Path) -> list[Path]:
    """Write configuration and adapter of every model below `folder`; what is there already stays if it is equal.

    Returns:
        The files that were written anew or changed.
    """
    texts: dict[Path, str] = {}
    for model in MODELS:
        texts[folder / model.name / "config.pbtxt"] = config_from_model(model)
        if model.role != "ensemble":
            texts[folder / model.name / "1" / "model.py"] = adapter_from_model(model)
        else:
            (folder / model.name / "1").mkdir(parents=True, exist_ok=True)
            texts[folder / model.name / "1" / ".gitkeep"] = ""
    changed = []
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


TABLES_MARK = "<!-- tensor tables: rendered, do not edit below -->\n"


def readme_with_tables(readme: str) -> str:
    """The README of the repository with its tables brought up to date."""
    head, _, _ = readme.partition(TABLES_MARK)
    return head + TABLES_MARK + tensor_tables()


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m fv2es_builders.render REPOSITORY`: bring configurations, adapters and the README's tables up to date."""
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
