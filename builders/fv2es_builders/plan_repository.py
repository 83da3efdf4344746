"""The TensorRT plans of a gpu repository, made and proven on the GPU that will serve them. The command `fv2es plans`.

Needs neither PyTorch nor the checkpoint, so it runs in the serving image itself, in a job on the target GPU.
"""

import argparse
import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fv2es_builders.assets import file_sha256
from fv2es_builders.cache import Cache, default_cache_folder
from fv2es_builders.cuda import Driver, find_gpu, gpu_context
from fv2es_builders.engines import accept_engine, real_inputs, runner_of
from fv2es_builders.errors import BuildError, BuildUsageError, NotARepository
from fv2es_builders.golden.utterances import golden_utterances
from fv2es_builders.graphs import ENGINES, SOURCE_NAME, TOKENIZER_PATH, Report
from fv2es_builders.manifest import MANIFEST_PATH, facts_sha256, write_manifest
from fv2es_builders.output import exclusive, no_space_said
from fv2es_builders.plan_runner import PlanRunner
from fv2es_builders.plans import PLAN_NAME, Flavour, plan_from_onnx, shape_profile, tensorrt

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
_FLAVOUR: Flavour = "tensorrt"
"""The one that Triton's backend loads."""


def read_manifest(repository: Path) -> dict[str, Any]:
    """The manifest of a gpu repository.

    Raises:
        NotARepository: there is none, or it is of another profile.
    """
    path = repository / MANIFEST_PATH
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotARepository(repository, f"{MANIFEST_PATH} can't be read ({error})") from error
    if manifest.get("profile") != "gpu":
        raise NotARepository(repository, f"it is of profile {manifest.get('profile')}, which has no plans")
    return manifest


def make_plans(repository: Path, cache_folder: Path, report: Report = lambda _line: None) -> dict[str, Any]:
    """Make the plans of a gpu repository that are not there yet, or were made elsewhere, and record them in its manifest.

    While plans change places the manifest names none, and no server starts.

    Args:
        repository: from `fv2es build --profile gpu`.
        cache_folder: where plans are kept, by graph, TensorRT version, GPU and shapes.
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
    manifest = read_manifest(repository)
    version, gpu = tensorrt(_FLAVOUR).__version__, find_gpu()
    report(f"TensorRT {version} on {gpu.name}, compute capability {gpu.compute_capability}")
    cache, driver = Cache(cache_folder), Driver()
    timing = cache_folder / f"timing-{version}-{gpu.compute_capability}"
    with no_space_said(repository, cache_folder), exclusive(repository), gpu_context(driver):
        made: dict[str, tuple[Path, Mapping[str, Any]]] = {}
        for model in ENGINES:
            key = _key(repository, manifest, model, version=version, capability=gpu.compute_capability)
            make = functools.partial(_proven, repository, manifest, model, timing=timing, driver=driver, report=report)
            entry = cache.entry(key, make)
            report(f"{model}: {'made' if entry.made_now else 'taken from the cache'}")
            made[model] = entry.folder / PLAN_NAME, entry.facts
        return place_plans(repository, manifest, made)


def _key(repository: Path, manifest: Mapping[str, Any], model: str, *, version: str, capability: str) -> str:
    profile = shape_profile(model, num_labels=len(manifest["labels"]))
    return facts_sha256(
        {
            "onnx": file_sha256(repository / model / "1" / SOURCE_NAME),
            "precision": manifest["precision"],
            "tensorrt": version,
            "compute_capability": capability,
            "profile": {name: dataclasses.asdict(shapes) for name, shapes in profile.items()},
        }
    )


def _proven(
    repository: Path,
    manifest: Mapping[str, Any],
    model: str,
    folder: Path,
    *,
    timing: Path,
    driver: Driver,
    report: Report,
) -> dict[str, Any]:
    """Build one plan in a folder and compare it with its graph; its facts."""
    report(f"{model}: building, minutes at the first time")
    source = repository / model / "1" / SOURCE_NAME
    profile = shape_profile(model, num_labels=len(manifest["labels"]))
    plan = folder / PLAN_NAME
    facts = plan_from_onnx(source, plan, model=model, profile=profile, flavour=_FLAVOUR, timing_cache=timing)
    runner = PlanRunner(plan, flavour=_FLAVOUR, driver=driver, facts=facts)
    graphs = {each: repository / each / "1" / SOURCE_NAME for each in ENGINES}
    inputs = real_inputs(graphs, repository / TOKENIZER_PATH, golden_utterances())[model]
    outputs = accept_engine(
        plan, runner.run, source=runner_of(source, "gpu"), inputs=inputs, precision=manifest["precision"]
    )
    return {**dataclasses.asdict(facts), "parity": outputs}


def place_plans(
    repository: Path, manifest: Mapping[str, Any], made: Mapping[str, tuple[Path, Mapping[str, Any]]]
) -> dict[str, Any]:
    """Put plans into a repository and write down what they are.

    Args:
        repository: of profile gpu.
        manifest: its manifest.
        made: by model the plan's file and its facts, as `fv2es_pipelines.plan_check` takes them.
    """
    write_manifest(repository, {**manifest, "plans": None})
    for model, (path, _) in made.items():
        folder = repository / model / "1"
        part = folder / f"{PLAN_NAME}.part"
        try:
            shutil.copyfile(path, part)
            part.replace(folder / PLAN_NAME)
        finally:
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
