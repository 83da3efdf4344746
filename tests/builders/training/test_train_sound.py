import copy

import numpy as np
import pytest
import torch

from builders.training.conftest import tone, write_wave
from fv2es_builders.errors import TrainingDataError
from fv2es_builders.presets import PRESETS
from fv2es_builders.training.acoustic import AcousticSettings, AcousticTask, sequences_of, sound_logits
from fv2es_builders.training.backgrounds import Backgrounds
from fv2es_builders.training.codecs import CODECS, coded_variants
from fv2es_builders.training.heard import NUM_FORMS, heard_backgrounds, heard_sentences
from fv2es_builders.training.recipe import Recipe
from fv2es_builders.training.sound_augment import SoundAugment, SoundAugmentSettings
from fv2es_builders.training.spectrum import mel_pieces
from fv2es_builders.training.speech import load_emodb, read_wave
from fv2es_builders.training.speech_start import pretrained_trunk
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
        assert torch.isfinite(pieces).all()
        assert (pieces >= 0).all()


def test_sequences_point_at_their_own_pieces():
    parts = [torch.full((n, 4, 32, 32), float(n)) for n in (2, 3)]
    rows, index, mask = sequences_of(parts)
    assert mask.tolist() == [[True, True, False], [True, True, True]]
    assert rows[index][..., 0, 0, 0][mask].tolist() == [2, 2, 3, 3, 3]


def test_backgrounds_are_short_bounded_and_sometimes_silent():
    backgrounds = Backgrounds(torch.Generator().manual_seed(0))
    waves = [backgrounds() for _ in range(60)]
    for wave in waves:
        assert wave.dtype == torch.float32
        assert 0.6 * 16_000 <= len(wave) <= 3.0 * 16_000
        assert torch.isfinite(wave).all()
    peaks = torch.stack([wave.abs().max() for wave in waves])
    assert 3 <= (peaks == 0).sum() <= 18  # 10 expected, deviation 3
    heard_db = 20 * peaks[peaks > 0].log10()
    assert -50.01 <= heard_db.min() < -35
    assert -15 < heard_db.max() <= -5.99
    lengths = torch.tensor([len(wave) for wave in waves])
    assert lengths.min() < 12_000
    assert lengths.max() > 45_000


