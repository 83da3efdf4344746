"""What lies beside the weights: which model this is, how its input is made, and what its files are."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fv2es_builders.assets import file_sha256
from fv2es_builders.presets import Preset
from fv2es_pipelines import constants

if TYPE_CHECKING:
    from fv2es_builders.graphs import GraphFacts

MANIFEST_PATH: Final = "manifest/1/manifest.json"
"""Where the manifest lies in a repository. It is written last: without it, the repository is not complete."""

_PACKAGES: Final = ("torch", "onnx", "onnxscript", "onnxruntime", "transformers", "tokenizers")


def preprocessing() -> dict[str, Any]:
    """The constants that tie media to the model, by name in lower case."""
    return {name.lower(): value for name, value in sorted(vars(constants).items()) if name.isupper()}


def versions() -> dict[str, str]:
    """Versions of those packages that shape the files and are installed: a build from a repository needs few of them."""
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def facts_sha256(facts: Mapping[str, Any]) -> str:
    """Hash of plain data, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def code_sha256() -> str:
    """Hash of this package's own code and of the real input that it carries."""
    folder = Path(__file__).parent
    files = [*sorted(folder.rglob("*.py")), *sorted(folder.rglob("*.npz"))]
    return facts_sha256({"files": [file_sha256(path) for path in files]})


def content_sha256(preset: Preset, *, weights: str, tokenizer: Path) -> str:
    """Hash that names a model: of its weights (see `weights_sha256`), its preset and its tokenizer; not of ONNX bytes."""
    facts = "\n".join((preset.sha256, weights, file_sha256(tokenizer)))
    return hashlib.sha256(facts.encode()).hexdigest()


def manifest_json(
    graphs: "GraphFacts",
    *,
    profile: str,
    precision: str,
    server_version: str,
    engines: Mapping[str, Any],
    inputs: str,
    files: Mapping[str, str],
) -> dict[str, Any]:
    """The manifest as plain data.

    Args:
        graphs: what is known of the float32 graphs.
        profile: of the repository.
        precision: of the engines.
        server_version: Triton that the configuration is for.
        engines: measured differences and kept nodes of the graphs in their final precision, by name; empty: they are the float32 ones.
        inputs: the hash of all that the build depends on.
        files: sha256 of the built files by their path in the repository.
    """
    preset = graphs.preset
    return {
        "schema_version": 1,
        "name": preset["name"],
        "preset": preset["name"],
        "sha256": graphs.sha256,
        "labels": list(preset["labels"]),
        "trained": graphs.source["kind"] == "checkpoint",
        "source": dict(graphs.source),
        "profile": profile,
        "precision": precision,
        "server_version": server_version,
        "pos_weight": list(preset["pos_weight"]),
        "modality_weights": dict(graphs.modality_weights),
        "branches": dict(graphs.branches),
        "preprocessing": preprocessing(),
        "licences": dict(preset["licences"]),
        "versions": versions(),
        "parity": {"graphs": dict(graphs.parity), "engines": dict(engines)},
        "build": {"inputs_sha256": inputs, "files": dict(files)},
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
