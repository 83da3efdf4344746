"""How long, how fast and from which seed: the numbers of a training run that do not depend on what is trained."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from fv2es_builders.errors import BuildUsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Numbers of one run."""

    epochs: int
    """Passes over the training data; >= 1."""
    batch: int
    """Samples in a step; >= 1."""
    learning_rate: float
    """The highest of the schedule; > 0."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with Nesterov momentum 0.9, or AdamW."""
    weight_decay: float = 5e-4
    """On kernels and matrices alone; biases, norms and embeddings of positions decay never."""
    warmup: float = 0.1
    """Share of all steps in which the learning rate rises, in [0, 1); then it falls along a cosine to zero."""
    average: float = 0.998
    """Decay of the running average of the weights, which is what is scored and kept; in [0, 1)."""
    patience: int = 10
    """Epochs without a better score after which the run ends, where the best is kept; >= 1."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights are kept. The last: nothing is chosen by validation data, which are then judged by alone."""
    max_gradient: float = 5.0
    """Longer gradients are shortened to this norm."""
    bfloat16: bool = False
    """Matrix products and convolutions in bfloat16; weights, norms and losses stay in float32."""
    seed: int = 0
    """Of start values, order, augmentation and dropout."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.patience) < 1:
            raise BuildUsageError(
                f"epochs={self.epochs}, batch={self.batch} and patience={self.patience} must each be at least 1"
            )
        if not (self.learning_rate > 0 and 0 <= self.warmup < 1 and 0 <= self.average < 1):
            raise BuildUsageError(
                f"learning_rate={self.learning_rate:g} must be > 0, warmup={self.warmup:g} and "
                f"average={self.average:g} must lie in [0, 1)"
            )

    def rate(self, step: int, num_steps: int) -> float:
        """Learning rate of a step, 0 <= step < num_steps: up in a line, down along a cosine."""
        rising = self.warmup * num_steps
        if step < rising:
            return self.learning_rate * (step + 1) / math.ceil(rising)
        done = (step - rising) / max(num_steps - rising, 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def as_json(self) -> dict[str, Any]:
        """The recipe as plain data, for logs and for comparing a checkpoint's with this one."""
        return dataclasses.asdict(self)
