"""The command `fv2es build`."""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.status import Status
from rich.table import Table

from fv2es_builders.build import BuildRequest, BuildResult, build
from fv2es_builders.cache import default_cache_folder
from fv2es_builders.errors import BuildError, BuildUsageError
from fv2es_builders.precision import PRECISIONS, PROFILES
from fv2es_builders.presets import PRESETS, Preset, preset_by_name
from fv2es_builders.shipped import shipped_repository

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fv2es build",
        description="Turn a model's weights into verified engines in a repository that Triton serves.",
    )
    weights = parser.add_argument_group("which model")
    weights.add_argument("--preset", default="starter", help=f"one of {', '.join(PRESETS)} (default: %(default)s)")
    weights.add_argument(
        "--checkpoint",
        type=Path,
        metavar="PATH",
        help="trained weights of V2EM or MME2E: .pt, .pth or .safetensors; or a repository built before, on profile cpu in fp32 or "
        "fp16 (default: the repository with trained weights that comes with the preset starter)",
    )
    weights.add_argument(
        "--branch",
        type=Path,
        metavar="DIR",
        help="output of a training run, put in the place of that branch of the repository that is built from",
    )
    weights.add_argument(
        "--seed", type=int, metavar="N", help="untrained weights of this seed, for trying the machinery"
    )
    weights.add_argument(
        "--labels", metavar="A,B,...", help="what the checkpoint's outputs mean, in their order (default: the preset's)"
    )
    weights.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="folder with the text encoder's tokenizer.json or spiece.model, or a model hub's ORGANISATION/NAME",
    )
    target = parser.add_argument_group("what to make of it")
    target.add_argument("--profile", choices=PROFILES, default="cpu", help="who serves it (default: %(default)s)")
    target.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the engines (default: %(default)s)")
    target.add_argument(
        "--server-version", metavar="N.N", help="Triton that will serve the gpu profile (default: the newest known)"
    )
    target.add_argument(
        "--calibration",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="film of the kind that will be served, from which INT8 takes its ranges besides the built-in ones; may be repeated",
    )
    target.add_argument("--output", type=Path, required=True, metavar="DIR", help="the repository to fill")
    target.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where builds are kept (default: FV2ES_CACHE, or the user's cache folder)",
    )
    return parser


def _request(options: argparse.Namespace) -> BuildRequest:
    preset = _relabelled(preset_by_name(options.preset), options.labels)
    checkpoint, repository = options.checkpoint, None
    if checkpoint is not None and options.seed is not None:
        raise BuildUsageError(f"seed {options.seed} is of untrained weights, but {checkpoint} is given; leave one out")
    if checkpoint is None and options.seed is None:
        repository = shipped_repository(preset)
    elif checkpoint is not None and checkpoint.is_dir():
        checkpoint, repository = None, checkpoint
    return BuildRequest(
        preset=preset,
        output=options.output,
        cache=options.cache or default_cache_folder(os.environ),
        seed=options.seed or 0,
        checkpoint=checkpoint,
        repository=repository,
        branch=options.branch,
        tokenizer=options.tokenizer,
        profile=options.profile,
        precision=options.precision,
        server_version=options.server_version,
        calibration=tuple(options.calibration),
    )


def _relabelled(preset: Preset, labels: str | None) -> Preset:
    """The preset with other labels; what was known of the old ones' weights in training is not true of them."""
    if labels is None:
        return preset
    names = tuple(name.strip() for name in labels.split(","))
    if len(set(names)) != len(names) or not all(names):
        raise BuildUsageError(
            f"labels {labels!r} must be different names with commas between them; write them as a,b,c"
        )
    return dataclasses.replace(preset, labels=names, pos_weight=(1.0,) * len(names))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fv2es build`.

    Args:
        argv: what follows `build` on the command line; None: taken from the process.

    Returns:
        0 done, 1 the build failed, 2 bad usage.
    """
    console, errors = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what is wrong, or printed its help
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    try:
        request = _request(options)
        with console.status("building") as status:
            result = build(request, lambda line: _tell(console, status, line))
    except BuildUsageError as error:
        errors.print(f"fv2es build: {error}", markup=False)
        return EXIT_USAGE
    except (BuildError, OSError) as error:
        errors.print(f"fv2es build: {error}", markup=False)
        return EXIT_FAILED
    except KeyboardInterrupt:
        errors.print(f"fv2es build: interrupted; {options.output} is as it was before, or marked as incomplete")
        return EXIT_FAILED
    _show(console, request, result)
    return EXIT_DONE


def _tell(console: Console, status: Status, line: str) -> None:
    console.print(f"build: {line}", markup=False)
    status.update(line)


def _show(console: Console, request: BuildRequest, result: BuildResult) -> None:
    manifest = result.manifest
    if result.made:
        if manifest["parity"]["graphs"]:
            console.print(_graphs_table(manifest, result.seconds))
        if manifest["parity"]["engines"]:
            console.print(_engines_table(manifest))
        console.print(_files_table(manifest, request.output))
    name, sha256 = manifest["name"], manifest["sha256"]
    console.print(
        f"{request.output}: {name} in {manifest['precision']} for profile {manifest['profile']}, sha256 {sha256[:12]}, "
        f"labels {', '.join(manifest['labels'])}",
        markup=False,
    )
    if taken := manifest["source"].get("taken_from"):
        but = f", but for {', '.join(taken['replaced'])}" if "replaced" in taken else ""
        console.print(f"Its weights are those of a repository in {taken['precision']}{but}.")
    if not manifest["trained"]:
        console.print("The weights are NOT TRAINED: what is computed with them means nothing.", style="bold yellow")


def _graphs_table(manifest: Mapping[str, Any], seconds: Mapping[str, float]) -> Table:
    """A row for each graph: how far it is in float32 from the modules that it was made from."""
    table = Table("graph", "seconds", "max |error|", "allowed", "inputs tried", box=None, header_style="bold")
    for name, figures in manifest["parity"]["graphs"].items():
        table.add_row(
            name,
            f"{seconds[name]:.1f}" if name in seconds else "cached",
            f"{figures['max_abs']:.1e}",
            f"{figures['atol']:.0e}",
            str(figures["num_cases"]),
        )
    return table


def _engines_table(manifest: Mapping[str, Any]) -> Table:
    """A row for each output of the engines in their final precision: how far it is from float32 on real utterances."""
    precision, facts = manifest["precision"], dict(manifest["parity"]["engines"])
    chain = facts.pop("chain")
    table = Table(
        "engine",
        f"products in {precision}",
        "output",
        "max |error|",
        "mean",
        "median",
        "allowed",
        box=None,
        header_style="bold",
    )
    for name, row in facts.items():
        lower = f"{row['products'] - len(row['kept'])} of {row['products']}"
        for output, figures in row["outputs"].items():
            table.add_row(name, lower, output, *_figures(figures))
    for output, figures in chain["outputs"].items():
        table.add_row("all four", "", output, *_figures(figures))
    table.caption = f"{chain['num_utterances']} real utterances, {chain['same_label']:.1%} with the same top label"
    return table


def _figures(figures: Mapping[str, float]) -> list[str]:
    return [f"{figures[key]:.1e}" for key in ("max_abs", "mean_abs", "median_abs", "allowed")]


def _files_table(manifest: Mapping[str, Any], repository: Path) -> Table:
    table = Table("file", "MB", box=None, header_style="bold")
    for name in manifest["build"]["files"]:
        table.add_row(name, f"{(repository / name).stat().st_size / 1e6:.1f}")
    return table
