import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from fv2es_pipelines.errors import InvalidWords, ModelFileMissing
from fv2es_pipelines.tokens import Tokenizer

PADDING, START, END, UNKNOWN, HELLO, WORLD = 7, 1, 2, 3, 4, 5


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory):
    """A whole-word tokenizer with BERT's frame, set to pad to 32 and cut at 16, as published ones are."""
    words = {"[CLS]": START, "[SEP]": END, "[UNK]": UNKNOWN, "hello": HELLO, "world": WORLD, "é": 6, "[PAD]": PADDING}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106 - no password
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", START), ("[SEP]", END)]
    )
    tokenizer.enable_padding(pad_id=PADDING, length=32)
    tokenizer.enable_truncation(16)
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def tokenize(tokenizer_path):
    return Tokenizer(tokenizer_path)


def test_pads_to_the_longest_of_the_request_alone(tokenize):
    batch = tokenize(["Hello", b"hello world hello", "é".encode()])
    assert batch.input_ids.tolist() == [
        [START, HELLO, END, PADDING, PADDING],
        [START, HELLO, WORLD, HELLO, END],
        [START, 6, END, PADDING, PADDING],
    ]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1] * 5, [1, 1, 1, 0, 0]]
    assert batch.words_mask.tolist() == [True, True, True]
    assert {name: array.dtype for name, array in batch.to_arrays().items()} == {
        "INPUT_IDS": np.int64,
        "ATTENTION_MASK": np.int64,
        "WORDS_MASK": np.bool_,
    }


@pytest.mark.parametrize("nothing", ["", b"", "  \n"])
def test_absent_words_are_masked_and_still_attended(tokenize, nothing):
    batch = tokenize([nothing, "hello"])
    assert batch.words_mask.tolist() == [False, True]
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_takes_what_the_server_hands_in(tokenize):
    batch = tokenize(np.array([b"hello", b""], np.object_))
    assert batch.words_mask.tolist() == [True, False]


def test_long_words_are_cut_at_100_tokens(tokenize):
    batch = tokenize(["hello " * 150])
    assert batch.input_ids.shape == (1, 100)
    assert batch.input_ids[0, -1] == END


def test_says_which_words_are_not_utf8(tokenize):
    with pytest.raises(InvalidWords, match=r"utterance 1: .* at byte 2; give the words as UTF-8") as caught:
        tokenize([b"hello", b"ab\xff"])
    assert caught.value.row == 1


def test_says_that_the_file_is_missing(tmp_path):
    with pytest.raises(ModelFileMissing, match="fv2es build"):
        Tokenizer(tmp_path / "tokenizer.json")
