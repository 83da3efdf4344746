"""Fine-tuning of the text branch on comments, of which each may have several labels."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from fv2es_builders.modules.text import TextEncoder, load_encoder
from fv2es_builders.presets import Preset
from fv2es_builders.training.comments import Comments
from fv2es_builders.training.recipe import Recipe
from fv2es_builders.training.scores import Matrix, best_thresholds, f1_by_label
from fv2es_builders.training.text_augment import augmented
from fv2es_pipelines import constants

_BUCKET_BATCHES = 40
_EVALUATION_BATCH = 64


class TextNet(nn.Module):
    """Tokens to logits; `T` and `t_out` are the model's own parts under its own names."""

    def __init__(self, preset: Preset, dropout: float) -> None:
        super().__init__()
        self.T = TextEncoder(preset.text)
        self.t_out = nn.Linear(self.T.config.hidden_size, len(preset.labels))
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[U, L] int64, [U, L] int64 -> logits [U, C]."""
        out: Tensor = self.t_out(self.dropout(self.T(input_ids, attention_mask)))
        return out


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSettings:
    """How words are learnt."""

    dropout: float = 0.1
    weight_power: float = 0.5
    """A label's positives weigh (negatives / positives) to this power: 0 all alike, 1 as much as its negatives."""
    head_factor: float = 10.0
    """The last layer's learning rate relative to the pretrained encoder's."""
    max_tokens: int = 64
    """Longer comments are cut off, in training alone; at most `constants.MAX_TOKENS`."""
    frozen_words: bool = True
    """Whether the vocabulary's embeddings stay as pretrained: half of a small encoder, of which a small set touches little."""


class TextTask:
    """GoEmotions or a set like it; see `loop.Task`."""

    def __init__(
        self,
        preset: Preset,
        recipe: Recipe,
        train: Comments,
        validation: Comments,
        *,
        tokenizer: Tokenizer,
        encoder_weights: dict[str, Tensor] | None,
        settings: TextSettings | None = None,
    ) -> None:
        self._settings, self._recipe, self._tokenizer = settings or TextSettings(), recipe, tokenizer
        self._train, self._validation = train, validation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self._module = TextNet(preset, self._settings.dropout)
        if encoder_weights is not None:
            load_encoder(self._module.T, encoder_weights)
        for name, parameter in self._module.named_parameters():
            if self._settings.frozen_words and name.endswith("word_embeddings.weight"):
                parameter.requires_grad = False
            if name.startswith("t_out."):
                parameter.rate_factor = self._settings.head_factor  # type: ignore[attr-defined]
        positives = train.targets.sum(dim=0).clamp(min=1)
        self._weights = ((len(train) - positives).clamp(min=1) / positives) ** self._settings.weight_power  # [C]

    @property
    def module(self) -> TextNet:
        """What is trained."""
        return self._module

    @property
    def num_batches(self) -> int:
        """Batches in an epoch, the last one perhaps smaller."""
        return -(-len(self._train) // self._recipe.batch)

    def losses(self, epoch: int) -> Iterator[Callable[[], Tensor]]:
        """See `loop.Task`."""
        chance = random.Random(self._recipe.seed * 1_000_003 + epoch)  # noqa: S311 - not for secrets
        texts = [augmented(text, chance) for text in self._train.texts]
        tokens = token_rows(self._tokenizer, texts, self._settings.max_tokens)
        for rows in _batches([len(row) for row in tokens], self._recipe.batch, chance):
            ids, mask = padded([tokens[row] for row in rows])
            targets = self._train.targets[rows]
            yield lambda ids=ids, mask=mask, targets=targets: self._loss(ids, mask, targets)  # type: ignore[misc]

    def _loss(self, ids: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        logits = self._module(ids, mask).float()
        return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=self._weights)

    def scores(self, module: nn.Module) -> Mapping[str, float]:
        """Macro-F1 at each label's best threshold, which decides, and at 0.5 of the weighted sigmoid."""
        logits = text_logits(module, self._tokenizer, self._validation.texts)
        probabilities: Matrix = 1 / (1 + np.exp(-logits))
        targets = self._validation.targets.numpy()
        best = f1_by_label(probabilities >= best_thresholds(probabilities, targets), targets)
        return {"score": float(best.mean()), "f1_at_half": float(f1_by_label(probabilities >= 0.5, targets).mean())}


def token_rows(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token numbers of each text, special tokens included, cut off so that the last special token stays."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    return [row if len(row) <= max_tokens else [*row[: max_tokens - 1], row[-1]] for row in rows]


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token numbers and mask, padded to the longest: both [U, L] int64."""
    length = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask


def _batches(lengths: Sequence[int], batch: int, chance: random.Random) -> list[list[int]]:
    """Rows in random order, but of similar length within a batch."""
    order = list(range(len(lengths)))
    chance.shuffle(order)
    batches = []
    for start in range(0, len(order), batch * _BUCKET_BATCHES):
        bucket = sorted(order[start : start + batch * _BUCKET_BATCHES], key=lambda row: lengths[row])
        batches += [bucket[first : first + batch] for first in range(0, len(bucket), batch)]
    chance.shuffle(batches)
    return batches


@torch.no_grad()
def text_logits(module: nn.Module, tokenizer: Tokenizer, texts: Sequence[str]) -> Matrix:
    """Logits of each text as served: float32 [N, C]."""
    tokens = token_rows(tokenizer, texts, constants.MAX_TOKENS)
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
    logits: list[Tensor] = [torch.empty(0)] * len(tokens)
    for start in range(0, len(order), _EVALUATION_BATCH):
        rows = order[start : start + _EVALUATION_BATCH]
        for row, own in zip(rows, module(*padded([tokens[row] for row in rows])), strict=True):
            logits[row] = own
    result: Matrix = torch.stack(logits).float().numpy()
    return result
