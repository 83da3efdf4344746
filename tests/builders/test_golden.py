"""The real input that travels with the builder is what its recipe makes of the test clip."""

from pathlib import Path

import numpy as np

from fv2es_builders.golden import make

CLIP = Path(__file__).resolve().parents[1] / "media" / "astronaut.mp4"


def test_recipe(golden, tmp_path):
    target = tmp_path / "golden.npz"
    make.main([str(CLIP), str(target)])
    with np.load(target) as archive:
        assert archive["words"].tolist() == list(golden.words)
        assert archive["piece_counts"].tolist() == list(golden.piece_counts)
        # Decoders of other FFmpeg versions may round differently: two grey levels, a thousandth of the loudest sound.
        np.testing.assert_allclose(archive["faces"].astype(int), golden.faces.astype(int), atol=2)
        np.testing.assert_allclose(archive["pieces"], golden.pieces, atol=1e-3 * golden.pieces.max())


def test_sound(golden):
    """It is speech: loud somewhere, never negative, and the four mel bands that hold no bin are zero."""
    mel = golden.pieces.transpose(1, 2, 0, 3).reshape(128, -1)
    assert mel.min() == 0
    assert mel.max() > 1
    silent = [band for band in range(128) if not mel[band].any()]
    assert silent == [0, 3, 6, 13]
