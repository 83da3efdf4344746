"""The runs behind the command: which data, which recipe, which task."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fv2es_builders.assets import encoder_weights, load_tokenizer, tokenizer_file
from fv2es_builders.presets import Preset
from fv2es_builders.training.acoustic import AcousticTask
from fv2es_builders.training.comments import comment_halves, load_comments
from fv2es_builders.training.faces import halves, load_faces, without_copies
from fv2es_builders.training.loop import FitResult, Log, fit
from fv2es_builders.training.recipe import Recipe
from fv2es_builders.training.speech import load_emodb
from fv2es_builders.training.text import TextTask
from fv2es_builders.training.visual import VisualTask

SPLIT_SEED: Final = 0
"""Of every split of validation data into a half to choose by and a half to report: the same in all runs."""

VISUAL_RECIPE: Final = Recipe(epochs=45, batch=128, learning_rate=0.06, warmup=0.15, bfloat16=True, patience=45)
TEXT_RECIPE: Final = Recipe(
    epochs=3,
    batch=64,
    learning_rate=1.5e-4,
    optimizer="adamw",
    weight_decay=0.01,
    average=0.995,
    max_gradient=1.0,
    bfloat16=True,
)
ACOUSTIC_RECIPE: Final = Recipe(
    epochs=40,
    batch=16,
    learning_rate=1e-3,
    optimizer="adamw",
    weight_decay=0.05,
    average=0.99,
    max_gradient=1.0,
    patience=40,
    bfloat16=True,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """What a run is asked to do."""

    preset: Preset
    data: Path
    """Folder with the data sets, each in its own folder."""
    output: Path
    """Gets checkpoints, log and weights."""
    tokenizer: Path | None = None
    """Folder with tokenizer.json; None: from the package that carries it."""
    epochs: int | None = None
    """Instead of the recipe's."""
    learning_rate: float | None = None
    """Instead of the recipe's."""
    seed: int = 0
    held_out: tuple[str, ...] = ()
    """Speakers to choose by and not to train on."""

    def recipe(self, default: Recipe) -> Recipe:
        """The recipe with what is asked for instead."""
        own = {"epochs": self.epochs, "learning_rate": self.learning_rate, "seed": self.seed}
        return dataclasses.replace(default, **{name: value for name, value in own.items() if value is not None})  # type: ignore[arg-type]


def run_visual(request: RunRequest, log: Log) -> FitResult:
    """Train the convolutions on FER2013."""
    recipe = request.recipe(VISUAL_RECIPE)
    held_out = load_faces(request.data / "fer2013" / "public_test.npz", request.preset.labels)
    train = without_copies(load_faces(request.data / "fer2013" / "training.npz", request.preset.labels), held_out)
    choose, _ = halves(held_out, seed=SPLIT_SEED)
    log(f"{len(train)} faces to train on, {len(choose)} to choose by")
    return fit(VisualTask(request.preset, recipe, train, choose), recipe, request.output, log)


def run_text(request: RunRequest, log: Log) -> FitResult:
    """Fine-tune the text encoder on GoEmotions."""
    recipe, size = request.recipe(TEXT_RECIPE), request.preset.text
    tokenizer = load_tokenizer(tokenizer_file(size, request.tokenizer), vocabulary=size.config["vocab_size"])
    train = load_comments(request.data / "goemotions_ekman" / "train.tsv", request.preset.labels)
    choose, _ = comment_halves(
        load_comments(request.data / "goemotions_ekman" / "dev.tsv", request.preset.labels), seed=SPLIT_SEED
    )
    log(f"{len(train)} comments to train on, {len(choose)} to choose by")
    task = TextTask(request.preset, recipe, train, choose, tokenizer=tokenizer, encoder_weights=encoder_weights(size))
    return fit(task, recipe, request.output, log)


def run_acoustic(request: RunRequest, log: Log) -> FitResult:
    """Train the acoustic branch on EmoDB, without the speakers that are held out."""
    recipe = request.recipe(ACOUSTIC_RECIPE)
    train, choose = load_emodb(request.data / "emodb", request.preset.labels).parted(request.held_out)
    log(f"{len(train)} sentences to train on, {len(choose)} of speakers {', '.join(request.held_out)} to choose by")
    return fit(AcousticTask(request.preset, recipe, train, choose), recipe, request.output, log)
