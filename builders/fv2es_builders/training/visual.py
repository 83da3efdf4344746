"""Training of the visual branch's convolutions on faces with one label each."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fv2es_builders.modules.visual import fold_trunk, visual_head, visual_trunk
from fv2es_builders.presets import Preset
from fv2es_builders.training.face_augment import FaceAugment, FaceAugmentSettings, normalised
from fv2es_builders.training.faces import Faces
from fv2es_builders.training.recipe import Recipe
from fv2es_builders.training.scores import Matrix, accuracy, unweighted_recall
from fv2es_builders.training.sequence import FeatureBank

_EVALUATION_BATCH = 512


class FaceNet(nn.Module):
    """Faces to logits through the branch's features and a linear layer that only training has.

    `V` and `v_flatten` are the model's own parts under its own names. What a face shows must lie in the features in
    a form that a linear layer can read; over time they are read by the sequence part, which is trained after this one.
    """

    def __init__(self, preset: Preset, dropout: float) -> None:
        super().__init__()
        self.V = visual_trunk(preset.visual)
        self.v_flatten = visual_head(preset.visual, preset.temporal.dim)
        self.probe = nn.Linear(preset.temporal.dim, len(preset.labels))
        self.dropout = nn.Dropout(dropout)

    def features(self, faces: Tensor) -> Tensor:
        """Normalised faces [F, 3, 48, 48] -> [F, dim]."""
        first, relu, last = self.v_flatten
        hidden = relu(first(self.dropout(self.V(faces).flatten(1))))  # [F, hidden]
        out: Tensor = last(self.dropout(hidden))
        return out

    def forward(self, faces: Tensor) -> Tensor:
        """Normalised faces [F, 3, 48, 48] -> logits [F, C]."""
        out: Tensor = self.probe(self.features(faces))
        return out


@dataclass(frozen=True, kw_only=True, slots=True)
class VisualSettings:
    """How faces are learnt. All in [0, 1) but the power."""

    dropout: float = 0.1
    smoothing: float = 0.05
    """Share of each target that is spread over all labels: FER2013's labels are right for about seven faces in ten."""
    mixed: float = 0.05
    """Share of batches in which pairs of faces are laid over one another, targets likewise (mixup)."""
    weight_power: float = 0.1
    """A label's weight is its number of faces to the power of minus this: 0 all alike, 1 every label counts the same."""
    taught: float = 0.85
    """With a teacher: share of each target that is the teacher's answer; the rest is the label."""
    taught_mixed: float = 0.75
    """With a teacher: `mixed`, since it can say what is seen in faces laid over one another, and has never seen them."""
    augment: FaceAugmentSettings = field(default_factory=FaceAugmentSettings)


class Teacher:
    """A trained net whose answers are learnt: the mean of those to a face and to its mirror image.

    That mean is right more often than one answer, and costs twice as much; what is learnt from it costs nothing when served.
    """

    def __init__(self, net: FaceNet) -> None:
        self._net = copy.deepcopy(net).eval()
        fold_trunk(self._net.V)
        self._net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's stubs

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """Normalised faces [B, 3, 48, 48] -> probabilities [B, C] that add up to 1."""
        answers = []
        for seen in (pictures, pictures.flip(-1)):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = self._net(seen.contiguous(memory_format=torch.channels_last))
            answers.append(logits.float().softmax(dim=1))
        return torch.stack(answers).mean(dim=0)


class VisualTask:
    """FER2013 or a set like it; see `loop.Task`."""

    def __init__(
        self,
        preset: Preset,
        recipe: Recipe,
        train: Faces,
        validation: Faces,
        settings: VisualSettings | None = None,
        teacher: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._settings, self._recipe, self._teacher = settings or VisualSettings(), recipe, teacher
        self._train, self._validation, self._num_labels = train, validation, len(preset.labels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self._module = FaceNet(preset, self._settings.dropout)
        self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's stubs
        counts = torch.bincount(train.labels, minlength=self._num_labels).clamp(min=1).float()
        weights = counts**-self._settings.weight_power
        self._weights = weights * counts.sum() / (weights * counts).sum()  # mean 1 over the faces

    @property
    def module(self) -> FaceNet:
        """What is trained."""
        return self._module

    @property
    def num_batches(self) -> int:
        """Whole batches in an epoch."""
        return max(1, len(self._train) // self._recipe.batch)

    def losses(self, epoch: int) -> Iterator[Callable[[], Tensor]]:
        """See `loop.Task`."""
        own, generator = self._settings, torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + epoch)
        augment = FaceAugment(generator, own.augment)
        order = torch.randperm(len(self._train), generator=generator)
        for start in range(0, self.num_batches * self._recipe.batch, self._recipe.batch):
            rows = self._train.rows(order[start : start + self._recipe.batch])
            targets = functional.one_hot(rows.labels, self._num_labels).float()  # [B, C]
            targets = targets * self._weights[rows.labels, None]
            pictures = augment(rows.images)  # [B, 3, 48, 48]
            if torch.rand(1, generator=generator) < (own.taught_mixed if self._teacher else own.mixed):
                share = 0.5 + 0.5 * torch.rand(1, generator=generator)
                other = torch.randperm(len(rows), generator=generator)
                pictures = torch.lerp(pictures[other], pictures, share)
                targets = torch.lerp(targets[other], targets, share)
            if self._teacher:
                targets = torch.lerp(targets, self._teacher(pictures), own.taught)
            yield lambda pictures=pictures, targets=targets: self._loss(pictures, targets)  # type: ignore[misc]

    def _loss(self, pictures: Tensor, targets: Tensor) -> Tensor:
        logits = self._module(pictures.contiguous(memory_format=torch.channels_last))
        smoothing = 0.0 if self._teacher else self._settings.smoothing  # a teacher's answers are soft as they are
        return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)

    def scores(self, module: nn.Module) -> Mapping[str, float]:
        """Accuracy, which decides, and unweighted recall."""
        probabilities = class_probabilities(module, self._validation.images)
        targets = np.eye(self._num_labels, dtype=np.float32)[self._validation.labels.numpy()]
        return {"score": accuracy(probabilities, targets), "uar": unweighted_recall(probabilities, targets)}


@torch.no_grad()
def class_probabilities(module: nn.Module, images: Tensor) -> Matrix:
    """Softmax over labels for grey pictures [N, 48, 48] uint8: float32 [N, C]."""
    rows = []
    for start in range(0, len(images), _EVALUATION_BATCH):
        batch = normalised(images[start : start + _EVALUATION_BATCH, None].float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = module(batch.contiguous(memory_format=torch.channels_last))
        rows.append(logits.float().softmax(dim=1))
    result: Matrix = torch.cat(rows).numpy()
    return result


@torch.no_grad()
def face_bank(module: FaceNet, faces: Faces, *, num_forms: int, seed: int) -> FeatureBank:
    """Features of faces in `num_forms` augmented forms; with 0 in one form, as they are. Changes `module` to evaluation."""
    module.eval()
    augment = FaceAugment(torch.Generator().manual_seed(seed))
    forms = []
    for _ in range(max(num_forms, 1)):
        rows = []
        for start in range(0, len(faces), _EVALUATION_BATCH):
            images = faces.images[start : start + _EVALUATION_BATCH]
            pictures = augment(images) if num_forms else normalised(images[:, None].float())
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rows.append(module.features(pictures.contiguous(memory_format=torch.channels_last)).float())
        forms.append(torch.cat(rows))
    return FeatureBank(features=torch.stack(forms), labels=faces.labels)
