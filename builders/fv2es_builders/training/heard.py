"""What the pretrained speech encoder hears in sentences and in sounds without a voice, each in several augmented forms.

The encoder is not trained, so this is computed once, and kept for the runs that leave different speakers out.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from fv2es_builders.modules.model import weights_sha256
from fv2es_builders.training.backgrounds import Backgrounds
from fv2es_builders.training.codecs import coded_variants
from fv2es_builders.training.loop import Log
from fv2es_builders.training.sound_augment import SoundAugment, SoundAugmentSettings
from fv2es_builders.training.spectrum import mel_pieces

NUM_FORMS: Final = 11
"""Of each sentence: as recorded, and ten augmented ones."""
NUM_BACKGROUNDS: Final = 240
"""Sounds without a voice, each augmented in one way."""
_SEED: Final = 0
"""The same in all runs, so that they share what is kept."""
_BATCH: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Heard:
    """Features of all pieces of N sounds in K forms."""

    features: Tensor
    """[P, D] float16, sound by sound, and in each form by form."""
    counts: Tensor
    """[N, K] int64, pieces of each form."""

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def num_forms(self) -> int:
        """K."""
        return self.counts.shape[1]

    def of(self, sound: int, form: int) -> Tensor:
        """One form of one sound: [p, D] float32."""
        counts, row = self.counts.flatten(), sound * self.num_forms + form
        first = int(counts[:row].sum())
        return self.features[first : first + int(counts[row])].float()

    def means(self) -> Tensor:
        """Mean of each form of each sound over its pieces: [N, K, D] float32."""
        rows = torch.repeat_interleave(torch.arange(self.counts.numel()), self.counts.flatten())  # [P]
        sums = torch.zeros(self.counts.numel(), self.features.shape[1]).index_add(0, rows, self.features.float())
        return (sums / self.counts.reshape(-1, 1)).reshape(*self.counts.shape, -1)

    def rows(self, index: Sequence[int]) -> "Heard":
        """Some of the sounds."""
        return _joined([[self.of(sound, form) for form in range(self.num_forms)] for sound in index])


def heard_sentences(trunk: nn.Module, waves: Sequence[Tensor], cache: Path, log: Log) -> Heard:
    """Sentences in `NUM_FORMS` forms, the first as recorded; from the folder `cache` if they are kept there."""

    def make() -> list[list[Tensor]]:
        augment, rows = SoundAugment(Generator().manual_seed(_SEED)), []
        for number, wave in enumerate(waves):
            variants = coded_variants(wave)
            forms = [mel_pieces(wave), *(augment(variants) for _ in range(NUM_FORMS - 1))]
            rows.append([_features(trunk, pieces) for pieces in forms])
            if number % 50 == 49:
                log(f"{number + 1} of {len(waves)} sentences heard")
        return rows

    return _kept(cache, f"{NUM_FORMS}", trunk, waves, make)


def heard_backgrounds(trunk: nn.Module, cache: Path) -> Heard:
    """`NUM_BACKGROUNDS` sounds in one form; from the folder `cache` if they are kept there."""

    def make() -> list[list[Tensor]]:
        generator = Generator().manual_seed(_SEED)
        background, augment = Backgrounds(generator), SoundAugment(generator)
        return [[_features(trunk, augment([background()]))] for _ in range(NUM_BACKGROUNDS)]

    return _kept(cache, f"backgrounds {NUM_BACKGROUNDS}", trunk, (), make)


@torch.no_grad()
def _features(trunk: nn.Module, pieces: Tensor) -> Tensor:
    return torch.cat([trunk(part) for part in torch.split(pieces, _BATCH)])


def _kept(
    cache: Path, what: str, trunk: nn.Module, waves: Sequence[Tensor], make: Callable[[], list[list[Tensor]]]
) -> Heard:
    digest = hashlib.sha256(f"{what} {_SEED} {SoundAugmentSettings()} {weights_sha256(trunk)}".encode())
    for wave in waves:
        digest.update(wave.numpy().tobytes())
    path = cache / f"heard-{digest.hexdigest()[:16]}.safetensors"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        made, part = _joined(make()), path.with_suffix(".part")
        save_file({"features": made.features, "counts": made.counts}, part)
        part.replace(path)
    return Heard(**load_file(path))


def _joined(rows: Sequence[Sequence[Tensor]]) -> Heard:
    return Heard(
        features=torch.cat([form for row in rows for form in row]).half(),
        counts=torch.tensor([[len(form) for form in row] for row in rows]),
    )
