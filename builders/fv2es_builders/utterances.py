"""Utterances through all four graphs, as a server would put them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fv2es_builders.parity import Arrays
from fv2es_pipelines import constants

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

Runner = Callable[[Arrays], Arrays]
"""Executes a graph: inputs by name -> outputs by name."""

BATCH: Final = 8
"""Utterances in one request."""

ROWS: Final[Mapping[str, int]] = {"FACES": 32, "PIECES": 8}
"""Rows given to a net at once, as when serving."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """What a model is asked about: any of the three may be empty."""

    name: str
    """For people."""
    faces: "NDArray[np.uint8]"
    """[N, 48, 48, 3] RGB."""
    pieces: "NDArray[np.float32]"
    """[M, 4, 32, 32] power of the mel spectrum."""
    words: str


def token_arrays(tokenizer: "Tokenizer", words: Sequence[str]) -> Arrays:
    """Token numbers of some texts, padded to the longest: INPUT_IDS and ATTENTION_MASK, int64 [U, L]."""
    rows = [encoding.ids[: constants.MAX_TOKENS] for encoding in tokenizer.encode_batch(list(words))]
    ids = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    return {"INPUT_IDS": ids, "ATTENTION_MASK": mask}


def requests(utterances: Sequence[Utterance], tokenizer: "Tokenizer") -> "Iterator[dict[str, NDArray[Any]]]":
    """Inputs of all graphs by tensor name, `BATCH` utterances at a time. A modality that is absent has a row of zeros."""
    for start in range(0, len(utterances), BATCH):
        batch = utterances[start : start + BATCH]
        yield {
            **_sequences([utterance.faces for utterance in batch], "FACE", np.zeros((1, 48, 48, 3), np.uint8)),
            **_sequences([utterance.pieces for utterance in batch], "PIECE", np.zeros((1, 4, 32, 32), np.float32)),
            **token_arrays(tokenizer, [utterance.words for utterance in batch]),
            "WORDS_MASK": np.array([bool(utterance.words.strip()) for utterance in batch]),
        }


def _sequences(parts: "Sequence[NDArray[Any]]", what: str, blank: "NDArray[Any]") -> "dict[str, NDArray[Any]]":
    """Rows of all utterances one after the other, their places and the mask."""
    counts = np.array([len(part) for part in parts])
    place = np.arange(max(1, counts.max()))  # [M]
    mask = place < counts[:, None]  # [U, M]
    first = np.cumsum(counts) - counts
    return {
        f"{what}S": np.concatenate(parts) if counts.any() else blank,
        f"{what}_INDEX": np.where(mask, first[:, None] + place, 0),
        f"{what}_MASK": mask,
    }


def graph_inputs(request: "dict[str, NDArray[Any]]", runners: Mapping[str, Runner]) -> Iterator[tuple[str, Arrays]]:
    """What each graph is given for a request, in the order of the data; those of `fusion` last.

    Args:
        request: from `requests`.
        runners: of `visual`, `acoustic` and `text`.
    """
    features: dict[str, NDArray[Any]] = {}
    for model, key in (("visual", "FACES"), ("acoustic", "PIECES")):
        rows = request[key]
        parts = [{key: rows[start : start + ROWS[key]]} for start in range(0, len(rows), ROWS[key])]
        for part in parts:
            yield model, part
        features[model.upper()] = np.concatenate([runners[model](part)[model.upper()] for part in parts])
    tokens = {key: request[key] for key in ("INPUT_IDS", "ATTENTION_MASK")}
    yield "text", tokens
    features |= runners["text"](tokens)
    places = {key: request[key] for key in ("FACE_INDEX", "FACE_MASK", "PIECE_INDEX", "PIECE_MASK", "WORDS_MASK")}
    yield "fusion", {**features, **places}


def answers(
    utterances: Sequence[Utterance], tokenizer: "Tokenizer", runners: Mapping[str, Runner]
) -> "dict[str, NDArray[Any]]":
    """What the four graphs say about some utterances: the outputs of `fusion`, a row for each.

    Args:
        utterances: at least one.
        tokenizer: of the text encoder; it neither pads nor cuts off.
        runners: of `visual`, `acoustic`, `text` and `fusion`.
    """
    rows = []
    for request in requests(utterances, tokenizer):
        *_, (_, fusion) = graph_inputs(request, runners)
        rows.append(runners["fusion"](fusion))
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
