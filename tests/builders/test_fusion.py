from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fv2es_builders.modules.fusion import Fusion, FusionParts
from fv2es_builders.modules.temporal import TemporalEncoder
from fv2es_builders.presets import TemporalSize

POS_WEIGHT = (0.5, 1.0, 7.0)


@pytest.fixture(scope="module")
def fusion() -> Fusion:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        parts = FusionParts(
            visual_transformer=TemporalEncoder(TemporalSize()),
            visual_out=torch.nn.Linear(64, 3),
            acoustic_transformer=TemporalEncoder(TemporalSize()),
            acoustic_out=torch.nn.Linear(64, 3),
            weights=torch.nn.Linear(3, 1, bias=False),
        )
        return Fusion(parts, POS_WEIGHT).eval()


@dataclass
class Request:
    """Two utterances: 2 faces and 3 pieces, 4 faces and 1 piece."""

    visual: torch.Tensor
    face_index: torch.Tensor
    face_mask: torch.Tensor
    acoustic: torch.Tensor
    piece_index: torch.Tensor
    piece_mask: torch.Tensor
    text: torch.Tensor
    words_mask: torch.Tensor

    def by(self, fusion: Fusion) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(fusion(*vars(self).values()))


@pytest.fixture
def request_() -> Request:
    generator = torch.Generator().manual_seed(5)
    return Request(
        visual=torch.randn(6, 64, generator=generator),
        face_index=torch.tensor([[0, 1, 0, 0], [2, 3, 4, 5]]),
        face_mask=torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool),
        acoustic=torch.randn(4, 64, generator=generator),
        piece_index=torch.tensor([[0, 1, 2], [3, 0, 0]]),
        piece_mask=torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.bool),
        text=torch.randn(2, 3, generator=generator),
        words_mask=torch.tensor([True, True]),
    )


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.allclose(a.float(), b.float(), atol=1e-5) for a, b in zip(left, right, strict=True))


def test_equals_each_utterance_alone(fusion, request_):
    """The formula, written out for one utterance at a time."""
    logits, probabilities, modality_logits, present = request_.by(fusion)
    weights = fusion.weights.weight[0]
    with torch.no_grad():
        for row, (faces, pieces) in enumerate([([0, 1], [0, 1, 2]), ([2, 3, 4, 5], [3])]):
            seen = fusion.visual_transformer(request_.visual[faces][None], torch.ones(1, len(faces), dtype=torch.bool))
            heard = fusion.acoustic_transformer(
                request_.acoustic[pieces][None], torch.ones(1, len(pieces), dtype=torch.bool)
            )
            expected = [request_.text[row], fusion.visual_out(seen)[0], fusion.acoustic_out(heard)[0]]
            for place in range(3):
                assert torch.allclose(modality_logits[row, place], expected[place], atol=1e-5)
            total = sum(weight * part for weight, part in zip(weights, expected, strict=True))
            assert torch.allclose(logits[row], total, atol=1e-5)
    assert present.all()
    sigmoid = 1 / (1 + np.exp(-logits.double().numpy()))
    weight = np.array(POS_WEIGHT)
    np.testing.assert_allclose(probabilities.numpy(), sigmoid / (sigmoid + weight * (1 - sigmoid)), atol=1e-6)


@pytest.mark.parametrize("place", [0, 3])
def test_what_padding_points_to_is_without_effect(fusion, request_, place):
    before = request_.by(fusion)
    request_.face_index = torch.where(request_.face_mask, request_.face_index, place)
    request_.piece_index = torch.where(request_.piece_mask, request_.piece_index, place)
    assert same(before, request_.by(fusion))


def test_more_padding_is_without_effect(fusion, request_):
    before = request_.by(fusion)
    for name in ("face", "piece"):
        for what in ("index", "mask"):
            padded = torch.nn.functional.pad(getattr(request_, f"{name}_{what}"), (0, 5))
            setattr(request_, f"{name}_{what}", padded)
    assert same(before, request_.by(fusion))


def test_shuffled_rows(fusion, request_):
    before = request_.by(fusion)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    request_.visual = request_.visual[order]
    request_.face_index = torch.argsort(order)[request_.face_index]
    order = torch.tensor([3, 1, 0, 2])
    request_.acoustic = request_.acoustic[order]
    request_.piece_index = torch.argsort(order)[request_.piece_index]
    assert same(before, request_.by(fusion))


@pytest.mark.parametrize(("place", "mask"), [(0, "words_mask"), (1, "face_mask"), (2, "piece_mask")])
def test_absent_modality_adds_nothing(fusion, request_, place, mask):
    before, _, parts, _ = request_.by(fusion)
    cleared = getattr(request_, mask).clone()
    cleared[0] = False
    setattr(request_, mask, cleared)
    logits, probabilities, modality_logits, present = request_.by(fusion)
    assert present.tolist() == [[index != place for index in range(3)], [True] * 3]
    assert (modality_logits[0, place] == 0).all()
    assert torch.allclose(logits[0], before[0] - fusion.weights.weight[0, place] * parts[0, place], atol=1e-5)
    assert torch.equal(logits[1], before[1])
    assert probabilities.isfinite().all()


def test_nothing_present(fusion, request_):
    """Rows that stand in for what was not found may hold anything, even no number at all."""
    for mask in ("words_mask", "face_mask", "piece_mask"):
        setattr(request_, mask, torch.zeros_like(getattr(request_, mask)))
    for tensor in (request_.visual, request_.acoustic, request_.text):
        tensor.fill_(torch.nan)
    logits, probabilities, modality_logits, present = request_.by(fusion)
    assert (logits == 0).all()
    assert (modality_logits == 0).all()
    assert not present.any()
    np.testing.assert_allclose(probabilities[0].numpy(), 1 / (1 + np.array(POS_WEIGHT)), atol=1e-6)
