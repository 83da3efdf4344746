"""Films as utterances from which ranges are taken."""

import av
import numpy as np
import pytest

from fv2es_builders.calibration import film_utterances
from fv2es_builders.detector import NETS, onnx_from_detector
from fv2es_builders.errors import CalibrationError


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    for name in NETS:
        onnx_from_detector(name, folder / f"{name}.onnx")
    return folder


def test_film(astronaut, detector):
    """12 s: two whole windows, in the second a face is seen only at its end; the rest is shorter than half a window."""
    utterances = film_utterances(astronaut, detector)
    assert [each.name for each in utterances] == ["astronaut.mp4 from 0 s", "astronaut.mp4 from 5 s"]
    for each in utterances:
        assert each.faces.shape[1:] == (48, 48, 3)
        assert each.faces.dtype == np.uint8
        assert each.pieces.shape == (13, 4, 32, 32)  # 401 frames of the spectrum, 32 in a piece
        assert each.words == ""
    assert len(utterances[0].faces) > 0


def test_no_film(tmp_path, detector):
    for name, content in (("empty.mp4", b""), ("text.mp4", b"this is no film" * 100)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CalibrationError, match=rf"calibration of .+{name}: .+; give another film"):
            film_utterances(tmp_path / name, detector)
    with pytest.raises(CalibrationError, match="No such file or directory"):
        film_utterances(tmp_path / "none.mp4", detector)


def test_neither_face_nor_sound(tmp_path, detector):
    film = tmp_path / "grey.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        picture = np.full((96, 128, 3), 128, np.uint8)
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(CalibrationError, match=r"grey\.mp4: neither a face nor sound was found in it") as caught:
        film_utterances(film, detector)
    assert caught.value.subject == str(film)
