"""Training of the acoustic branch on spoken sentences with one label each, on what a pretrained encoder hears in them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from fv2es_builders.modules.model import acoustic_size
from fv2es_builders.modules.speech_acoustic import Centre
from fv2es_builders.modules.temporal import EncoderLayer, TemporalEncoder
from fv2es_builders.presets import Preset, SpeechAcousticSize
from fv2es_builders.training.heard import Heard
from fv2es_builders.training.recipe import Recipe
from fv2es_builders.training.scores import Matrix, accuracy, unweighted_recall

UNKNOWN_LOGIT: Final = -1e4
"""Of a label that the data set does not have, in the softmax over labels in training."""

_VOICELESS: Final = 0.5
"""Share of a label's rate that it is as likely as where there is no voice: a little less than nothing is learnt there, so that the
offsets of the calibration make a vote for no label. Ours."""

_STEADY: Final = 8.0
"""Size of the features that say nothing at the start: far above the others, so that layer norms hardly bend these."""


class SoundNet(nn.Module):
    """What the encoder hears to logits. `a_transformer` and `a_out` are the model's own parts, `a_flatten` is made by `served_head`.

    `mean` and `deviation` are those of features in training, and `probe` reads the mean over pieces by a linear layer: in training
    alone.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, preset: Preset, dropout: float) -> None:
        super().__init__()
        dim, num_labels = preset.temporal.dim, len(preset.labels)
        size = acoustic_size(preset, SpeechAcousticSize)
        self.register_buffer("mean", torch.zeros(2 * size.dim))
        self.register_buffer("deviation", torch.ones(2 * size.dim))
        self.a_flatten = nn.Sequential(nn.Linear(2 * size.dim, dim))
        self.a_transformer = TemporalEncoder(preset.temporal)
        self.a_out = nn.Linear(dim, num_labels)
        self.probe = nn.Linear(dim, num_labels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, heard: Tensor, index: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of sequences and of the probe.

        Args:
            heard: [P, D], the encoder's features of each piece.
            index: [U, M] int64, row of `heard` at each place.
            mask: [U, M] bool, true where the place holds a piece.

        Returns:
            [U, C] and [U, C].
        """
        features = self.a_flatten(self.dropout((heard - self.mean) / self.deviation))  # [P, dim]
        sequences = functional.embedding(index, features)  # [U, M, dim]
        sequences = torch.where(mask.unsqueeze(-1), sequences, 0.0)
        mean = sequences.sum(dim=1) / mask.sum(dim=1, keepdim=True)  # [U, dim]
        return self.a_out(self.a_transformer(sequences, mask)), self.probe(mean)

    @torch.no_grad()
    def start(self, weight: Tensor, bias: Tensor) -> None:
        """Answer as the mean over pieces of a linear layer on standardised features would: weight [C, D], bias [C].

        The first C features are its logits, the others a steady pattern. The part over time starts as a mean: its first layer
        attends to all places alike, all else that it adds is zero.
        """
        num_labels, dim = len(weight), self.a_out.in_features
        (head,) = (layer for layer in self.a_flatten if isinstance(layer, nn.Linear))
        for tensor in (head.weight, self.a_out.weight, self.probe.weight, self.a_transformer.cls_emb.weight):
            tensor.zero_()
        head.weight[:num_labels] = weight
        head.bias[:num_labels] = bias
        steady = torch.ones(dim - num_labels)
        steady[1::2] = -1
        head.bias[num_labels:] = _STEADY * steady
        layers = [layer for layer in self.a_transformer.encoder.layers if isinstance(layer, EncoderLayer)]
        for number, layer in enumerate(layers):
            for tensor in (layer.self_attn.out_proj.weight, layer.linear2.weight, layer.linear2.bias):
                tensor.zero_()
            if number == 0:
                layer.self_attn.in_proj_weight[: 2 * dim] = 0
                layer.self_attn.in_proj_weight[2 * dim :] = torch.eye(dim)
                layer.self_attn.out_proj.weight.copy_(torch.eye(dim))
        deviation = torch.cat([torch.zeros(num_labels), _STEADY * steady]).std(correction=0)
        self.a_out.weight[:, :num_labels] = torch.eye(num_labels) * deviation
        self.a_out.bias.fill_(_STEADY * steady.sum() / dim)
        self.probe.weight[:, :num_labels] = torch.eye(num_labels)
        self.probe.bias.zero_()

    @torch.no_grad()
    def served_head(self) -> nn.Sequential:
        """The head as it is served, on features as they are: its numbers are those that FP16 has, so that storing costs nothing."""
        (head,) = (layer for layer in self.a_flatten if isinstance(layer, nn.Linear))
        centre, served = Centre(len(self.mean)), nn.Linear(len(self.mean), self.a_out.in_features)
        centre.mean.copy_(self.mean.half())
        served.weight.copy_((head.weight / self.deviation).half())
        served.bias.copy_((head.bias - served.weight @ (self.mean - centre.mean)).half())
        return nn.Sequential(centre, served)


@dataclass(frozen=True, kw_only=True, slots=True)
class AcousticSettings:
    """How sound is learnt."""

    dropout: float = 0.2
    """Of the encoder's features."""
    smoothing: float = 0.05
    """Share of each target that is spread over all labels the set has."""
    weight_power: float = 0.5
    """A label's weight is its number of sentences to the power of minus this."""
    probe_share: float = 0.3
    """Share of the probe in the loss."""
    backgrounds: int = 2
    """Sounds without a voice that each step adds; their target is every label half as likely as it is in training."""
    ridge: float = 1e-2
    """Of the linear layer that training starts from: half of this times the squared weights is added to its loss."""


class AcousticTask:
    """EmoDB or a set like it; see `loop.Task`. Starts from the linear layer with the least loss on means over pieces."""

    def __init__(
        self,
        preset: Preset,
        recipe: Recipe,
        train: tuple[Heard, Tensor],
        validation: tuple[Heard, Tensor],
        backgrounds: Heard,
        settings: AcousticSettings | None = None,
    ) -> None:
        """Sets are what is heard in N sentences, and their labels [N] int64."""
        self._settings, self._recipe = settings or AcousticSettings(), recipe
        (self._train, self._labels), self._validation, self._num_labels = train, validation, len(preset.labels)
        self._backgrounds = backgrounds
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self._module = SoundNet(preset, self._settings.dropout)
        counts = torch.bincount(self._labels, minlength=self._num_labels).float()
        self._known = counts > 0  # [C]
        weights = torch.where(self._known, counts.clamp(min=1) ** -self._settings.weight_power, 0.0)
        self._weights = weights * counts.sum() / (weights * counts).sum()
        self._voiceless = _VOICELESS * self._weights * counts / counts.sum()  # [C]
        self._start()

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
        return max(1, len(self._train) // self._recipe.batch)

    def _start(self) -> None:
        """Fit the linear layer on all forms and on as large a share of sounds without a voice as a step has."""
        means, silent = self._train.means(), self._backgrounds.means().flatten(0, 1)  # [N, K, D], [B, D]
        forms = means.shape[1]
        self._module.mean.copy_(means.mean(dim=(0, 1)))
        self._module.deviation.copy_(means.flatten(0, 1).std(dim=0).clamp(min=1e-4))
        inputs = (torch.cat([means.flatten(0, 1), silent]) - self._module.mean) / self._module.deviation
        own, own_weights = self._targets(self._labels, num_backgrounds=0)
        share = self._settings.backgrounds / self._recipe.batch * len(means) * forms / len(silent)
        targets = torch.cat([own.repeat_interleave(forms, dim=0), self._voiceless.expand(len(silent), -1)])
        weights = torch.cat([own_weights.repeat_interleave(forms), torch.full((len(silent),), share)])
        weight = torch.zeros(self._num_labels, inputs.shape[1], requires_grad=True)
        bias = torch.zeros(self._num_labels, requires_grad=True)
        search = torch.optim.LBFGS([weight, bias], max_iter=150, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            search.zero_grad()
            loss = self._cross_entropy(inputs @ weight.T + bias, targets, weights)
            loss = loss + 0.5 * self._settings.ridge * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        search.step(closure)  # type: ignore[no-untyped-call]
        self._module.start(weight.detach(), bias.detach())

    def losses(self, epoch: int) -> Iterator[Callable[[], Tensor]]:
        """See `loop.Task`."""
        generator = Generator().manual_seed(self._recipe.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._train), generator=generator).tolist()
        num = self._settings.backgrounds
        for start in range(0, self.num_batches * self._recipe.batch, self._recipe.batch):
            rows = order[start : start + self._recipe.batch]
            forms = torch.randint(self._train.num_forms, (len(rows),), generator=generator).tolist()
            silent = torch.randint(len(self._backgrounds), (num,), generator=generator).tolist()
            parts = [self._train.of(row, form) for row, form in zip(rows, forms, strict=True)]
            batch = sequences_of([*parts, *(self._backgrounds.of(row, 0) for row in silent)])
            targets, weights = self._targets(self._labels[rows], num_backgrounds=num)
            yield lambda batch=batch, targets=targets, weights=weights: self._loss(batch, targets, weights)  # type: ignore[misc]

    def _targets(self, labels: Tensor, *, num_backgrounds: int) -> tuple[Tensor, Tensor]:
        """Of sentences with these labels, and of the sounds without a voice after them: targets [U, C], weights [U]."""
        known = self._known.float()
        own = functional.one_hot(labels, self._num_labels).float()
        own = torch.lerp(own, (known / known.sum()).expand_as(own), self._settings.smoothing)
        targets = torch.cat([own, self._voiceless.expand(num_backgrounds, -1)])
        return targets, torch.cat([self._weights[labels], torch.ones(num_backgrounds)])

    def _loss(self, batch: tuple[Tensor, Tensor, Tensor], targets: Tensor, weights: Tensor) -> Tensor:
        sequence_logits, probe_logits = self._module(*batch)
        share = self._settings.probe_share
        return (1 - share) * self._cross_entropy(sequence_logits, targets, weights) + share * self._cross_entropy(
            probe_logits, targets, weights
        )

    def _cross_entropy(self, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Half over one choice among the labels, half of each label by itself, as logits are read when served: scalar.

        The second half gives the softmax, which leaves one number for all labels of a row open, its level.
        """
        known, logits = self._known.float(), logits.float()
        chances = functional.log_softmax(logits.masked_fill(~self._known, UNKNOWN_LOGIT), dim=1)
        alone = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        both = ((alone - targets * chances) * known).sum(dim=1)  # [U]
        return (0.5 * both * weights).mean()

    def _cross_entropies(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the labels that occur of the mean over their rows: scalar."""
        own = functional.cross_entropy(logits.masked_fill(~self._known, UNKNOWN_LOGIT), labels, reduction="none")
        return torch.stack([own[labels == label].mean() for label in labels.unique().tolist()]).mean()  # type: ignore[no-untyped-call]

    def scores(self, module: nn.Module) -> Mapping[str, float]:
        """Mean log-likelihood over labels; unweighted recall of sequence and probe; accuracy; on sentences as recorded.

        Recall moves in jumps: two speakers of EmoDB may have one sentence of a label.
        """
        heard, labels = self._validation
        sequence_logits, probe_logits = sound_logits(module, heard)
        targets = np.eye(self._num_labels, dtype=np.float32)[labels.numpy()]
        known = self._known.numpy()
        sequence, probe = (np.where(known, own, -np.inf).astype(np.float32) for own in (sequence_logits, probe_logits))
        return {
            "score": -float(self._cross_entropies(torch.from_numpy(sequence_logits), labels)),
            "uar": unweighted_recall(sequence, targets),
            "probe_uar": unweighted_recall(probe, targets),
            "accuracy": accuracy(sequence, targets),
        }


def sequences_of(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of several sounds one after the other [P, ...], index [U, M] int64 and mask [U, M] bool."""
    counts = torch.tensor([len(part) for part in parts])
    mask = torch.arange(int(counts.max())) < counts[:, None]  # [U, M]
    firsts = counts.cumsum(dim=0) - counts
    index = torch.where(mask, firsts[:, None] + torch.arange(mask.shape[1]), 0)
    return torch.cat(list(parts)), index, mask


@torch.no_grad()
def sound_logits(module: nn.Module, heard: Heard) -> tuple[Matrix, Matrix]:
    """Logits of each sound in its first form by sequence and by probe: float32 [N, C] twice."""
    rows = []
    for start in range(0, len(heard), 16):
        batch = sequences_of([heard.of(row, 0) for row in range(start, min(start + 16, len(heard)))])
        rows.append([own.float() for own in module(*batch)])
    sequence, probe = (torch.cat(own).numpy() for own in zip(*rows, strict=True))
    return sequence, probe
