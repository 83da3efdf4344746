import numpy as np
import pytest
import torch

from builders.training.conftest import tone, write_wave
from fv2es_builders.errors import TrainingDataError
from fv2es_builders.modules.acoustic import log_power
from fv2es_builders.presets import PRESETS
from fv2es_builders.training.acoustic import sequences_of
from fv2es_builders.training.codecs import CODECS, coded_variants
from fv2es_builders.training.sound_augment import SoundAugment
from fv2es_builders.training.spectrum import mel_pieces
from fv2es_builders.training.speech import load_emodb, read_wave
from fv2es_pipelines.mel import MelGraph

LABELS = PRESETS["starter"].labels


def test_emodb_is_read_by_name_without_boredom(small_sets):
    speech = load_emodb(small_sets / "emodb", LABELS)
    assert [LABELS[label] for label in speech.labels[:6]] == [
        "fear", "disgust", "happiness", "neutral", "sadness", "anger",
    ]  # fmt: skip
    assert speech.speakers == ("03",) * 6 + ("08",) * 6
    train, held_out = speech.parted(["08"])
    assert set(train.speakers) == {"03"}
    assert set(held_out.speakers) == {"08"}


def test_a_folder_or_name_that_is_not_emodb_is_refused(tmp_path):
    with pytest.raises(TrainingDataError, match="holds neither"):
        load_emodb(tmp_path, LABELS)
    write_wave(tmp_path / "03a01Xa.wav", tone(200))
    with pytest.raises(TrainingDataError, match="the sixth one of"):
        load_emodb(tmp_path, LABELS)


def test_waves_that_cannot_be_used_are_refused(tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF but nothing else")
    with pytest.raises(TrainingDataError, match="can't be decoded"):
        read_wave(tmp_path / "broken.wav")
    write_wave(tmp_path / "short.wav", np.zeros(100))
    with pytest.raises(TrainingDataError, match="has 100 samples"):
        read_wave(tmp_path / "short.wav")


def test_other_rates_are_resampled(tmp_path):
    write_wave(tmp_path / "fast.wav", tone(440, 1.0), rate_hz=32_000)
    wave = read_wave(tmp_path / "fast.wav")
    assert len(wave) == pytest.approx(8_000, abs=2)


@pytest.mark.parametrize("num", [201, 6_399, 6_400, 20_000])
def test_the_spectrum_is_that_of_the_pipelines(num):
    wave = (0.3 * np.random.default_rng(num).normal(size=num)).astype(np.float32)
    (expected,) = MelGraph()([wave])
    found = mel_pieces(torch.from_numpy(wave)).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2e-5 * expected.max()


def test_warping_moves_a_tone():
    def loudest(warp):
        power = mel_pieces(torch.from_numpy(tone(1000)).float(), warp=warp)[0]  # [4, 32, 32]
        return int(power.reshape(128, 32)[:, 16].argmax())

    higher = mel_pieces(torch.from_numpy(tone(1100)).float())[0].reshape(128, 32)[:, 16].argmax()
    assert loudest(1.1) == pytest.approx(int(higher), abs=1)
    assert loudest(0.9) < loudest(1.0) < loudest(1.1)


def test_codecs_leave_the_sound_as_it_was_by_and_large():
    wave = torch.from_numpy(tone(440, 1.0)).float()
    variants = coded_variants(wave)
    assert len(variants) == len(CODECS) + 2
    assert variants[0] is wave
    for variant in variants[1:]:
        assert variant.shape == wave.shape
        assert not torch.equal(variant, wave)
        spectrum = torch.fft.rfft(variant[4000:12_000]).abs()  # bins of 2 Hz
        assert int(spectrum.argmax()) == pytest.approx(220, abs=2)


def test_augmentation_follows_its_generator():
    variants = coded_variants(torch.from_numpy(tone(440, 1.5)).float())
    runs = []
    for seed in (0, 0, 1):
        augment = SoundAugment(torch.Generator().manual_seed(seed))
        runs.append([augment(variants) for _ in range(12)])
    for first, same in zip(*runs[:2], strict=True):
        assert torch.equal(first, same)
    assert not all(
        first.shape == other.shape and torch.equal(first, other) for first, other in zip(*runs[1:], strict=True)
    )
    for pieces in runs[0]:
        assert pieces.shape[1:] == (4, 32, 32)
        assert torch.isfinite(log_power(pieces)).all()
        assert (pieces >= 0).all()


def test_sequences_point_at_their_own_pieces():
    parts = [torch.full((n, 4, 32, 32), float(n)) for n in (2, 3)]
    rows, index, mask = sequences_of(parts)
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert rows[index][..., 0, 0, 0][mask].tolist() == [2, 2, 3, 3, 3]
