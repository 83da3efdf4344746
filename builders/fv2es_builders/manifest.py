"""What lies beside the weights: which model this is, how its input is made, and what its files are."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from fv2es_builders.assets import file_sha256
from fv2es_builders.parity import Figures
from fv2es_builders.presets import Preset
from fv2es_pipelines import constants

MANIFEST_PATH: Final = "manifest/1/manifest.json"
"""Where the manifest lies in a repository. It is written last: without it, the repository is not complete."""

_PACKAGES: Final = ("torch", "onnx", "onnxscript", "onnxruntime", "transformers", "tokenizers")


def preprocessing() -> dict[str, Any]:
    """The constants that tie media to the model, by name in lower case."""
    return {name.lower(): value for name, value in sorted(vars(constants).items()) if name.isupper()}


def versions() -> dict[str, str]:
    """Versions of the packages that shape the files."""
    return {package: version(package) for package in _PACKAGES}


def inputs_sha256(preset: Preset, *, seed: int, assets: Sequence[Path]) -> str:
    """Hash of all that a build depends on: preset, seed, files taken over, package versions, this package's own code.

    Two builds with the same hash give the same weights and graphs.
    """
    code = sorted(Path(__file__).parent.rglob("*.py"))
    golden = sorted(Path(__file__).parent.rglob("*.npz"))
    facts = {
        "preset": preset.sha256,
        "seed": seed,
        "assets": [file_sha256(path) for path in assets],
        "code": [file_sha256(path) for path in (*code, *golden)],
        "preprocessing": preprocessing(),
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def content_sha256(preset: Preset, *, weights: str, tokenizer: Path) -> str:
    """Hash that names a model: of its weights (see `weights_sha256`), its preset and its tokenizer; not of ONNX bytes."""
    facts = "\n".join((preset.sha256, weights, file_sha256(tokenizer)))
    return hashlib.sha256(facts.encode()).hexdigest()


def manifest_json(
    preset: Preset, *, sha256: str, seed: int, inputs: str, files: Mapping[str, Path], figures: Mapping[str, Figures]
) -> dict[str, Any]:
    """The manifest as plain data.

    Args:
        preset: of the model.
        sha256: the model's content hash.
        seed: of the untrained weights.
        inputs: the hash of all that the build depends on.
        files: the built files by their path in the repository.
        figures: measured parity by the model's or net's name.
    """
    return {
        "schema_version": 1,
        "name": preset.name,
        "preset": preset.name,
        "sha256": sha256,
        "labels": list(preset.labels),
        "trained": False,
        "seed": seed,
        "precision": "fp32",
        "pos_weight": list(preset.pos_weight),
        "preprocessing": preprocessing(),
        "licences": dict(preset.licences),
        "versions": versions(),
        "parity": {
            name: {"max_abs": row.max_abs, "mean_abs": row.mean_abs, "num_cases": row.num_cases, "atol": row.atol}
            for name, row in figures.items()
        },
        "build": {
            "inputs_sha256": inputs,
            "files": {name: file_sha256(path) for name, path in files.items()},
        },
    }


def write_manifest(repository: Path, manifest: Mapping[str, Any]) -> None:
    """Put the manifest into its place in one step."""
    target = repository / MANIFEST_PATH
    part = target.with_suffix(".part")
    part.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(part, target)  # noqa: PTH105  # atomic on POSIX, as documented for os.replace


def read_current(repository: Path, inputs: str) -> dict[str, Any] | None:
    """The manifest of a repository that was built from just these inputs and whose files are all intact; else None."""
    path = repository / MANIFEST_PATH
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        build = manifest["build"]
        files: dict[str, str] = build["files"]
        if build["inputs_sha256"] != inputs:
            return None
    except (ValueError, KeyError, TypeError):
        return None  # not a manifest of ours: build anew
    intact = all(
        (repository / name).is_file() and file_sha256(repository / name) == digest for name, digest in files.items()
    )
    return manifest if intact else None
