"""The nets in eager PyTorch, as the original runs them."""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import tokenizers
import torch
from torch import Tensor, nn

from benchmarks.peers.mtcnn import Floats, Net
from benchmarks.peers.nets import Features
from benchmarks.peers.weights import modules_of, read_manifest
from fv2es_builders.detector import NETS, DetectorNet
from fv2es_builders.graphs import TOKENIZER_PATH
from fv2es_pipelines.constants import MAX_TOKENS

_NOTHING: Final = torch.zeros(1, dtype=torch.int64)


class TorchNets:
    """See `benchmarks.peers.nets.Nets`. Words are padded to 100 tokens, as the original does."""

    def __init__(self, repository: Path, *, num_threads: int) -> None:
        """Load.

        Args:
            repository: whose weights.
            num_threads: of PyTorch, for all of this process.

        Raises:
            RepositoryUnusable, AssetError: as `modules_of`.
        """
        torch.set_num_threads(num_threads)
        self.labels = tuple(read_manifest(repository)["labels"])
        self._modules = modules_of(repository)
        self.detector = {
            str(name): _detector(DetectorNet(name).eval().requires_grad_(requires_grad=False)) for name in NETS
        }
        for module in self._modules.values():
            module.requires_grad_(requires_grad=False)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(repository / TOKENIZER_PATH))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding(length=MAX_TOKENS)

    def visual(self, faces: npt.NDArray[np.uint8]) -> Features:
        """As `Nets.visual`."""
        return self._modules["visual"](torch.from_numpy(faces))

    def acoustic(self, pieces: Tensor) -> Features:
        """As `Nets.acoustic`."""
        return self._modules["acoustic"](pieces)

    def text(self, words: str) -> Features:
        """As `Nets.text`: [1, C]."""
        encoding = self._tokenizer.encode(words.strip())
        return self._modules["text"](torch.tensor([encoding.ids]), torch.tensor([encoding.attention_mask]))

    def fuse(self, visual: Features | None, acoustic: Features | None, text: Features | None) -> tuple[Floats, Floats]:
        """As `Nets.fuse`."""
        words = torch.zeros(1, len(self.labels)) if text is None else text
        _, probabilities, modality_logits, _ = self._modules["fusion"](
            *_sequence(visual), *_sequence(acoustic), words, torch.tensor([text is not None])
        )
        return probabilities[0].numpy(), modality_logits[0].numpy()


def _sequence(rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [n, 64] with their places and mask, each [1, n]; where there are none, one row that is masked out."""
    if rows is None:
        return torch.zeros(1, 64), _NOTHING[None], torch.zeros(1, 1, dtype=torch.bool)
    return rows, torch.arange(len(rows))[None], torch.ones(1, len(rows), dtype=torch.bool)


def _detector(module: nn.Module) -> Net:
    def run(images: Floats) -> tuple[Floats, Floats]:
        probability, offsets = module(torch.from_numpy(images))
        return probability.numpy(), offsets.numpy()

    return run
