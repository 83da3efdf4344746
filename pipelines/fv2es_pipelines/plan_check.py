"""Whether the TensorRT plans of a repository were made for this machine: asked when a server starts, before it is ready.

A plan runs only on the TensorRT and the kind of GPU that made it. The backend says so in a line of its log and the model stays
away; here it is said which plan, why, and what to do. Nothing but the libraries that the server has anyway is needed.
"""

import ctypes
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fv2es_pipelines.errors import PipelineError
from fv2es_pipelines.gpu import find_gpu
from fv2es_pipelines.specification import models

Flavour = Literal["tensorrt", "tensorrt_rtx"]

PLAN_NAME: Final = "model.plan"
"""What Triton's TensorRT backend looks for in a version folder."""

LIBRARIES: Final[Mapping[Flavour, tuple[str, ...]]] = {
    "tensorrt": ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so"),
    "tensorrt_rtx": ("libtensorrt_rtx.so.1", "libtensorrt_rtx.so"),
}
"""Names of the runtime's library, the newest first."""

_PARTS: Final = ("Major", "Minor", "Patch", "Build")


class PlanMismatch(PipelineError):
    """A plan can't run here, or is not the one that was built. `model` names it; `built` and `here` say what differs."""

    def __init__(self, model: str, *, built: str, here: str) -> None:
        self.model, self.built, self.here = model, built, here
        super().__init__(
            f"model {model}'s plan was built {built}, this server has {here}; rebuild: fv2es plans REPOSITORY"
        )


class NoPlans(PipelineError):
    """A repository has no plans, or not all of them. `models` names those that lack one."""

    def __init__(self, repository: Path, *, models: Sequence[str]) -> None:
        self.repository, self.models = repository, tuple(models)
        super().__init__(
            f"{repository} has no plans yet ({', '.join(models)}); run on this machine: fv2es plans {repository}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What plans run on here."""

    tensorrt_version: str
    """Four numbers, such as 10.13.3.9."""
    compute_capability: str
    """Such as 8.9."""


def tensorrt_version(flavour: Flavour) -> str | None:
    """Version of the TensorRT runtime that this process can load, as four numbers; None: there is none.

    Args:
        flavour: TensorRT, or TensorRT for RTX.
    """
    for name in LIBRARIES[flavour]:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        return ".".join(str(getattr(library, f"getInferLib{part}Version")()) for part in _PARTS)
    return None


def this_machine(flavour: Flavour) -> Machine:
    """What this machine has.

    Raises:
        NoGpu: it has no GPU.
    """
    return Machine(
        tensorrt_version=tensorrt_version(flavour) or "none", compute_capability=find_gpu().compute_capability
    )


def check_manifest(repository: Path, manifest: Mapping[str, Any], machine: Machine | None = None) -> None:
    """See that a repository whose engines are plans has all of them, and that they are made for this machine.

    Args:
        repository: its folder.
        manifest: says by `profile` whether engines are plans; without it, or where it is not `gpu`, there is nothing to check.
        machine: see `check_plans`.

    Raises:
        NoPlans: none were made, making them was interrupted, or one is not recorded.
        PlanMismatch, NoGpu: see `check_plans`.
    """
    if manifest.get("profile") != "gpu":
        return
    plans = manifest.get("plans") or {}
    missing = [each.name for each in models("gpu") if each.role == "engine" and each.name not in plans]
    if missing:
        raise NoPlans(repository, models=missing)
    check_plans(repository, plans, machine)


def check_plans(repository: Path, plans: Mapping[str, Mapping[str, Any]], machine: Machine | None = None) -> None:
    """See that all plans of a repository are intact and made for this machine.

    Args:
        repository: its folder.
        plans: `plans` of the repository's manifest: by model `tensorrt_version`, `flavour`, `compute_capabilities`, `sha256`.
        machine: what to compare with; None: this one.

    Raises:
        PlanMismatch: names the first plan that is not.
        NoGpu: there is no GPU here.
    """
    for model, facts in plans.items():
        here = this_machine(facts["flavour"]) if machine is None else machine
        check_machine(model, facts, here)
        path = repository / model / "1" / PLAN_NAME
        found = _sha256(path) if path.is_file() else None
        if found != facts["sha256"]:
            here_is = f"sha256 {found[:12]}" if found else "no file"
            raise PlanMismatch(model, built=f"with sha256 {facts['sha256'][:12]}", here=f"{here_is} at {path}")


def check_machine(model: str, facts: Mapping[str, Any], machine: Machine) -> None:
    """See that one plan was made by this TensorRT and for this GPU.

    Args:
        model: its name.
        facts: see `check_plans`.
        machine: what to compare with.

    Raises:
        PlanMismatch: it was not.
    """
    capabilities: Sequence[str] = facts["compute_capabilities"]
    same_version = facts["tensorrt_version"].split(".") == machine.tensorrt_version.split(".")
    if not same_version or machine.compute_capability not in capabilities:
        name = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}[facts["flavour"]]
        raise PlanMismatch(
            model,
            built=f"by {name} {facts['tensorrt_version']} for compute capability {', '.join(capabilities)}",
            here=f"{name} {machine.tensorrt_version} on {machine.compute_capability}",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
