"""Training of the acoustic branch on spoken sentences with one label each, pieces and sequence together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fv2es_builders.modules.acoustic import Nest, acoustic_head, net_input
from fv2es_builders.modules.model import acoustic_size
from fv2es_builders.modules.temporal import TemporalEncoder
from fv2es_builders.presets import AcousticSize, Preset
from fv2es_builders.training.backgrounds import Backgrounds
from fv2es_builders.training.codecs import coded_variants
from fv2es_builders.training.recipe import Recipe
from fv2es_builders.training.scores import Matrix, accuracy, unweighted_recall
from fv2es_builders.training.sound_augment import SoundAugment, SoundAugmentSettings
from fv2es_builders.training.spectrum import mel_pieces
from fv2es_builders.training.speech import Speech

UNKNOWN_LOGIT: Final = -1e4
"""Of a label that the data set does not have, in the softmax over labels in training."""

_LEVEL_PULL: Final = 0.05
"""Weight of the squared mean of a row's logits in the loss. The softmax leaves that mean open; pulled to zero it is the same for
all rows, so that a sound that says nothing gets the same logits whatever it is. Ours."""


class SoundNet(nn.Module):
    """Pieces to logits. `A`, `a_flatten`, `a_transformer` and `a_out` are the model's own parts under its own names.

    `probe` reads the mean of the features by a linear layer, in training alone: a short way for gradients to the trunk.
    """

    def __init__(self, preset: Preset, dropout: float) -> None:
        super().__init__()
        dim, num_labels = preset.temporal.dim, len(preset.labels)
        size = acoustic_size(preset, AcousticSize)
        self.sound_input = size.sound_input
        self.A = nn.Sequential(Nest(size))
        self.a_flatten = acoustic_head(size, dim)
        self.a_transformer = TemporalEncoder(preset.temporal)
        self.a_out = nn.Linear(dim, num_labels)
        self.probe = nn.Linear(dim, num_labels)
        self.dropout = nn.Dropout(dropout)

    def features(self, pieces: Tensor) -> Tensor:
        """Power [P, 4, 32, 32] -> [P, dim]."""
        first, relu, last = self.a_flatten
        maps = self.A(net_input(pieces, self.sound_input))  # [P, last dim, 8, 8]
        out: Tensor = last(self.dropout(relu(first(self.dropout(maps.flatten(1))))))
        return out

    def forward(self, pieces: Tensor, index: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of sequences and of the probe.

        Args:
            pieces: [P, 4, 32, 32] power.
            index: [U, M] int64, row of `pieces` at each place.
            mask: [U, M] bool, true where the place holds a piece.

        Returns:
            [U, C] and [U, C].
        """
        sequences = functional.embedding(index, self.features(pieces).float())  # [U, M, dim]
        sequences = torch.where(mask.unsqueeze(-1), sequences, 0.0)
        mean = sequences.sum(dim=1) / mask.sum(dim=1, keepdim=True)  # [U, dim]
        return self.a_out(self.a_transformer(sequences, mask)), self.probe(mean)


@dataclass(frozen=True, kw_only=True, slots=True)
class AcousticSettings:
    """How sound is learnt."""

    dropout: float = 0.2
    smoothing: float = 0.05
    """Share of each target that is spread over all labels the set has."""
    weight_power: float = 0.5
    """A label's weight is its number of sentences to the power of minus this."""
    probe_share: float = 0.5
    """Share of the probe in the loss."""
    backgrounds: int = 2
    """Sounds without a voice that each step adds; their target is every label as likely as it is in training."""
    repeats: int = 1
    """How often an epoch passes over the set, each time augmented anew."""
    augment: SoundAugmentSettings = field(default_factory=SoundAugmentSettings)


