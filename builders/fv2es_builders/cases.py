"""Inputs on which every built graph is compared with its modules: random ones of several sizes, and real ones."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fv2es_builders.golden import Golden, load_golden
from fv2es_builders.modules.model import V2EM
from fv2es_builders.parity import Arrays
from fv2es_builders.utterances import token_arrays

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

NamedInputs = list[tuple[str, Arrays]]
"""Pairs of a case's name and its inputs, in the order of the module's arguments."""


def parity_inputs(model: V2EM, tokenizer: "Tokenizer", *, seed: int = 0) -> dict[str, NamedInputs]:
    """Inputs for each served part: several batch sizes and lengths, empty sequences, absent modalities, real ones."""
    rng = np.random.default_rng(seed)
    golden = load_golden()
    tokens = token_arrays(tokenizer, list(golden.words))
    return {
        "visual": _visual(rng, golden),
        "acoustic": _acoustic(rng, golden),
        "text": _text(rng, vocabulary=model.T.config.vocab_size, real=tokens),
        "fusion": _fusion(rng, model, golden, tokens),
    }


def _visual(rng: np.random.Generator, golden: Golden) -> NamedInputs:
    random = [
        (f"random [{rows}]", {"FACES": rng.integers(0, 256, (rows, 48, 48, 3), dtype=np.uint8)}) for rows in (1, 3, 8)
    ]
    return [*random, ("real", {"FACES": golden.faces})]


def _acoustic(rng: np.random.Generator, golden: Golden) -> NamedInputs:
    # The power of noise is distributed exponentially; 1000 times the mean of speech is a loud recording.
    random = [
        (f"random [{rows}]", {"PIECES": (scale * rng.exponential(size=(rows, 4, 32, 32))).astype(np.float32)})
        for rows, scale in ((1, 1.0), (3, 1e3))
    ]
    silence = np.zeros((2, 4, 32, 32), dtype=np.float32)
    return [*random, ("silent", {"PIECES": silence}), ("real", {"PIECES": golden.pieces})]


def _text(rng: np.random.Generator, *, vocabulary: int, real: Arrays) -> NamedInputs:
    cases: NamedInputs = []
    for rows, length in ((1, 2), (3, 17), (2, 100)):
        ids = rng.integers(0, vocabulary, (rows, length))
        mask = (np.arange(length) < rng.integers(2, length + 1, (rows, 1))).astype(np.int64)
        cases.append((f"random [{rows}, {length}]", {"INPUT_IDS": ids, "ATTENTION_MASK": mask}))
    return [*cases, ("real", real)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lengths:
    utterances: int
    faces: int
    pieces: int


def _fusion(rng: np.random.Generator, model: V2EM, golden: Golden, tokens: Arrays) -> NamedInputs:
    cases: NamedInputs = []
    dim, num_labels = model.preset.temporal.dim, len(model.preset.labels)
    for lengths in (
        _Lengths(utterances=1, faces=1, pieces=1),
        _Lengths(utterances=5, faces=12, pieces=25),
        _Lengths(utterances=2, faces=20, pieces=3),
    ):
        rows = 2 * lengths.utterances
        words_mask = rng.random(lengths.utterances) < 0.5
        inputs = {
            "VISUAL": rng.normal(size=(rows, dim)).astype(np.float32),
            **_places(rng, lengths.utterances, lengths.faces, rows, "FACE"),
            "ACOUSTIC": rng.normal(size=(rows, dim)).astype(np.float32),
            **_places(rng, lengths.utterances, lengths.pieces, rows, "PIECE"),
            "TEXT": rng.normal(size=(lengths.utterances, num_labels)).astype(np.float32),
            "WORDS_MASK": words_mask,
        }
        cases.append((f"random {lengths.utterances} x ({lengths.faces}, {lengths.pieces})", inputs))
    return [*cases, ("real", _real_fusion(model, golden, tokens))]


def _places(rng: np.random.Generator, utterances: int, length: int, rows: int, what: str) -> "dict[str, NDArray[Any]]":
    """Random index and mask; sequences of random length, the last one empty."""
    counts = rng.integers(0, length + 1, (utterances, 1))
    counts[-1] = 0
    mask = np.arange(length) < counts  # [U, length]
    return {f"{what}_INDEX": np.where(mask, rng.integers(0, rows, mask.shape), 0), f"{what}_MASK": mask}


@torch.no_grad()
def _real_fusion(model: V2EM, golden: Golden, tokens: Arrays) -> Arrays:
    """What the other parts make of the real input, in PyTorch."""
    utterances = len(golden.words)
    face_index = np.arange(len(golden.faces)).reshape(utterances, -1)  # [U, 2]
    counts = np.array(golden.piece_counts)[:, None]  # [U, 1]
    place = np.arange(counts.max())  # [M]
    piece_mask = place < counts  # [U, M]
    first = np.cumsum(counts, axis=0) - counts  # [U, 1]
    return {
        "VISUAL": model.visual.eval()(torch.from_numpy(golden.faces)).numpy(),
        "FACE_INDEX": face_index,
        "FACE_MASK": np.ones_like(face_index, dtype=bool),
        "ACOUSTIC": model.acoustic.eval()(torch.from_numpy(golden.pieces)).numpy(),
        "PIECE_INDEX": np.where(piece_mask, first + place, 0),
        "PIECE_MASK": piece_mask,
        "TEXT": model.text.eval()(*(torch.from_numpy(array) for array in tokens.values())).numpy(),
        "WORDS_MASK": np.ones(utterances, dtype=bool),
    }
