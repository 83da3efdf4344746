"""A repository that was built before as the source of another build: other precisions and profiles without the checkpoint.

The preset `starter` comes with such a repository, `model_repository/`; what trained it is not part of the project.
"""

import importlib.util
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx

from fv2es_builders.assets import file_sha256
from fv2es_builders.errors import BuildUsageError, OtherLabels, UnusableRepository
from fv2es_builders.graphs import BUILT_FILES, ENGINES, GraphFacts, Report, graph_path
from fv2es_builders.manifest import MANIFEST_PATH, code_sha256, facts_sha256, preprocessing
from fv2es_builders.presets import Preset
from fv2es_builders.storage import restored

SOURCES: Final = ("fp32", "fp16")
"""Precisions on the cpu profile from which FP32 graphs can be had back."""


def shipped_repository(preset: Preset) -> Path:
    """The repository with trained weights that comes with this project.

    Raises:
        BuildUsageError: it holds other weights, or none that can be built from, or is not here.
    """
    root = Path(__file__).resolve().parents[2]
    candidates = [root / "model_repository"]
    if client := importlib.util.find_spec("fv2es"):
        candidates += [Path(folder) / "model_repository" for folder in client.submodule_search_locations or ()]
    for candidate in candidates:
        manifest = _read(candidate)
        if manifest.get("trained") and manifest.get("preset") == preset.name and manifest.get("precision") in SOURCES:
            return candidate
    raise BuildUsageError(
        f"preset {preset.name} comes with no trained weights here; give --checkpoint PATH, or --seed N for untrained ones"
    )


def _read(repository: Path) -> dict[str, Any]:
    """A repository's manifest; empty where there is none."""
    try:
        found = json.loads((repository / MANIFEST_PATH).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class RepositorySource:
    """Graphs that are taken over from a repository on the cpu profile, in FP32 or FP16. PyTorch is not needed."""

    preset: Preset
    """What is asked for, which must be what the repository is of."""
    repository: Path

    def key(self) -> str:
        """Hash of all that the graphs depend on.

        Raises:
            UnusableRepository: the folder holds no manifest.
        """
        if not _read(self.repository):
            raise UnusableRepository(
                self.repository, f"holds no {MANIFEST_PATH}; name a repository that `fv2es build` has made"
            )
        return facts_sha256(
            {
                "preset": self.preset.sha256,
                "repository": file_sha256(self.repository / MANIFEST_PATH),
                "code": code_sha256(),
                "preprocessing": preprocessing(),
            }
        )

    def make(self, folder: Path, report: Report) -> GraphFacts:
        """Copy the graphs, in FP32, and what belongs to them.

        Args:
            folder: gets the files at their places in a repository.
            report: told what is going on.

        Raises:
            UnusableRepository: it is of another profile or precision, incomplete, or changed since it was built.
            BuildUsageError, OtherLabels: it is of another preset, or of other labels.
        """
        report(f"taking the graphs of {self.repository}")
        manifest = _read(self.repository)
        try:
            self._check(manifest)
            self._copy(manifest["build"]["files"], folder)
            return _facts(manifest)
        except (KeyError, TypeError, AttributeError) as error:
            raise UnusableRepository(
                self.repository, f"its manifest is not of this version ({error!r}); build it anew from its checkpoint"
            ) from error

    def _check(self, manifest: Mapping[str, Any]) -> None:
        if manifest["profile"] != "cpu" or manifest["precision"] not in SOURCES:
            raise UnusableRepository(
                self.repository,
                f"is of profile {manifest['profile']} in {manifest['precision']}; "
                "give one of profile cpu in fp32 or fp16, or the checkpoint that it was built from",
            )
        if manifest["preset"] != self.preset.name:
            raise BuildUsageError(
                f"{self.repository} is of preset {manifest['preset']}, but the build is for {self.preset.name}; "
                f"give --preset {manifest['preset']}"
            )
        if tuple(manifest["labels"]) != self.preset.labels:
            raise OtherLabels(self.repository, found=manifest["labels"], labels=self.preset.labels)

    def _copy(self, digests: Mapping[str, str], folder: Path) -> None:
        for name in BUILT_FILES:
            path = self.repository / name
            if not path.is_file() or file_sha256(path) != digests[name]:
                raise UnusableRepository(
                    self.repository, f"{name} is not the file that was built; build or copy it again"
                )
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        for model in ENGINES:
            target = folder / graph_path(model)
            target.write_bytes(restored(onnx.load(str(target))).SerializeToString())


def _facts(manifest: Mapping[str, Any]) -> GraphFacts:
    """What is known of the copied graphs: those of a repository in FP16 are of another model, whose weights are rounded."""
    sha256, precision = manifest["sha256"], manifest["precision"]
    rounded = precision != "fp32"
    replaced = (
        manifest["source"].get("taken_from", {}).get("replaced")
    )  # what the source's checkpoint is no longer true of
    return GraphFacts(
        preset={name: manifest[name] for name in ("name", "labels", "pos_weight", "licences")},
        sha256=facts_sha256({"model": sha256, "rounded": precision}) if rounded else sha256,
        source={
            **manifest["source"],
            "taken_from": {
                "sha256": sha256,
                "precision": precision,
                "parity": manifest["parity"],
                **({"replaced": replaced} if replaced else {}),
            },
        },
        modality_weights=manifest["modality_weights"],
        branches=manifest["branches"],
        parity={},
        seconds={},
    )
