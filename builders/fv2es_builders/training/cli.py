"""The command `python -m fv2es_builders.train {visual|acoustic|text|fusion}`."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from fv2es_builders.errors import BuildError, BuildUsageError
from fv2es_builders.presets import PRESETS, preset_by_name

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fv2es_builders.train", description="Train a branch of the model, or its fusion."
    )
    parser.add_argument("part", choices=("visual",))
    parser.add_argument("--preset", default="starter", help=f"one of {', '.join(PRESETS)} (default: %(default)s)")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the data sets")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="gets checkpoints, log and weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=45)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command: 0 done, 1 failed, 2 bad usage."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    try:
        from fv2es_builders.training.faces import halves, load_faces, without_copies
        from fv2es_builders.training.loop import fit
        from fv2es_builders.training.recipe import Recipe
        from fv2es_builders.training.visual import VisualTask

        preset = preset_by_name(options.preset)
        recipe = Recipe(epochs=options.epochs, batch=128, learning_rate=0.06, warmup=0.15, bfloat16=True, patience=options.epochs, seed=options.seed)
        held = load_faces(options.data / "fer2013" / "public_test.npz", preset.labels)
        train = without_copies(load_faces(options.data / "fer2013" / "training.npz", preset.labels), held)
        validation, _ = halves(held, seed=0)
        def log(line: str) -> None:
            print(time.strftime("%H:%M:%S"), line, flush=True)
        log(f"{len(train)} faces to train on, {len(validation)} to choose by")
        fit(VisualTask(preset, recipe, train, validation), recipe, options.output, log)
    except BuildUsageError as error:
        errors.print(f"train: {error}", markup=False)
        return EXIT_USAGE
    except (BuildError, OSError) as error:
        errors.print(f"train: {error}", markup=False)
        return EXIT_FAILED
    return EXIT_DONE
