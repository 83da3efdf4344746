"""Stretches of sound through the graph of the gpu profile's `mel` give the pieces of the cpu profile's."""

import numpy as np
import pytest

import nasty_media
from fv2es_pipelines.decode_graph import GraphRunner
from fv2es_pipelines.mel import MelGraph, MelPipeline, mel_pipeline, piece_batch
from fv2es_pipelines.sound import read_stretches, stretch_batch


@pytest.fixture(scope="module")
def run():
    runner = GraphRunner(mel_pipeline("cpu", max_batch=64))

    def pieces(batch):
        arrays = batch.to_arrays()
        return np.stack(runner(WAVES=list(arrays["WAVES"]), WAVE_FRAMES=list(arrays["WAVE_FRAMES"])))

    return pieces


def test_the_same_pieces_for_waves_of_any_length(run):
    lengths = [201, 399, 6_199, 6_200, 6_399, 6_400, 6_401, 20_000]
    rng = np.random.default_rng(0)
    waves = [rng.uniform(-0.9, 0.9, length).astype(np.float32) for length in lengths]
    waves = [None, *waves, waves[0][:200]]
    expected, found = piece_batch(MelGraph(), waves, audio_errors=3), stretch_batch(waves, audio_errors=3)
    np.testing.assert_array_equal(run(found), expected.pieces)
    np.testing.assert_array_equal(found.piece_index, expected.piece_index)
    np.testing.assert_array_equal(found.piece_mask, expected.piece_mask)
    assert found.to_arrays()["AUDIO_ERRORS"].tolist() == [3]


def test_from_clip_to_pieces(run, astronaut):
    data, spans_s = astronaut.read_bytes(), [[0.0, 5.0], [5.0, 8.0], [20.0, 21.0]]
    expected, found = MelPipeline()(data, spans_s), read_stretches(data, spans_s)
    np.testing.assert_array_equal(run(found), expected.pieces)
    np.testing.assert_array_equal(found.piece_mask, expected.piece_mask)


def test_without_sound_one_row_of_zeros_stands_in(run, tmp_path):
    mute = nasty_media.pictures_only(tmp_path / "mute.mkv").read_bytes()
    batch = read_stretches(mute, [[0.0, 1.0], [1.0, 2.0]])
    pieces = run(batch)
    assert pieces.shape == (1, 4, 32, 32)
    assert not pieces.any()
    assert batch.piece_mask.tolist() == [[False], [False]]
