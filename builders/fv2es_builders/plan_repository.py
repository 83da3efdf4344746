"""The TensorRT plans of a gpu repository, made and proven on the GPU that will serve them. The command `fv2es plans`.

Needs neither PyTorch nor the checkpoint, so it runs in the serving image itself, in a job on the target GPU.
"""

import argparse
import dataclasses
import functools
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fv2es_builders.assets import file_sha256
from fv2es_builders.cache import Cache, default_cache_folder
from fv2es_builders.cuda import Driver, Gpu, find_gpu, gpu_context
from fv2es_builders.engines import NamedInputs, accept_engine, real_inputs, runner_of
from fv2es_builders.errors import BuildError, BuildUsageError, NotARepository
from fv2es_builders.golden.utterances import golden_utterances
from fv2es_builders.graphs import ENGINES, SOURCE_NAME, TOKENIZER_PATH, Report
from fv2es_builders.manifest import MANIFEST_PATH, code_sha256, facts_sha256, write_manifest
from fv2es_builders.output import exclusive, no_space_said
from fv2es_builders.plan_runner import PlanRunner
from fv2es_builders.plans import PLAN_NAME, Flavour, PlanFacts, plan_from_onnx, shape_profile, tensorrt
from fv2es_builders.precision import PRECISIONS
from fv2es_builders.utterances import Runner

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
_FLAVOUR: Flavour = "tensorrt"
"""The one that Triton's backend loads."""


def read_manifest(repository: Path) -> dict[str, Any]:
    """The manifest of a gpu repository whose graphs are all as they were built.

    Raises:
        NotARepository: there is none, it is of another profile or damaged, or a graph is not the one that it names.
    """
    path = repository / MANIFEST_PATH
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotARepository(repository, f"{MANIFEST_PATH} can't be read ({error})") from error
    try:
        profile, built = manifest["profile"], manifest["build"]["files"]
        known = {name: built.get(name) for name in (*map(source_path, ENGINES), TOKENIZER_PATH)}
        usable = bool(manifest["labels"]) and manifest["precision"] in PRECISIONS
    except (KeyError, TypeError, AttributeError) as error:
        raise NotARepository(repository, f"{MANIFEST_PATH} is none of a repository ({error!r})") from error
    if profile != "gpu":
        raise NotARepository(repository, f"it is of profile {profile}, which has no plans")
    if not usable:
        raise NotARepository(repository, f"{MANIFEST_PATH} has no labels, or a precision that is none")
    for name, sha256 in known.items():
        if sha256 is None or not (repository / name).is_file() or file_sha256(repository / name) != sha256:
            raise NotARepository(repository, f"{name} is missing, or not the one that was built")
    return manifest


def source_path(model: str) -> str:
    """Where the graph that an engine's plan is made of lies in a repository."""
    return f"{model}/1/{SOURCE_NAME}"


def plan_path(model: str) -> str:
    """Where an engine's plan lies in a repository."""
    return f"{model}/1/{PLAN_NAME}"


