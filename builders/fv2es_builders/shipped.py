"""A repository that was built before as the source of another build: other precisions and profiles without the checkpoint.

The preset `starter` comes with such a repository, `model_repository/`; what trained it is not part of the project.
"""

import importlib.util
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import onnx

from fv2es_builders.assets import file_sha256
from fv2es_builders.errors import BuildUsageError, OtherLabels, UnusableRepository
from fv2es_builders.graphs import ENGINES, GraphFacts, graph_path
from fv2es_builders.manifest import MANIFEST_PATH
from fv2es_builders.presets import Preset
from fv2es_builders.storage import restored

SOURCES: Final = ("fp32", "fp16")
"""Precisions on the cpu profile from which the FP32 graphs can be had back."""


def shipped_repository(preset: Preset) -> Path:
    """The repository with trained weights that comes with this project.

    Raises:
        BuildUsageError: it holds other weights, or is not here.
    """
    package = Path(__file__).resolve().parents[2]
    candidates = [package / "model_repository"]
    if client := importlib.util.find_spec("fv2es"):
        candidates += [Path(folder) / "model_repository" for folder in client.submodule_search_locations or ()]
    for candidate in candidates:
        manifest = _read(candidate / MANIFEST_PATH)
        if manifest.get("trained") and manifest.get("preset") == preset.name:
            return candidate
    raise BuildUsageError(
        f"preset {preset.name} comes with no trained weights here; give --checkpoint FILE, or --seed N for untrained ones"
    )


def _read(path: Path) -> dict[str, Any]:
    """A manifest; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def graphs_from_repository(repository: Path, preset: Preset, folder: Path) -> GraphFacts:
    """Copy a repository's graphs, in FP32, and what belongs to them.

    Args:
        repository: of the cpu profile, in FP32 or FP16.
        preset: what is asked for.
        folder: gets the files at their places in a repository.

    Raises:
        UnusableRepository: it is of another profile or precision, incomplete, or changed since it was built.
        BuildUsageError, OtherLabels: it is of another preset, or of other labels.
    """
    manifest = _read(repository / MANIFEST_PATH)
    if not manifest:
        raise UnusableRepository(repository, f"holds no {MANIFEST_PATH}; name a repository that `fv2es build` has made")
    try:
        return _copied(repository, manifest, preset, folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnusableRepository(
            repository, f"its manifest is not of this version ({error!r}); build it anew from its checkpoint"
        ) from error


def _copied(repository: Path, manifest: Mapping[str, Any], preset: Preset, folder: Path) -> GraphFacts:
    if manifest["profile"] != "cpu" or manifest["precision"] not in SOURCES:
        raise UnusableRepository(
            repository,
            f"is of profile {manifest['profile']} in {manifest['precision']}; "
            "give one of profile cpu in fp32 or fp16, or the checkpoint that it was built from",
        )
    if manifest["preset"] != preset.name:
        raise BuildUsageError(
            f"{repository} is of preset {manifest['preset']}, but the build is for {preset.name}; "
            f"give --preset {manifest['preset']}"
        )
    if tuple(manifest["labels"]) != preset.labels:
        raise OtherLabels(repository, found=manifest["labels"], labels=preset.labels)
    for name, digest in manifest["build"]["files"].items():
        path = repository / name
        if not path.is_file() or file_sha256(path) != digest:
            raise UnusableRepository(repository, f"{name} is not the file that was built; build or copy it again")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for model in ENGINES:
        target = folder / graph_path(model)
        target.write_bytes(restored(onnx.load(str(target))).SerializeToString())
    return GraphFacts(
        preset={name: manifest[name] for name in ("name", "labels", "pos_weight", "licences")},
        sha256=manifest["sha256"],
        source={**manifest["source"], "taken_from": {"precision": manifest["precision"]}},
        modality_weights=manifest["modality_weights"],
        branches=manifest["branches"],
        parity=manifest["parity"]["graphs"],
        seconds={},
    )
