"""The detector's nets against the real thing: faces and things that are none."""

import importlib
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional

from fv2es_builders.assets import detector_weights
from fv2es_builders.detector import NETS, DetectorNet, _Prelu, onnx_from_detector
from fv2es_builders.errors import AssetError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    sessions = {name: onnxruntime.InferenceSession(onnx_from_detector(name, folder / f"{name}.onnx")) for name in NETS}

    def run(name, images):
        return sessions[name].run(
            ["probability", "offsets"], {"images": np.ascontiguousarray(images, dtype=np.float32)}
        )

    return run


def normalised(pictures):
    return (pictures.astype(np.float32).transpose(0, 3, 1, 2) - 127.5) / 128


@pytest.mark.parametrize(("height", "width"), [(12, 12), (13, 12), (50, 81), (360, 640)])
def test_pnet_shapes(run, height, width):
    probability, offsets = run("pnet", np.zeros((2, 3, height, width)))
    cells = (-(-(height - 2) // 2) - 4, -(-(width - 2) // 2) - 4)
    assert probability.shape == (2, *cells)
    assert offsets.shape == (2, 4, *cells)
    assert ((probability >= 0) & (probability <= 1)).all()


@pytest.mark.parametrize(("name", "side"), [("rnet", 24), ("onet", 48)])
@pytest.mark.parametrize("batch", [1, 7])
def test_refining_shapes(run, name, side, batch):
    probability, offsets = run(name, np.zeros((batch, 3, side, side)))
    assert probability.shape == (batch,)
    assert offsets.shape == (batch, 4)


def plain_features(name, images):
    """Convolution, PReLU and pooling one after the other, as the paper has them."""
    weights = [torch.from_numpy(np.array(array)) for array in detector_weights(name)]
    x = torch.from_numpy(images)
    for pool_px in NETS[name].pools:
        kernel, bias, slopes, *weights = weights
        x = functional.prelu(functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias), slopes.reshape(-1))
        if pool_px:
            x = functional.max_pool2d(x, pool_px, stride=2, ceil_mode=True)
    return x


@pytest.mark.parametrize(("name", "height", "width"), [("pnet", 61, 50), ("rnet", 24, 24), ("onet", 48, 48)])
def test_pooling_before_the_curve_changes_nothing(name, height, width):
    """Slopes of both signs are among the weights, so both ways round the pooling are taken."""
    images = np.random.default_rng(0).uniform(-1, 1, (3, 3, height, width)).astype(np.float32)
    with torch.inference_mode():
        torch.testing.assert_close(
            DetectorNet(name).features(torch.from_numpy(images)), plain_features(name, images), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("slopes", [[-0.7, 0.0, 0.3, 1.0], [1.0, 1.5, 40.0], [-2.0, 0.1, 1.2]])
@pytest.mark.parametrize("num_axes", [0, 2])
def test_prelu_of_plain_operators_is_the_same_to_the_last_bit(slopes, num_axes):
    shape = (5, len(slopes), *[7] * num_axes)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=shape).astype(np.float32))
    x[0] = 0
    own = torch.tensor(slopes)
    torch.testing.assert_close(_Prelu(own, num_axes=num_axes)(x), functional.prelu(x, own), rtol=0, atol=0)


def test_onet_knows_a_face(run, golden):
    """Rows 0, 1 and 5 of the golden faces show a face, rows 2 and 3 a space suit."""
    probability, _ = run("onet", normalised(golden.faces))
    assert (probability[[0, 1, 5]] > 0.99).all()
    assert (probability[[2, 3]] < 0.1).all()


def test_upright_is_the_right_way_round(run, golden):
    """With rows and columns exchanged the nets are much less sure: the weights' axes are not mixed up."""
    for name, step in (("rnet", 2), ("onet", 1)):
        faces = normalised(golden.faces[[0, 1]])[:, :, ::step, ::step]
        upright, _ = run(name, faces)
        exchanged, _ = run(name, faces.transpose(0, 1, 3, 2))
        assert (np.log(upright / (1 - upright + 1e-9)) > np.log(exchanged / (1 - exchanged + 1e-9)) + 1).all()


def test_offsets_point_to_the_face(run, golden):
    """A window that is shifted by a tenth is drawn back: x by x, y by y."""
    face = np.pad(normalised(golden.faces[:1]), ((0, 0), (0, 0), (5, 5), (5, 5)), mode="edge")  # [1, 3, 58, 58]

    def corner(left, top):
        _, offsets = run("onet", face[:, :, top : top + 48, left : left + 48])
        return offsets[0]

    middle = corner(5, 5)
    assert corner(0, 5)[0] > middle[0] + 0.03  # window too far left: x0 must grow
    assert corner(10, 5)[2] < middle[2] - 0.03
    assert corner(5, 0)[1] > middle[1] + 0.03  # too far up: y0 must grow
    assert corner(5, 10)[3] < middle[3] - 0.03


def test_pnet_is_a_sliding_window(run, golden):
    """Moving the picture by the stride moves the maps by one cell, along the same axis."""
    picture = np.pad(normalised(golden.faces[:1]), ((0, 0), (0, 0), (8, 8), (8, 8)), mode="edge")  # [1, 3, 64, 64]
    whole, offsets = run("pnet", picture)
    right, right_offsets = run("pnet", picture[:, :, :, 2:])
    np.testing.assert_allclose(right, whole[:, :, 1:], atol=1e-5)
    np.testing.assert_allclose(right_offsets, offsets[:, :, :, 1:], atol=1e-5)
    down, _ = run("pnet", picture[:, :, 2:])
    np.testing.assert_allclose(down, whole[:, 1:], atol=1e-5)


def test_other_weights_are_refused(tmp_path, monkeypatch):
    """A file that is not the known one is never unpickled."""
    weights = tmp_path / "mtcnn" / "assets" / "weights"
    weights.mkdir(parents=True)
    (tmp_path / "mtcnn" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert "mtcnn" not in sys.modules  # found without being imported
    importlib.invalidate_caches()
    with pytest.raises(AssetError, match=r"pnet.lz4: no such file; install mtcnn==1.0.0"):
        detector_weights("pnet")
    (weights / "pnet.lz4").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(AssetError, match=r"sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}; install mtcnn==1.0.0"):
        detector_weights("pnet")
