"""Faces out of pictures that a device made: as those of the CPU, whether turned, made smaller or not decoded there at all."""

import subprocess
import sys

import numpy as np
import pytest
from clips import write_film
from test_faces import check_contract

import nasty_media
from fv2es_pipelines.area import area_resize
from fv2es_pipelines.boxes import overlaps
from fv2es_pipelines.clip import open_clip
from fv2es_pipelines.device_faces import DeviceFaceExtractor, in_bt709
from fv2es_pipelines.errors import InvalidUtterances, NotMedia
from fv2es_pipelines.faces import FaceExtractor
from fv2es_pipelines.frames import NO_CLIP, FramePlanner, View
from fv2es_pipelines.picture import Orientation
from fv2es_pipelines.video import PictureReader

SPANS_S = [[1.0, 3.0], [0.0, 2.0], [40.0, 41.0]]


@pytest.fixture(scope="module")
def on_device(detector):
    return DeviceFaceExtractor(detector)


def pictures_of(data, times_s, size):
    """The pictures at `times_s`, not turned, reduced to `size`: what the device hands over."""
    with open_clip(data) as clip:
        return np.stack(
            [
                area_resize(each.picture._converter.region(each.picture._frame, 0, 0, 640, 360), *size)
                for each in PictureReader(clip, np.array(times_s))
            ]
        )


@pytest.mark.parametrize(("size", "least"), [((640, 360), 0.99), ((400, 225), 0.8)])
def test_boxes_are_those_of_the_full_size(on_device, detector, astronaut, size, least):
    data = astronaut.read_bytes()
    expected = FaceExtractor(detector)(data, SPANS_S)
    request = FramePlanner()(data, SPANS_S)
    assert request.refused is None
    assert request.sample_picture.tolist() == [2, 3, 4, 5, 0, 1, 2, 3, -1, -1]
    found = on_device(
        SPANS_S,
        pictures=pictures_of(data, request.picture_times_s, size),
        picture_times_s=request.picture_times_s,
        sample_picture=request.sample_picture,
        view=request.view,
        rest=request.rest,
    )
    check_contract(found, 3)
    np.testing.assert_array_equal(found.frame_times_s, expected.frame_times_s)
    np.testing.assert_array_equal(found.face_index, expected.face_index)
    np.testing.assert_array_equal(found.face_mask, expected.face_mask)
    assert np.diag(overlaps(found.frame_boxes_px.astype(float), expected.frame_boxes_px.astype(float))).min() >= least
    assert found.fallback_frames == 0


def test_a_turned_film(on_device, detector, astronaut):
    upright = pictures_of(astronaut.read_bytes(), [0.0], (640, 360))
    arguments = {"picture_times_s": np.zeros(1), "sample_picture": np.zeros(2, np.int32), "rest": NO_CLIP}
    plain = on_device(
        [[0.0, 1.0]],
        pictures=upright,
        view=View(width_px=640, height_px=360, orientation=Orientation(), bt709=False),
        **arguments,
    )
    stored = np.rot90(upright, -1, axes=(1, 2))
    view = View(width_px=640, height_px=360, orientation=Orientation(transpose=True, mirror_y=True), bt709=False)
    turned = on_device([[0.0, 1.0]], pictures=stored, view=View.from_array(view.to_array()), **arguments)
    np.testing.assert_array_equal(turned.faces, plain.faces)
    np.testing.assert_array_equal(turned.frame_boxes_px, plain.frame_boxes_px)


def test_what_the_device_lacks_is_decoded_here_and_counted(on_device, detector, tmp_path, astronaut):
    still = pictures_of(astronaut.read_bytes(), [0.0], (640, 360))[0]
    film = write_film(
        tmp_path / "film.avi", np.arange(30) / 25, codec="mpeg4", ticks_hz=25, size=(640, 360), draw=lambda _: still
    ).read_bytes()
    request = FramePlanner()(film, [[0.0, 1.0]])
    assert request.refused == "codec"
    assert request.rest.tobytes() == film
    found = on_device(
        [[0.0, 1.0]],
        pictures=np.zeros((1, 128, 128, 3), np.uint8),
        picture_times_s=request.picture_times_s,
        sample_picture=request.sample_picture,
        view=request.view,
        rest=request.rest,
    )
    expected = FaceExtractor(detector)(film, [[0.0, 1.0]])
    np.testing.assert_array_equal(found.faces, expected.faces)
    assert found.face_mask.all()
    assert found.to_arrays()["FALLBACK_FRAMES"].tolist() == [2]
    assert expected.to_arrays()["FALLBACK_FRAMES"].tolist() == [0]


@pytest.mark.parametrize("make", [nasty_media.sound_only, nasty_media.cover_art])
def test_without_pictures_there_are_no_frames(on_device, tmp_path, make):
    request = FramePlanner()(make(tmp_path / "film.mp4").read_bytes(), [[0.0, 1.0], [1.0, 2.0]])
    arrays = request.to_arrays()
    assert {name: array.shape for name, array in arrays.items() if name != "VIDEO"} == {
        "FRAMES": (1, 1),
        "SIZE": (1, 2),
        "PICTURE_TIMES": (1,),
        "SAMPLE_PICTURE": (4,),
        "VIEW": (6,),
        "REST": (1,),
    }
    batch = on_device(
        [[0.0, 1.0], [1.0, 2.0]],
        pictures=np.zeros((1, 128, 128, 3), np.uint8),
        picture_times_s=request.picture_times_s,
        sample_picture=request.sample_picture,
        view=request.view,
        rest=request.rest,
    )
    check_contract(batch, 2)
    assert len(batch.frame_times_s) == 0


def test_errors_are_of_this_package():
    with pytest.raises(NotMedia):
        FramePlanner()(b"nonsense", [[0.0, 1.0]])
    with pytest.raises(InvalidUtterances):
        FramePlanner()(b"nonsense", [[1.0, 0.0]])


def test_a_worker_imports_nothing_that_it_may_not_need():
    """`manifest` needs none of these, others some: 15 to 70 MB each, in each of ten processes."""
    code = "import sys, fv2es_pipelines.workers; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert {"av", "onnxruntime", "nvidia.dali", "tokenizers"}.isdisjoint(ran.stdout.split())
    assert "numpy" in ran.stdout.split()


def test_colours_of_bt709():
    """White, grey and black stay; primary colours of BT.709 come back from what BT.601 makes of their coded values."""
    grey = np.array([[0, 0, 0], [128, 128, 128], [255, 255, 255]], np.uint8)
    np.testing.assert_array_equal(in_bt709(grey), grey)
    colours = np.array([[120, 90, 80], [60, 140, 70], [70, 80, 150]], float)
    luma = colours @ [0.2126, 0.7152, 0.0722]
    blue, red = (colours[:, 2] - luma) / 1.8556, (colours[:, 0] - luma) / 1.5748
    taken = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=1)
    assert np.abs(in_bt709(np.rint(taken).astype(np.uint8)) - colours).max() <= 1
