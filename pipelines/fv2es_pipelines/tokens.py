"""From words to token ids, no longer than they need to be."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from fv2es_pipelines.constants import MAX_TOKENS
from fv2es_pipelines.errors import InvalidWords, ModelFileMissing


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBatch:
    """Tokens of U utterances, padded to the longest of them, L."""

    input_ids: npt.NDArray[np.int64]
    """[U, L], L in [1, 100]; the padding token where padded. Absent words are the special tokens alone."""
    attention_mask: npt.NDArray[np.int64]
    """[U, L], 1 for a token, 0 where padded."""
    words_mask: npt.NDArray[np.bool_]
    """[U], false where the utterance has no words."""

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The outputs of the served model `tokenizer`, by tensor name."""
        return {
            "INPUT_IDS": self.input_ids,
            "ATTENTION_MASK": self.attention_mask,
            "WORDS_MASK": self.words_mask,
        }


class Tokenizer:
    """A `tokenizer.json` at work: special tokens added, cut at 100 tokens, padded no further than the request's longest."""

    def __init__(self, path: Path) -> None:
        """Load.

        Raises:
            ModelFileMissing: there is no file at `path`.
        """
        if not path.is_file():
            raise ModelFileMissing(str(path), remedy="build the model repository first: fv2es build")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        padding = self._tokenizer.padding
        known = (self._tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
        self._pad_id = padding["pad_id"] if padding else next((number for number in known if number is not None), 0)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def __call__(self, words: Sequence[str | bytes] | npt.NDArray[np.object_]) -> TokenBatch:
        """Tokens of each utterance's words; empty or blank words are absent.

        Raises:
            InvalidWords: bytes are not UTF-8.
        """
        texts = [_text(one, row) for row, one in enumerate(words)]
        encodings = self._tokenizer.encode_batch(texts)
        length = max((len(encoding.ids) for encoding in encodings), default=0) or 1
        input_ids = np.full((len(texts), length), self._pad_id, np.int64)
        attention_mask = np.zeros((len(texts), length), np.int64)
        for row, encoding in enumerate(encodings):
            input_ids[row, : len(encoding.ids)] = encoding.ids
            attention_mask[row, : len(encoding.ids)] = 1
        words_mask = np.array([bool(text) for text in texts], bool)
        return TokenBatch(input_ids=input_ids, attention_mask=attention_mask, words_mask=words_mask)


def _text(words: str | bytes, row: int) -> str:
    if isinstance(words, str):
        return words.strip()
    try:
        return words.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InvalidWords(f"{error.reason} at byte {error.start}; give the words as UTF-8", row=row) from error
