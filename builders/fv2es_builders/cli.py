"""The command `fv2es build`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from fv2es_builders.build import BuildRequest, BuildResult, build
from fv2es_builders.errors import BuildError, BuildUsageError
from fv2es_builders.presets import PRESETS, preset_by_name

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fv2es build", description="Make the model's weights as verified ONNX files in a repository for Triton."
    )
    parser.add_argument("--preset", default="starter", help=f"one of {', '.join(PRESETS)} (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the untrained weights (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the repository to fill")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="folder with the text encoder's tokenizer.json")
    return parser


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
        request = BuildRequest(
            preset=preset_by_name(options.preset),
            output=options.output,
            seed=options.seed,
            tokenizer=options.tokenizer,
        )
        result = build(request, lambda line: console.print(f"build: {line}", markup=False))
    except BuildUsageError as error:
        errors.print(f"fv2es build: {error}", markup=False)
        return EXIT_USAGE
    except (BuildError, OSError) as error:
        errors.print(f"fv2es build: {error}", markup=False)
        return EXIT_FAILED
    _show(console, request, result)
    return EXIT_DONE


def _show(console: Console, request: BuildRequest, result: BuildResult) -> None:
    if result.built:
        table = Table("file", "MB", "seconds", "max |error|", "allowed", "inputs tried", box=None, header_style="bold")
        for file in result.built:
            table.add_row(
                str(file.path.relative_to(request.output)),
                f"{file.path.stat().st_size / 1e6:.1f}",
                f"{file.duration_s:.1f}",
                f"{file.figures.max_abs:.1e}",
                f"{file.figures.atol:.0e}",
                str(file.figures.num_cases),
            )
        console.print(table)
    name, sha256 = result.manifest["name"], result.manifest["sha256"]
    console.print(
        f"{request.output}: {name}, sha256 {sha256[:12]}, labels {', '.join(result.manifest['labels'])}", markup=False
    )
    if not result.manifest["trained"]:
        console.print("The weights are NOT TRAINED: what is computed with them means nothing.", style="bold yellow")
