import numpy as np
import pytest
import torch
from torch import nn

from fv2es_builders.training.calibrate import calibrated
from fv2es_builders.training.scores import label_calibration_error


def overconfident(num: int = 20_000):
    """Logits three times too large and shifted, of outcomes that follow the true ones."""
    chance = np.random.default_rng(0)
    true = chance.normal([-1, 0.5], 1.5, (num, 2))
    targets = (chance.random((num, 2)) < 1 / (1 + np.exp(-true))).astype(np.float32)
    return (3 * true + [2, -1]).astype(np.float32), targets


def test_slope_and_offsets_are_found():
    logits, targets = overconfident()
    calibration = calibrated(logits, targets, known=[True, True])
    assert calibration.slope == pytest.approx(1 / 3, rel=0.05)
    assert calibration.offsets == pytest.approx([-2 / 3, 1 / 3], abs=0.08)
    probabilities = calibration.probabilities(calibration.evidence(logits))
    assert label_calibration_error(probabilities, targets) < 0.02
    assert label_calibration_error(1 / (1 + np.exp(-logits)), targets) > 0.1


def test_zero_means_nothing_learnt():
    logits, targets = overconfident()
    calibration = calibrated(logits, targets, known=[True, True])
    nothing = calibration.probabilities(np.zeros((1, 2), np.float32))
    assert nothing[0] == pytest.approx(targets.mean(axis=0), abs=1e-3)


def test_a_folded_layer_makes_logits_as_served():
    logits, targets = overconfident(500)
    calibration = calibrated(logits, targets, known=[True, True])
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
        layer.bias.zero_()
    calibration.fold(layer)
    assert layer(torch.from_numpy(logits)).detach().numpy() == pytest.approx(calibration.evidence(logits), abs=1e-4)


def test_a_label_that_the_data_lack_gets_no_vote():
    logits, targets = overconfident(500)
    logits = np.concatenate([logits, np.full((500, 1), 7, np.float32)], axis=1)
    targets = np.concatenate([targets, np.zeros((500, 1), np.float32)], axis=1)
    calibration = calibrated(logits, targets, known=[True, True, False])
    layer = nn.Linear(4, 3)
    calibration.fold(layer)
    assert (layer(torch.randn(5, 4))[:, 2] == 0).all()
    assert (calibration.evidence(logits)[:, 2] == 0).all()
    assert calibration.pos_weight[2] == 1
