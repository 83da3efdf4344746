import dataclasses

import av
import numpy as np
import pytest

from fv2es_pipelines.boxes import overlaps
from fv2es_pipelines.errors import ModelFileMissing
from fv2es_pipelines.mtcnn import ArrayPicture, Detector, DetectorSettings, fast_searches, full_search
from fv2es_pipelines.picture import DecodedPicture, RgbConverter

# The fast search must find the face that the plain search at full size finds: up to `copy_px` pixels it does the same
# arithmetic on the same pixels.
MIN_OVERLAP_EXACT = 0.999


def sampled(path, *, every, height_px=None, most=None):
    converter, pictures = RgbConverter(), []
    with av.open(path) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % every == 0:
                if height_px is not None:
                    width_px = frame.width * height_px // frame.height // 2 * 2
                    frame = frame.reformat(width=width_px, height=height_px, interpolation="BICUBIC")
                pictures.append(DecodedPicture(frame, converter))
            if most is not None and len(pictures) == most:
                break
    return pictures


def overlaps_with_full_size(detector, pictures):
    fast = detector.largest_faces(pictures)
    found = []
    for picture, face in zip(pictures, fast, strict=True):
        full = detector.all_faces(picture)
        assert (face is None) == (not full)
        if face is not None:
            found.append(overlaps(np.array([face.box]), np.array([full[0].box]))[0, 0])
    return np.array(found)


@pytest.mark.parametrize(
    ("name", "every"), [("WDA_KatieHill_000.mp4", 12), ("WolfgangLanger_Pexels.mp4", 30), ("single_face.mp4", 10)]
)
@pytest.mark.parametrize("height_px", [None, 1080, 2160])
def test_the_fast_search_finds_the_face_of_the_full_search(shared_media, detector, name, every, height_px):
    stride = every * ((height_px or 270) // 270)
    found = overlaps_with_full_size(detector, sampled(shared_media / name, every=stride, height_px=height_px))
    assert len(found) >= (1 if height_px == 2160 else 2)
    assert found.min() >= MIN_OVERLAP_EXACT


def test_small_faces_are_found_too(detector, astronaut):
    """The face is 115 px high in 360: shrunk to a fifth it is about as small as MTCNN looks for."""
    (picture,) = sampled(astronaut, every=1, most=1)
    (large,) = detector.largest_faces([picture])
    canvas = np.full((360, 640, 3), 128, np.uint8)
    canvas[200:290, 400:560] = picture.scaled(160, 90)
    (small,) = detector.largest_faces([ArrayPicture(canvas)])
    expected = np.array(large.box) / 4 + (400, 200, 400, 200)
    assert overlaps(np.array([small.box]), expected[None])[0, 0] > 0.6
    assert overlaps_with_full_size(detector, [ArrayPicture(canvas)]).min() >= MIN_OVERLAP_EXACT


def test_the_face_lies_where_the_film_shows_it(detector, astronaut):
    (picture,) = sampled(astronaut, every=1, most=1)
    (face,) = detector.largest_faces([picture])
    assert overlaps(np.array([face.box]), np.array([[222.0, 72.0, 338.0, 223.0]]))[0, 0] > 0.7
    assert face.score > 0.99


def test_no_face_in_a_cartoon(shared_media, detector):
    pictures = sampled(shared_media / "no_face.mp4", every=30)
    assert detector.largest_faces(pictures) == [None] * len(pictures)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_thresholds_for_one_call_are_heeded(detector, astronaut, stage):
    (picture,) = sampled(astronaut, every=1, most=1)
    thresholds = [*detector.settings.thresholds]
    thresholds[stage] = 1.1  # no probability reaches it
    strict = dataclasses.replace(detector.settings, thresholds=tuple(thresholds))
    assert detector.largest_faces([picture], strict) == [None]
    assert detector.largest_faces([picture]) != [None], "for that call alone"


def test_pictures_of_any_size_together(detector, astronaut):
    (picture,) = sampled(astronaut, every=1, most=1)
    sizes = [(1, 1), (19, 400), (20, 20), (33, 57), (640, 360)]
    faces = detector.largest_faces([ArrayPicture(picture.scaled(*size)) for size in sizes])
    assert faces[:2] == [None, None]
    assert faces[-1] is not None
    assert detector.largest_faces([]) == []


def test_many_pictures_at_once_give_what_each_gives_alone(detector, astronaut):
    pictures = sampled(astronaut, every=40)
    together = detector.largest_faces(pictures)
    alone = [detector.largest_faces([picture])[0] for picture in pictures]
    assert any(face is None for face in together)
    for one, other in zip(together, alone, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one.box, other.box, atol=0.05)


def test_large_pictures_in_parts_give_what_the_whole_gives(detector, astronaut, monkeypatch):
    """With and without a face; the parts are so small that levels, candidates and faces lie in several of them."""
    pictures = sampled(astronaut, every=50)
    whole, every = detector.largest_faces(pictures), [detector.all_faces(picture) for picture in pictures]
    monkeypatch.setattr("fv2es_pipelines.mtcnn._MAX_TABLE_PX", 150_000)
    monkeypatch.setattr("fv2es_pipelines.mtcnn._MAX_TABLES_PX", 150_000)
    monkeypatch.setattr("fv2es_pipelines.mtcnn._MAX_LEVEL_PX", 10_000)
    parts = detector.largest_faces(pictures)
    assert any(face is None for face in whole)
    assert [face is None for face in parts] == [face is None for face in whole]
    for one, other in zip(whole, parts, strict=True):
        if one is not None:
            np.testing.assert_allclose(one.box, other.box, atol=0.01)
    for one, other in zip(every, [detector.all_faces(picture) for picture in pictures], strict=True):
        np.testing.assert_allclose([face.box for face in one], [face.box for face in other], atol=0.01)


@pytest.mark.parametrize("size", [(640, 360), (1280, 720), (1920, 1080), (3840, 2160), (360, 640), (40, 30)])
def test_searches_cover_the_pyramid_once_and_large_faces_first(size):
    settings = DetectorSettings()
    searches, whole = fast_searches(*size, settings), full_search(*size, settings)
    assert [scale for search in searches for scale in search.scales] == sorted(whole.scales)
    assert whole.scales[0] == pytest.approx(12 / 20)
    for search in searches:
        shrunk = size[0] / search.width_px
        if size[0] * size[1] <= settings.copy_px:
            assert (search.width_px, search.height_px) == size
        assert shrunk == 1 or 12 / max(search.scales) / shrunk >= settings.window_px - 1


def test_says_which_net_is_missing(tmp_path):
    with pytest.raises(ModelFileMissing, match=r"pnet\.onnx: can't be read; build the detector's nets"):
        Detector(tmp_path)
