import numpy as np
import pytest

import nasty_media
from fv2es_pipelines.audio import read_sound
from fv2es_pipelines.clip import open_clip
from fv2es_pipelines.limits import MediaLimits, checked_utterances
from fv2es_pipelines.mel import MelGraph, MelPipeline, piece_batch

# DALI computes in float32. Relative to the largest value of the utterance, and to each mel band's own largest value
# where that band holds at least a millionth of the energy.
MAX_RELATIVE = 1e-4


@pytest.fixture(scope="module")
def graph():
    return MelGraph(max_batch=4)


def hann(length):
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def mel_filters(num_bins=201, num_mels=128, rate_hz=16_000):
    """Triangles of height 1 whose corners are evenly spaced on the HTK mel scale; float64 [201, 128]."""
    frequencies = np.linspace(0, rate_hz / 2, num_bins)
    top = 2595 * np.log10(1 + rate_hz / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, num_mels + 2) / 2595) - 1)
    filters = np.zeros((num_bins, num_mels))
    for mel in range(num_mels):
        low, middle, high = corners[mel : mel + 3]
        rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
        filters[:, mel] = np.maximum(0, np.minimum(rising, falling))
    return filters


def spectrum(wave):
    """Double-precision mel power spectrum, [128, T]: T = 1 + n // 200 windows of 400 centred on multiples of 200."""
    padded = np.pad(wave.astype(np.float64), 200, mode="reflect")
    windows = np.stack([padded[start : start + 400] * hann(400) for start in range(0, len(wave) + 1, 200)])
    power = np.abs(np.fft.rfft(windows, axis=1)) ** 2  # [T, 201]
    return (power @ mel_filters()).T


def reference(wave):
    """Pieces by their definition, [p, 4, 32, 32]."""
    mels = spectrum(wave)
    num_pieces = -(-mels.shape[1] // 32)
    pieces = np.zeros((num_pieces, 4, 32, 32))
    for piece in range(num_pieces):
        part = mels[:, 32 * piece : 32 * (piece + 1)]
        for channel in range(4):
            pieces[piece, channel, :, : part.shape[1]] = part[32 * channel : 32 * (channel + 1)]
    return pieces


def compare(pieces, wave):
    expected = reference(wave)
    assert pieces.dtype == np.float32
    assert pieces.shape == expected.shape
    error = np.abs(pieces - expected)
    largest = expected.max()
    assert error.max() <= MAX_RELATIVE * largest
    bands = expected.max(axis=(0, 3))  # [4, 32]
    meaningful = bands > 1e-6 * largest
    assert meaningful.sum() > 60
    assert (error.max(axis=(0, 3))[meaningful] <= MAX_RELATIVE * bands[meaningful]).all()


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, num_samples).astype(np.float32)


@pytest.mark.parametrize("num_samples", [201, 399, 400, 6_199, 6_200, 6_399, 6_400, 6_401, 80_000])
def test_pieces_of_noise(graph, num_samples):
    (pieces,) = graph([noise(num_samples)])
    compare(pieces, noise(num_samples))


def test_pieces_of_speech(graph, astronaut):
    with open_clip(astronaut.read_bytes()) as clip:
        utterances = checked_utterances([[0.0, 5.0], [5.0, 12.0]], MediaLimits())
        waves = read_sound(clip, utterances).waves
    for pieces, wave in zip(graph(waves), waves, strict=True):
        compare(pieces, wave)


def test_filters_that_hold_no_bin_are_zero(graph):
    (pieces,) = graph([noise(16_000)])
    empty = np.flatnonzero((pieces.transpose(1, 2, 0, 3).reshape(128, -1) == 0).all(axis=1))
    assert empty.tolist() == [0, 3, 6, 13]


def test_any_number_of_waves_of_any_length(graph):
    lengths = [201, 5_000, 80_000, 16_000, 700, 12_345, 6_400, 250, 3_000]  # more than fit in one pass
    waves = [noise(length, seed) for seed, length in enumerate(lengths)]
    for count in (9, 1, 5, 9):
        together = graph(waves[:count])
        assert len(together) == count
        for pieces, wave in zip(together, waves, strict=False):
            np.testing.assert_array_equal(pieces, graph([wave])[0])
    assert graph([]) == []


def test_flat_batch_and_its_index(graph):
    waves = [noise(16_000, 1), None, noise(200, 2), noise(40_000, 3), noise(201, 4)]
    batch = piece_batch(graph, waves, audio_errors=7)
    counts = [3, 0, 0, 7, 1]  # ceil((1 + n // 200) / 32); 200 samples can't be mirrored by 200
    assert batch.piece_mask.sum(axis=1).tolist() == counts
    assert batch.piece_index.shape == (5, 7)
    assert batch.piece_index[0].tolist() == [0, 1, 2, 0, 0, 0, 0]
    assert batch.piece_index[3].tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert batch.piece_index[4].tolist() == [10, 0, 0, 0, 0, 0, 0]
    assert {name: (array.dtype, array.shape) for name, array in batch.to_arrays().items()} == {
        "PIECES": (np.float32, (11, 4, 32, 32)),
        "PIECE_INDEX": (np.int64, (5, 7)),
        "PIECE_MASK": (np.bool_, (5, 7)),
        "AUDIO_ERRORS": (np.int32, (1,)),
    }
    assert batch.to_arrays()["AUDIO_ERRORS"].tolist() == [7]
    np.testing.assert_array_equal(batch.pieces[3:10], graph([waves[3]])[0])


def test_from_clip_to_pieces(graph, astronaut):
    batch = MelPipeline(graph)(np.fromfile(astronaut, np.uint8), [[0.0, 5.0], [5.0, 8.0], [20.0, 21.0]])
    assert batch.piece_mask.sum(axis=1).tolist() == [13, 8, 0]
    assert batch.pieces.shape == (21, 4, 32, 32)
    assert batch.pieces.max() > 1
    assert batch.audio_errors == 0


def test_without_sound_one_row_of_zeros_stands_in(graph, tmp_path):
    mute = nasty_media.pictures_only(tmp_path / "mute.mkv").read_bytes()
    batch = MelPipeline(graph)(mute, [[0.0, 1.0], [1.0, 2.0]])
    assert batch.pieces.shape == (1, 4, 32, 32)
    assert not batch.pieces.any()
    assert batch.piece_index.tolist() == [[0], [0]]
    assert batch.piece_mask.tolist() == [[False], [False]]
