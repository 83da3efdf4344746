"""The command `python -m fv2es_builders.train {visual|acoustic|text|fusion}`."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from fv2es_builders.errors import BuildError, BuildUsageError
from fv2es_builders.presets import PRESETS, Preset, preset_by_name
from fv2es_builders.training.branches import Part
from fv2es_builders.training.loop import Log
from fv2es_builders.training.request import RunRequest
from fv2es_builders.training.runs import run_acoustic, run_fusion, run_text, run_visual
from fv2es_builders.training.whole import run_utterances

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

ALONE: Final[Mapping[Part, Callable[[RunRequest, Log], dict[str, Any]]]] = {
    "visual": run_visual,
    "acoustic": run_acoustic,
    "text": run_text,
    "fusion": run_fusion,
}
"""Runs for presets whose branches are trained on sets of their own."""

WHOLE: Final = ("fv2es-iemocap", "fv2es-mosei")
"""Presets that are trained on sets of utterances, which have all modalities."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fv2es_builders.train",
        description="Train a branch of the model, or its fusion. A run that was stopped goes on when given again.",
    )
    parser.add_argument("part", choices=tuple(ALONE))
    parser.add_argument("--preset", default="starter", help=f"one of {', '.join(PRESETS)} (default: %(default)s)")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the data sets")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="gets checkpoints, log and weights")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="folder with the text encoder's tokenizer.json")
    parser.add_argument(
        "--start",
        type=Path,
        metavar="PATH",
        help="best.safetensors of another run to start from; visual: or a repository; fusion: a repository that answers for text and faces",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="FILE",
        help="visual: best.safetensors of another run to learn from besides the labels",
    )
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--learning-rate", type=float, help="instead of the recipe's")
    parser.add_argument(
        "--held-out", action="append", default=[], metavar="SPEAKER", help="EmoDB: a speaker to judge and calibrate by"
    )
    parser.add_argument(
        "--branch",
        dest="branches",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="output of an earlier run: fusion, a branch; acoustic, one with speakers held out",
    )
    parser.add_argument("--encoder", type=Path, metavar="FILE", help="pretrained weights of the text encoder")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where faces of utterances, or what is heard of sentences, are kept"
    )
    parser.add_argument(
        "--published-split", action="store_true", help="IEMOCAP: the published lists, which share speakers"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    return parser


def _request(preset: Preset, options: dict[str, Any]) -> RunRequest:
    plain: dict[str, Any] = {name: tuple(own) if isinstance(own, list) else own for name, own in options.items()}
    return RunRequest(preset=preset, **plain)


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
        part, preset = options.pop("part"), preset_by_name(options.pop("preset"))
        run = run_utterances(part) if preset.name in WHOLE else ALONE[part]
        result = run(_request(preset, options), log)
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