def make_plans(repository: Path, cache_folder: Path, report: Report = lambda _line: None) -> dict[str, Any]:
    """Make the plans of a gpu repository that are not there yet, or were made elsewhere, and record them in its manifest.

    Args:
        repository: from `fv2es build --profile gpu`.
        cache_folder: where plans are kept, by all that they depend on, and what TensorRT measured.
        report: told what is going on.

    Returns:
        The manifest.

    Raises:
        NotARepository: it is none, or of another profile.
        TensorRtMissing, GpuMissing: plans can't be made here.
        GraphRefused, PlanFailed: TensorRT does not take a graph.
        ParityError: a plan does not reproduce its graph; it stays in the cache for replay until the next try.
        DiskFull: no room.
        OutputBusy: something else writes to the repository.
    """
    read_manifest(repository)  # before anything is locked, which would make the folder
    version, gpu = tensorrt(_FLAVOUR).__version__, find_gpu()
    report(f"TensorRT {version} on {gpu.name}, compute capability {gpu.compute_capability}")
    cache, driver = Cache(cache_folder), Driver()
    with no_space_said(repository, cache_folder), exclusive(repository):
        manifest = read_manifest(repository)  # again: a build may have ended meanwhile
        keys = {model: plan_key(repository, manifest, model, tensorrt_version=version, gpu=gpu) for model in ENGINES}
        if plans_are_current(repository, manifest, keys):
            report("up to date")
            return manifest
        timing = cache_folder / timing_name(version, gpu)
        proof = _Proof(repository, manifest, timing=timing, driver=driver, report=report)
        made: dict[str, tuple[Path, Mapping[str, Any]]] = {}
        with gpu_context(driver):
            for model, key in keys.items():
                entry = cache.entry(key, functools.partial(proof.make, model))
                report(f"{model}: {'made' if entry.made_now else 'taken from the cache'}")
                made[model] = entry.folder / PLAN_NAME, {**entry.facts, "inputs_sha256": key}
        return place_plans(repository, manifest, made)


def plan_key(repository: Path, manifest: Mapping[str, Any], model: str, *, tensorrt_version: str, gpu: Gpu) -> str:
    """Hash of all that a plan and its proof depend on: graph, precision, TensorRT, GPU, shapes, this package's code.

    Args:
        repository: of profile gpu.
        manifest: its manifest.
        model: the engine's name.
        tensorrt_version: of the TensorRT that builds.
        gpu: where it builds. Two of one compute capability are two: kernels are chosen by what is measured.
    """
    profile = shape_profile(model, num_labels=len(manifest["labels"]))
    return facts_sha256(
        {
            "onnx": file_sha256(repository / source_path(model)),
            "precision": manifest["precision"],
            "tensorrt": tensorrt_version,
            "gpu": [gpu.name, gpu.compute_capability],
            "profile": {name: dataclasses.asdict(shapes) for name, shapes in profile.items()},
            "code": code_sha256(),
        }
    )


def plans_are_current(repository: Path, manifest: Mapping[str, Any], keys: Mapping[str, str]) -> bool:
    """Whether all plans lie in a repository, whole, and were made from just this.

    Args:
        repository: of profile gpu.
        manifest: its manifest.
        keys: from `plan_key`, by model.
    """
    plans = manifest.get("plans") or {}
    return all(
        model in plans
        and plans[model].get("inputs_sha256") == key
        and (repository / plan_path(model)).is_file()
        and file_sha256(repository / plan_path(model)) == plans[model].get("sha256")
        for model, key in keys.items()
    )


def timing_name(tensorrt_version: str, gpu: Gpu) -> str:
    """The file of what TensorRT measured; of use for one version on one kind of GPU."""
    return f"timing-{tensorrt_version}-{re.sub(r'[^A-Za-z0-9]+', '-', gpu.name)}-{gpu.compute_capability}"


class _Proof:
    """Makes plans of one repository, each compared with its graph on real inputs that are made once."""

    def __init__(
        self, repository: Path, manifest: Mapping[str, Any], *, timing: Path, driver: Driver, report: Report
    ) -> None:
        self._manifest, self._timing, self._driver, self._report = manifest, timing, driver, report
        self._sources = {model: repository / source_path(model) for model in ENGINES}
        self._tokenizer = repository / TOKENIZER_PATH
        self._runners: dict[str, Runner] = {}
        self._inputs: dict[str, NamedInputs] = {}

    def make(self, model: str, folder: Path) -> dict[str, Any]:
        """Build one plan in a folder and compare it with its graph; its facts."""
        self._report(f"{model}: building, minutes at the first time")
        plan = folder / PLAN_NAME
        facts = plan_from_onnx(
            self._sources[model],
            plan,
            model=model,
            profile=shape_profile(model, num_labels=len(self._manifest["labels"])),
            flavour=_FLAVOUR,
            timing_cache=self._timing,
        )
        self._report(f"{model}: comparing with its graph")
        runner = PlanRunner(plan, flavour=_FLAVOUR, driver=self._driver, facts=facts)
        inputs = self._real_inputs()[model]
        outputs = accept_engine(
            plan, runner.run, source=self._runners[model], inputs=inputs, precision=self._manifest["precision"]
        )
        return plan_facts(facts, outputs)

    def _real_inputs(self) -> dict[str, NamedInputs]:
        if not self._inputs:
            self._runners = {model: runner_of(path, "gpu") for model, path in self._sources.items()}
            self._inputs = real_inputs(self._runners, self._tokenizer, golden_utterances())
        return self._inputs