class AcousticTask:
    """EmoDB or a set like it; see `loop.Task`."""

    def __init__(
        self,
        preset: Preset,
        recipe: Recipe,
        train: Speech,
        validation: Speech,
        settings: AcousticSettings | None = None,
    ) -> None:
        self._settings, self._recipe = settings or AcousticSettings(), recipe
        self._train, self._validation, self._num_labels = train, validation, len(preset.labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self._module = SoundNet(preset, self._settings.dropout)
        self._variants = [coded_variants(wave) for wave in train.waves]
        counts = torch.bincount(train.labels, minlength=self._num_labels).float()
        self._known = counts > 0  # [C]
        weights = torch.where(self._known, counts.clamp(min=1) ** -self._settings.weight_power, 0.0)
        self._weights = weights * counts.sum() / (weights * counts).sum()
        self._rates = self._weights * counts / counts.sum()  # [C]

    @property
    def module(self) -> SoundNet:
        """What is trained."""
        return self._module

    @property
    def known(self) -> Tensor:
        """[C] bool: the labels that the training data have."""
        return self._known

    @property
    def num_batches(self) -> int:
        """Whole batches in an epoch."""
        return max(1, len(self._train) * self._settings.repeats // self._recipe.batch)

    def losses(self, epoch: int) -> Iterator[Callable[[], Tensor]]:
        """See `loop.Task`."""
        generator = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + epoch)
        augment, background = SoundAugment(generator, self._settings.augment), Backgrounds(generator)
        order = torch.cat(
            [torch.randperm(len(self._train), generator=generator) for _ in range(self._settings.repeats)]
        ).tolist()
        for start in range(0, self.num_batches * self._recipe.batch, self._recipe.batch):
            rows = order[start : start + self._recipe.batch]
            voiceless = [augment([background()]) for _ in range(self._settings.backgrounds)]
            batch = sequences_of([*(augment(self._variants[row]) for row in rows), *voiceless])
            targets, weights = self._targets(self._train.labels[rows])
            yield lambda batch=batch, targets=targets, weights=weights: self._loss(batch, targets, weights)  # type: ignore[misc]

    def _targets(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of sentences with these labels, and of the sounds without a voice after them: targets [U, C], weights [U]."""
        known = self._known.float()
        own = functional.one_hot(labels, self._num_labels).float()
        own = torch.lerp(own, (known / known.sum()).expand_as(own), self._settings.smoothing)
        num = self._settings.backgrounds
        return torch.cat([own, self._rates.expand(num, -1)]), torch.cat([self._weights[labels], torch.ones(num)])

    def _loss(self, batch: tuple[Tensor, Tensor, Tensor], targets: Tensor, weights: Tensor) -> Tensor:
        sequence_logits, probe_logits = self._module(*batch)
        share = self._settings.probe_share
        return (1 - share) * self._cross_entropy(sequence_logits, targets, weights) + share * self._cross_entropy(
            probe_logits, targets, weights
        )

    def _cross_entropy(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Over one choice among the labels, and a pull of each row's mean logit to zero, see `_LEVEL_PULL`: scalar."""
        known, logits = self._known.float(), logits.float()
        chances = functional.log_softmax(logits.masked_fill(~self._known, UNKNOWN_LOGIT), dim=1)
        choice = -(targets * chances * known).sum(dim=1)  # [U]
        mean = (logits * known).sum(dim=1) / known.sum()
        return ((choice + _LEVEL_PULL * mean.square()) * weights).mean()

    def _cross_entropies(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the labels that occur of the mean over their rows: scalar."""
        own = functional.cross_entropy(logits.masked_fill(~self._known, UNKNOWN_LOGIT), labels, reduction="none")
        return torch.stack([own[labels == label].mean() for label in labels.unique().tolist()]).mean()  # type: ignore[no-untyped-call]

    def scores(self, module: nn.Module) -> Mapping[str, float]:
        """Mean log-likelihood over labels, which decides where the best epoch is kept; unweighted recall of sequence and probe; accuracy.

        Recall moves in jumps: two speakers of EmoDB may have one sentence of a label.
        """
        sequence_logits, probe_logits = sound_logits(module, self._validation.waves)
        targets = np.eye(self._num_labels, dtype=np.float32)[self._validation.labels.numpy()]
        known = self._known.numpy()
        sequence, probe = (np.where(known, own, -np.inf).astype(np.float32) for own in (sequence_logits, probe_logits))
        return {
            "score": -float(self._cross_entropies(torch.from_numpy(sequence_logits), self._validation.labels)),
            "uar": unweighted_recall(sequence, targets),
            "probe_uar": unweighted_recall(probe, targets),
            "accuracy": accuracy(sequence, targets),
        }


def sequences_of(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Pieces of several waves as flat rows [P, 4, 32, 32], index [U, M] int64 and mask [U, M] bool."""
    counts = torch.tensor([len(part) for part in parts])
    mask = torch.arange(int(counts.max())) < counts[:, None]  # [U, M]
    firsts = counts.cumsum(dim=0) - counts
    index = torch.where(mask, firsts[:, None] + torch.arange(mask.shape[1]), 0)
    return torch.cat(list(parts)), index, mask


@torch.no_grad()
def sound_logits(module: nn.Module, waves: Sequence[Tensor]) -> tuple[Matrix, Matrix]:
    """Logits of each wave by sequence and by probe: float32 [N, C] twice."""
    rows = []
    for start in range(0, len(waves), 16):
        batch = sequences_of([mel_pieces(wave) for wave in waves[start : start + 16]])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rows.append([own.float() for own in module(*batch)])
    sequence, probe = (torch.cat(own).numpy() for own in zip(*rows, strict=True))
    return sequence, probe
