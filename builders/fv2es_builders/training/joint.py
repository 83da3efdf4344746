"""Training on utterances that have pictures, sound and words: one branch alone, or the whole model through its fusion."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from fv2es_builders.modules.model import V2EM
from fv2es_builders.presets import MODALITIES
from fv2es_builders.training.branches import PARAMETERS, Part
from fv2es_builders.training.footage import Footage
from fv2es_builders.training.recipe import Recipe
from fv2es_builders.training.scores import Matrix, best_thresholds, f1_by_label
from fv2es_builders.training.spectrum import mel_pieces
from fv2es_builders.training.text import padded

TEXT_FACTOR: Final = 0.1
"""The pretrained text encoder's learning rate relative to all else. Source: MME2E's argument `text_lr_factor`."""

_EVALUATION_BATCH = 8


class JointTask:
    """Utterances through one branch or all; see `loop.Task`. An utterance without a modality is masked, never an error."""

    def __init__(
        self, model: V2EM, recipe: Recipe, train: Sequence[Footage], validation: Sequence[Footage], part: Part
    ) -> None:
        self._model, self._recipe, self._part = model, recipe, part
        self._train, self._validation = _usable(train, part), _usable(validation, part)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith(PARAMETERS[part])
            if name.startswith("T."):
                parameter.rate_factor = TEXT_FACTOR  # type: ignore[attr-defined]
        self._weights = torch.tensor(model.preset.pos_weight)

    @property
    def module(self) -> V2EM:
        """What is trained."""
        return self._model

    @property
    def num_batches(self) -> int:
        """Batches in an epoch, the last one perhaps smaller."""
        return -(-len(self._train) // self._recipe.batch)

    def losses(self, epoch: int) -> Iterator[Callable[[], Tensor]]:
        """See `loop.Task`."""
        generator = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self._train), generator=generator).tolist()
        for start in range(0, len(order), self._recipe.batch):
            rows = [self._train[row] for row in order[start : start + self._recipe.batch]]
            yield lambda rows=rows: self._loss(rows, generator)  # type: ignore[misc]

    def _loss(self, rows: Sequence[Footage], generator: Generator) -> Tensor:
        targets = torch.stack([row.targets for row in rows])
        logits = part_logits(self._model, rows, self._part, generator=generator)
        return functional.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=self._weights)

    def scores(self, module: nn.Module) -> Mapping[str, float]:
        """Macro-F1 at each label's best threshold, which decides; mean accuracy over labels, and that of calling none."""
        logits, targets = judged(module, self._validation, self._part)
        probabilities = 1 / (1 + np.exp(-logits))
        called = probabilities >= best_thresholds(probabilities, targets)
        return {
            "score": float(f1_by_label(called, targets).mean()),
            "accuracy": float((called == (targets > 0)).mean()),
            "accuracy_of_none": float(1 - targets.mean()),
        }


def balanced_weights(train: Sequence[Footage]) -> tuple[float, ...]:
    """Weight of each label's positives, negatives / positives in the training data: one for each label."""
    targets = torch.stack([row.targets for row in train])
    positives = targets.sum(dim=0).clamp(min=1)
    weights: list[float] = ((len(targets) - positives).clamp(min=1) / positives).tolist()
    return tuple(weights)


def _usable(rows: Sequence[Footage], part: Part) -> list[Footage]:
    """Those that have what the part needs; all of them for the fusion, where absence is masked."""
    if part == "visual":
        return [row for row in rows if len(row.faces)]
    if part == "acoustic":
        return [row for row in rows if row.wave is not None]
    return [row for row in rows if row.tokens] if part == "text" else list(rows)


@torch.no_grad()
def judged(module: nn.Module, rows: Sequence[Footage], part: Part) -> tuple[Matrix, Matrix]:
    """Logits and targets of utterances: float32 [N, C] both."""
    logits = [
        part_logits(module, rows[start : start + _EVALUATION_BATCH], part).float()
        for start in range(0, len(rows), _EVALUATION_BATCH)
    ]
    return torch.cat(logits).numpy(), torch.stack([row.targets for row in rows]).numpy()


def part_logits(model: nn.Module, rows: Sequence[Footage], part: Part, *, generator: Generator | None = None) -> Tensor:
    """Logits of one branch or of the fusion: [U, C]. With a generator, faces and levels of sound are augmented."""
    if not isinstance(model, V2EM):
        raise TypeError(f"{type(model).__name__} is not a V2EM")
    wanted = MODALITIES if part == "fusion" else (part,)
    faces = [row.faces if "visual" in wanted else row.faces[:0] for row in rows]
    waves = [row.wave if "acoustic" in wanted else None for row in rows]
    tokens = [row.tokens if "text" in wanted else () for row in rows]
    if generator is not None:
        faces = [_seen(own, generator) for own in faces]
        waves = [None if own is None else own * float(torch.rand(1, generator=generator) + 0.5) for own in waves]
    pieces = [None if own is None else mel_pieces(own) for own in waves]
    face_rows, face_index, face_mask = _flat([own if len(own) else None for own in faces])
    piece_rows, piece_index, piece_mask = _flat(pieces)
    words_mask = torch.tensor([bool(own) for own in tokens])
    nothing = torch.zeros(
        1, model.preset.temporal.dim
    )  # a branch without input is not run: its norms would learn from it
    logits, _, modality_logits, _ = model.fusion(
        nothing if face_rows is None else model.visual(face_rows).float(),
        face_index,
        face_mask,
        nothing if piece_rows is None else model.acoustic(piece_rows).float(),
        piece_index,
        piece_mask,
        model.text(*padded([own or (0,) for own in tokens])).float()
        if words_mask.any()
        else torch.zeros(len(rows), len(model.preset.labels)),
        words_mask,
    )
    chosen: Tensor = logits if part == "fusion" else modality_logits[:, MODALITIES.index(part)]
    return chosen


def _flat(parts: Sequence[Tensor | None]) -> tuple[Tensor | None, Tensor, Tensor]:
    """Rows of all utterances (None: there are none), index [U, N >= 1] and mask [U, N]."""
    counts = torch.tensor([0 if part is None else len(part) for part in parts])
    mask = torch.arange(max(1, int(counts.max()))) < counts[:, None]  # [U, N]
    firsts = counts.cumsum(dim=0) - counts
    index = torch.where(mask, firsts[:, None] + torch.arange(mask.shape[1]), 0)
    present = [part for part in parts if part is not None]
    return (torch.cat(present) if present else None), index, mask


def _seen(faces: Tensor, generator: Generator) -> Tensor:
    """All faces of an utterance mirrored or not, moved by up to 2 px, a little brighter or darker: [n, 48, 48, 3] uint8."""
    if torch.rand(1, generator=generator) < 0.5:
        faces = faces.flip(2)
    moved = torch.randint(-2, 3, (2,), generator=generator).tolist()
    light = 0.8 + 0.4 * torch.rand(1, generator=generator)
    return (faces.roll(moved, dims=(1, 2)).float() * light).clamp(0, 255).to(torch.uint8)