def test_backgrounds_follow_their_generator():
    first, same, other = (Backgrounds(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    waves = [[own() for _ in range(6)] for own in (first, same, other)]
    assert all(map(torch.equal, waves[0], waves[1]))
    assert not any(
        one.shape == two.shape and one.any() and torch.equal(one, two) for one, two in zip(*waves[1:], strict=True)
    )


@pytest.mark.parametrize(("duration_s", "least"), [(4.0, 2.0), (1.5, 1.0)])
def test_a_part_is_at_least_a_second_and_half(duration_s, least):
    """Of a wave without anything else done to it. A piece holds 6,400 samples."""
    only_cut = SoundAugmentSettings(
        plain=0, speed=0, warp=0, gain_db=0, room=0, noisy=0, filtered=0, masked=0, cut=1, start_s=0
    )
    augment = SoundAugment(torch.Generator().manual_seed(0), only_cut)
    rising = torch.from_numpy(
        np.sin(np.linspace(0, 30, int(duration_s * 16_000)) ** 2 * 30)
    ).float()  # its pitch tells where
    parts = [augment([rising]) for _ in range(40)]
    nums = {len(part) for part in parts}

    def pieces(samples):
        return -(-(1 + samples // 200) // 32)

    assert min(nums) == pieces(int(least * 16_000))
    assert max(nums) == pieces(len(rising) - 1)
    starts = {int(part[0].reshape(128, 32)[:, 8].argmax()) for part in parts}
    assert len(starts) > 5
    short = rising[:12_000]
    assert torch.equal(augment([short]), mel_pieces(short))


@pytest.fixture(scope="module")
def small_task(small_sets, starter_tiny, tmp_path_factory):
    """Twelve sentences of tones, six to train on, through an encoder that is not trained; the task, and what all is made of."""
    speech = load_emodb(small_sets / "emodb", LABELS)
    trunk = pretrained_trunk(starter_tiny.acoustic, seed=0).eval()
    cache = tmp_path_factory.mktemp("heard")
    heard, silent = heard_sentences(trunk, speech.waves, cache, print), heard_backgrounds(trunk, cache)
    first, second = range(6), range(6, 12)
    sets = [(heard.rows(rows), speech.labels[list(rows)]) for rows in (first, second)]
    recipe = Recipe(epochs=1, batch=4, learning_rate=1e-3)
    return AcousticTask(starter_tiny, recipe, *sets, silent, AcousticSettings(dropout=0)), speech, trunk, cache


def test_what_is_heard_is_kept_and_the_first_form_is_the_recording(small_task):
    _, speech, trunk, cache = small_task
    kept = sorted(cache.iterdir())
    assert len(kept) == 2
    before = [path.stat().st_mtime_ns for path in kept]
    heard = heard_sentences(trunk, speech.waves, cache, print)
    assert [path.stat().st_mtime_ns for path in sorted(cache.iterdir())] == before
    assert (len(heard), heard.num_forms) == (12, NUM_FORMS)
    with torch.no_grad():
        for row in (0, 7):
            expected = trunk(mel_pieces(speech.waves[row]))
            assert heard.of(row, 0).numpy() == pytest.approx(expected.numpy(), abs=2e-3)
            assert heard.means()[row, 0].numpy() == pytest.approx(expected.mean(dim=0).numpy(), abs=2e-3)
    assert not torch.equal(heard.means()[0, 1], heard.means()[0, 2])
    assert torch.equal(heard.rows([7, 3]).of(1, 5), heard.of(3, 5))


@torch.no_grad()
def test_training_starts_from_the_linear_layer(small_task):
    """The net as a whole says what its linear layer says of the mean, and tones of one speaker are told by what the other taught."""
    task, *_ = small_task
    module = task.module.eval()
    heard, labels = task._validation
    sequence, probe = sound_logits(module, heard)
    known = task.known.numpy()
    gaps = sequence[:, known] - probe[:, known]
    assert np.abs(gaps).max() < 0.1 * np.abs(probe[:, known]).max()  # norms take a little off all of a row alike
    assert np.abs(probe).max() > 0.5
    said = np.where(known, sequence, -np.inf).argmax(axis=1)
    assert (said == labels.numpy()).mean() > 0.6  # by chance 1 / 6
    silent, _ = sound_logits(module, task._backgrounds)
    assert np.ptp(silent[:, known], axis=1).mean() < 0.6 * np.ptp(sequence[:, known], axis=1).mean()
    assert silent[:, known].mean() == pytest.approx(np.log(1 / 11), abs=0.6)  # sigmoids of 1 / 12, half of 1 / 6


@torch.no_grad()
def test_the_head_as_served_takes_features_as_they_are(small_task):
    task, *_ = small_task
    module = task.module.eval()
    features = task._train.features.float()
    expected = module.a_flatten((features - module.mean) / module.deviation)
    served = module.served_head()
    assert served(features).numpy() == pytest.approx(expected.numpy(), rel=2e-3, abs=2e-2)
    assert all(torch.equal(own, own.half().float()) for own in served.parameters())
    assert module.deviation.max() != 1


def test_logits_have_the_level_of_labels_taken_alone(small_task):
    """The softmax is the same for each level of a row's logits; without any evidence the loss is least where sigmoids are 1 / 6."""
    task = copy.deepcopy(small_task[0])
    module = task.module.eval()
    for layer in (module.a_out, module.probe):
        torch.nn.init.zeros_(layer.weight)
    loss_of, losses = next(task.losses(0)), {}
    for level in (-3.6, -1.61, 0.4):
        for layer in (module.a_out, module.probe):
            torch.nn.init.constant_(layer.bias, level)
        losses[level] = loss_of().item()
    assert losses[-1.61] < min(losses[-3.6], losses[0.4]) - 0.1