def plan_facts(facts: PlanFacts, outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a manifest says of a plan, in the form in which JSON gives it back.

    Args:
        facts: from `fv2es_builders.plans.plan_from_onnx`.
        outputs: measured differences from the graph, by output.
    """
    plain = {**dataclasses.asdict(facts), "compute_capabilities": list(facts.compute_capabilities)}
    return {**plain, "parity": {name: dict(figures) for name, figures in outputs.items()}}


def place_plans(
    repository: Path, manifest: Mapping[str, Any], made: Mapping[str, tuple[Path, Mapping[str, Any]]]
) -> dict[str, Any]:
    """Put plans into a repository and write down what they are.

    All are copied beside their places first, so that a full disk leaves what was there. While they change places the manifest names
    none, and no server starts; so an interruption leaves either all old plans or none that are named.

    Args:
        repository: of profile gpu.
        manifest: its manifest.
        made: by model the plan's file and its facts, as `fv2es_pipelines.plan_check` takes them.

    Returns:
        The new manifest.
    """
    parts = {model: (repository / plan_path(model)).with_suffix(".plan.part") for model in made}
    try:
        for model, (path, _) in made.items():
            shutil.copyfile(path, parts[model])
        write_manifest(repository, {**manifest, "plans": None})
        for model, part in parts.items():
            part.replace(repository / plan_path(model))
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    finished = {**manifest, "plans": {model: dict(facts) for model, (_, facts) in made.items()}}
    write_manifest(repository, finished)
    return finished


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fv2es plans`.

    Returns:
        0 done, 1 plans can't be made, 2 bad usage.
    """
    parser = argparse.ArgumentParser(
        prog="fv2es plans",
        description="Build the TensorRT plans of a gpu repository on the GPU that will serve it, and prove them.",
    )
    parser.add_argument("repository", type=Path, metavar="REPOSITORY", help="made by: fv2es build --profile gpu")
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where plans are kept (default: FV2ES_CACHE, or the user's cache folder)",
    )
    console, errors = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        options = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has said what is wrong, or printed its help
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    try:
        cache = options.cache or default_cache_folder(os.environ)
        manifest = make_plans(options.repository, cache, lambda line: console.print(f"plans: {line}", markup=False))
    except BuildUsageError as error:
        errors.print(f"fv2es plans: {error}", markup=False)
        return EXIT_USAGE
    except (BuildError, OSError) as error:
        errors.print(f"fv2es plans: {error}", markup=False)
        return EXIT_FAILED
    except KeyboardInterrupt:
        errors.print(f"fv2es plans: interrupted; {options.repository} is as it was before, or names no plans")
        return EXIT_FAILED
    console.print(plans_table(manifest["plans"]))
    return EXIT_DONE


def plans_table(plans: Mapping[str, Mapping[str, Any]]) -> Table:
    """What was built and how closely it agrees, a row for each output."""
    table = Table("plan", "MB", "layers", "build s", "output", "max |error|", "allowed", box=None, header_style="bold")
    for model, facts in plans.items():
        for output, figures in facts["parity"].items():
            table.add_row(
                model,
                f"{facts['num_bytes'] / 1e6:.1f}",
                str(facts["num_layers"]),
                f"{facts['duration_s']:.1f}",
                output,
                f"{figures['max_abs']:.1e}",
                f"{figures['allowed']:.1e}",
            )
    return table
