"""The command `python -m fv2es_builders.train {visual|acoustic|text|fusion}`."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from fv2es_builders.errors import BuildError, BuildUsageError
from fv2es_builders.presets import PRESETS, preset_by_name
from fv2es_builders.training.loop import Log
from fv2es_builders.training.request import RunRequest
from fv2es_builders.training.runs import run_acoustic, run_text, run_visual

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

RUNS: Final[Mapping[str, Callable[[RunRequest, Log], dict[str, Any]]]] = {
    "visual": run_visual,
    "text": run_text,
    "acoustic": run_acoustic,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fv2es_builders.train",
        description="Train a branch of the model, or its fusion. A run that was stopped goes on when given again.",
    )
    parser.add_argument("part", choices=tuple(RUNS))
    parser.add_argument("--preset", default="starter", help=f"one of {', '.join(PRESETS)} (default: %(default)s)")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the data sets")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="gets checkpoints, log and weights")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="folder with the text encoder's tokenizer.json")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--learning-rate", type=float, help="instead of the recipe's")
    parser.add_argument("--held-out", nargs="*", default=(), metavar="SPEAKER", help="acoustic: speakers to choose by")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: what follows the module's name on the command line; None: taken from the process.

    Returns:
        0 done, 1 the training failed, 2 bad usage.
    """
    console, errors = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        options = vars(_parser().parse_args(argv))
    except SystemExit as stop:  # argparse has said what is wrong, or printed its help
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE

    def log(line: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False)

    try:
        run, preset = RUNS[options.pop("part")], preset_by_name(options.pop("preset"))
        options["held_out"] = tuple(options["held_out"])
        result = run(RunRequest(preset=preset, **options), log)
    except BuildUsageError as error:
        errors.print(f"train: {error}", markup=False)
        return EXIT_USAGE
    except (BuildError, OSError) as error:
        errors.print(f"train: {error}", markup=False)
        return EXIT_FAILED
    for name, scores in result["scores"].items():
        figures = " ".join(f"{key} {value:.4g}" for key, value in scores.items() if not isinstance(value, dict))
        log(f"{name}: {figures}")
    return EXIT_DONE
