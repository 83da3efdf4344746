"""What a run is asked to do."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fv2es_builders.presets import Preset
from fv2es_builders.training.recipe import Recipe


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
    start: Path | None = None
    """Weights of another run to start from, such as its `best.safetensors`; visual: or a repository. None: from the seed.
    Fusion: a repository that answers for the modalities without a run."""
    teacher: Path | None = None
    """Visual: weights of another run whose answers are learnt besides the labels; None: the labels alone."""
    held_out: tuple[str, ...] = ()
    """EmoDB: speakers to judge and calibrate by, and not to train on."""
    branches: tuple[Path, ...] = ()
    """Outputs of earlier runs. Fusion: the branches; acoustic: runs whose held-out speakers calibrate."""
    encoder: Path | None = None
    """Pretrained weights of the text encoder, safetensors by its own names; None: from the package that carries them."""
    cache: Path | None = None
    """Utterances: where their faces are kept; EmoDB: what is heard of its sentences; None: inside `output`."""
    published_split: bool = False
    """IEMOCAP: the published lists, which share speakers and dialogues between training and test; for comparisons alone."""

    def recipe(self, default: Recipe) -> Recipe:
        """The recipe with what is asked for instead."""
        own = {"epochs": self.epochs, "learning_rate": self.learning_rate, "seed": self.seed}
        return dataclasses.replace(default, **{name: value for name, value in own.items() if value is not None})  # type: ignore[arg-type]
