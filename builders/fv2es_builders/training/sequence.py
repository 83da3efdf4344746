"""Training of the part over time on features of single pictures, put together to sequences as films have them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from fv2es_builders.modules.temporal import TemporalEncoder
from fv2es_builders.presets import Preset
from fv2es_builders.training.recipe import Recipe
from fv2es_builders.training.scores import Matrix, accuracy, unweighted_recall


class SequenceNet(nn.Module):
    """Sequences of features to logits; `v_transformer` and `v_out` are the model's own parts under its own names."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.v_transformer = TemporalEncoder(preset.temporal)
        self.v_out = nn.Linear(preset.temporal.dim, len(preset.labels))

    def forward(self, sequences: Tensor, mask: Tensor) -> Tensor:
        """[U, N, dim], [U, N] bool -> logits [U, C]."""
        out: Tensor = self.v_out(self.v_transformer(sequences, mask))
        return out


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceSettings:
    """What sequences are made of. Shares lie in [0, 1]."""

    max_length: int = 20
    """Most pictures of a sequence: ten seconds of film."""
    single: float = 0.4
    """Share of sequences of one picture."""
    people: int = 3
    """Most different pictures of the label in a sequence; each is seen in several augmented forms."""
    strangers: float = 0.3
    """Share of the longer sequences in which up to a half of the pictures has another label, mostly the resting one."""
    resting: str = "neutral"
    """The label of faces between expressions; need not exist."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureBank:
    """Features of pictures, each in several augmented forms."""

    features: Tensor
    """[K, N, dim] float32."""
    labels: Tensor
    """[N] int64."""


class SequenceTask:
    """Sequences made from a bank; see `loop.Task`."""

    def __init__(
        self,
        preset: Preset,
        recipe: Recipe,
        train: FeatureBank,
        validation: FeatureBank,
        settings: SequenceSettings | None = None,
    ) -> None:
        self._settings, self._recipe = settings or SequenceSettings(), recipe
        self._train, self._validation, self._num_labels = train, validation, len(preset.labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self._module = SequenceNet(preset)
        self._by_label = [torch.nonzero(train.labels == label)[:, 0] for label in range(self._num_labels)]
        resting = self._settings.resting
        self._resting = self._by_label[preset.labels.index(resting)] if resting in preset.labels else torch.empty(0)

    @property
    def module(self) -> SequenceNet:
        """What is trained."""
        return self._module

    @property
    def num_batches(self) -> int:
        """Whole batches in an epoch, in which each picture leads one sequence."""
        return max(1, len(self._train.labels) // self._recipe.batch)

    def losses(self, epoch: int) -> Iterator[Callable[[], Tensor]]:
        """See `loop.Task`."""
        generator = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._train.labels), generator=generator)
        for start in range(0, self.num_batches * self._recipe.batch, self._recipe.batch):
            leaders = order[start : start + self._recipe.batch]
            sequences, mask = self._sequences(leaders, generator)
            targets = functional.one_hot(self._train.labels[leaders], self._num_labels).float()
            yield lambda sequences=sequences, mask=mask, targets=targets: functional.binary_cross_entropy_with_logits(  # type: ignore[misc]
                self._module(sequences, mask).float(), targets
            )

    def _sequences(self, leaders: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Sequences led by these pictures: features [U, N, dim] and mask [U, N]."""
        own, num = self._settings, len(leaders)
        lengths = torch.randint(2, own.max_length + 1, (num,), generator=generator)
        lengths = torch.where(torch.rand(num, generator=generator) < own.single, 1, lengths)  # [U]
        longest = int(lengths.max())
        mask = torch.arange(longest) < lengths[:, None]  # [U, N]
        pictures = self._companions(leaders, generator)  # [U, people]
        people = torch.randint(1, own.people + 1, (num, 1), generator=generator)
        which = (torch.rand(num, longest, generator=generator) * people).long()  # [U, N]
        rows = pictures.gather(1, which)
        share = 0.5 * torch.rand(num, 1, generator=generator)
        share = share * (torch.rand(num, 1, generator=generator) < own.strangers)
        strange = torch.rand(num, longest, generator=generator) < share
        strange[:, 0] = False  # the first is always the leader's own kind; the order has no effect
        rows = torch.where(strange, self._strangers((num, longest), generator), rows)
        form = torch.randint(len(self._train.features), rows.shape, generator=generator)
        return self._train.features[form, rows], mask

    def _companions(self, leaders: Tensor, generator: Generator) -> Tensor:
        """Each leader and other pictures of its label: [U, people]."""
        columns = [leaders]
        for _ in range(self._settings.people - 1):
            chance = torch.rand(len(leaders), generator=generator)
            columns.append(
                torch.stack(
                    [
                        kind[int(share * len(kind))]
                        for share, kind in zip(
                            chance.tolist(),
                            (self._by_label[label] for label in self._train.labels[leaders].tolist()),
                            strict=True,
                        )
                    ]
                )
            )
        return torch.stack(columns, dim=1)

    def _strangers(self, shape: tuple[int, int], generator: Generator) -> Tensor:
        """Pictures of any label, three in four of the resting one if there is one: [U, N]."""
        anyone = torch.randint(len(self._train.labels), shape, generator=generator)
        if not len(self._resting):
            return anyone
        resting = self._resting[torch.randint(len(self._resting), shape, generator=generator)]
        return torch.where(torch.rand(shape, generator=generator) < 0.75, resting, anyone)

    def scores(self, module: nn.Module) -> Mapping[str, float]:
        """Of single pictures: accuracy, which decides, and unweighted recall."""
        logits = single_logits(module, self._validation.features[0])
        targets = np.eye(self._num_labels, dtype=np.float32)[self._validation.labels.numpy()]
        return {"score": accuracy(logits, targets), "uar": unweighted_recall(logits, targets)}


@torch.no_grad()
def single_logits(module: nn.Module, features: Tensor) -> Matrix:
    """Logits of sequences of one: features [N, dim] -> float32 [N, C]."""
    mask = torch.ones(len(features), 1, dtype=torch.bool)
    result: Matrix = module(features[:, None], mask).float().numpy()
    return result
