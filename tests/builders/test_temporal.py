import pytest
import torch

from fv2es_builders.modules.temporal import TemporalEncoder
from fv2es_builders.presets import TemporalSize


@pytest.fixture(scope="module")
def encoder() -> TemporalEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return TemporalEncoder(TemporalSize()).eval()


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
@torch.no_grad()
def test_equals_torch(encoder):
    """The same weights in PyTorch's own encoder, which the original uses."""
    layer = torch.nn.TransformerEncoderLayer(d_model=64, nhead=4)
    independent = torch.nn.TransformerEncoder(layer, num_layers=4).eval()
    independent.load_state_dict(encoder.encoder.state_dict(), strict=True)
    sequences = torch.randn(3, 6, 64)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    with_cls = torch.cat([encoder.cls_emb.weight.expand(3, 1, -1), sequences], dim=1).transpose(0, 1)  # [1 + N, U, dim]
    padding = torch.nn.functional.pad(~mask, (1, 0))
    expected = independent(with_cls, src_key_padding_mask=padding)[0]
    assert torch.allclose(encoder(sequences, mask), expected, atol=1e-5)


@torch.no_grad()
def test_padding_is_without_effect(encoder):
    sequences, mask = torch.randn(2, 5, 64), torch.ones(2, 5, dtype=torch.bool)
    expected = encoder(sequences, mask)
    padded = torch.cat([sequences, 1e3 * torch.randn(2, 7, 64)], dim=1)
    padded_mask = torch.nn.functional.pad(mask, (0, 7))
    assert torch.allclose(encoder(padded, padded_mask), expected, atol=1e-5)


@torch.no_grad()
def test_empty_sequence(encoder):
    """All padding: the answer is that of CLS alone, and a number."""
    sequences = torch.randn(2, 3, 64)
    mask = torch.tensor([[0, 0, 0], [1, 0, 0]], dtype=torch.bool)
    found = encoder(sequences, mask)
    assert found.isfinite().all()
    alone = encoder(torch.zeros(1, 0, 64), torch.zeros(1, 0, dtype=torch.bool))
    assert torch.allclose(found[0], alone[0], atol=1e-5)
    assert not torch.allclose(found[1], alone[0], atol=1e-3)


@torch.no_grad()
def test_order_is_without_effect(encoder):
    sequences, mask = torch.randn(1, 6, 64), torch.ones(1, 6, dtype=torch.bool)
    assert torch.allclose(encoder(sequences, mask), encoder(sequences.flip(1), mask), atol=1e-5)
