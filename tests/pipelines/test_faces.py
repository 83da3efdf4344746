import av
import numpy as np
import pytest
from clips import write_film

import nasty_media
from fv2es_pipelines.boxes import face_region
from fv2es_pipelines.errors import InvalidUtterances, NotMedia
from fv2es_pipelines.faces import FaceExtractor, centre_crop
from fv2es_pipelines.mtcnn import ArrayPicture


@pytest.fixture(scope="module")
def extract(detector):
    return FaceExtractor(detector, decoder_threads=1)


def check_contract(batch, num_utterances):
    arrays = batch.to_arrays()
    num_faces, num_frames = len(batch.faces), len(batch.frame_times_s)
    length = batch.face_index.shape[1]
    expected = {
        "FACES": (np.uint8, (num_faces, 48, 48, 3)),
        "FACE_INDEX": (np.int64, (num_utterances, length)),
        "FACE_MASK": (np.bool_, (num_utterances, length)),
        "FRAME_TIMES": (np.float64, (num_frames,)),
        "FRAME_UTTERANCE": (np.int32, (num_frames,)),
        "FRAME_BOXES": (np.float32, (num_frames, 4)),
        "FRAME_SCORES": (np.float32, (num_frames,)),
        "VIDEO_ERRORS": (np.int32, (1,)),
        "FALLBACK_FRAMES": (np.int32, (1,)),
    }
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == expected
    assert num_faces >= 1
    assert length >= 1
    assert ((batch.face_index >= 0) & (batch.face_index < num_faces)).all()
    assert (batch.face_index[~batch.face_mask] == 0).all()
    assert (np.diff(batch.frame_utterance) >= 0).all()


def test_a_film_with_a_face_that_leaves_and_comes_back(extract, astronaut):
    batch = extract(np.fromfile(astronaut, np.uint8), [[0.0, 5.0], [5.0, 8.0], [8.0, 12.0]])
    check_contract(batch, 3)
    assert np.bincount(batch.frame_utterance).tolist() == [10, 6, 8]
    scores = np.split(batch.frame_scores, [10, 16])
    assert (scores[0] > 0.9).all()
    assert (scores[1] == 0).any()
    assert (batch.frame_boxes_px[batch.frame_scores == 0] == 0).all()
    assert batch.face_mask.sum() == (batch.frame_scores > 0).sum() == len(batch.faces)
    assert batch.face_mask[0].tolist() == [True] * 10
    wanted_s = np.concatenate([np.arange(0, 5, 0.5), np.arange(5, 8, 0.5), np.arange(8, 12, 0.5)])
    assert ((wanted_s - batch.frame_times_s >= 0) & (wanted_s - batch.frame_times_s < 0.04)).all()
    assert batch.video_errors == 0


def test_crops_are_the_boxes_with_their_margin(extract, astronaut):
    batch = extract(astronaut.read_bytes(), [[0.0, 0.5]])
    with av.open(astronaut) as container:
        whole = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(np.float64)
    x0, y0, x1, y1 = face_region(batch.frame_boxes_px[0], 640, 360)
    region = whole[y0:y1, x0:x1]
    enlarged = np.repeat(np.repeat(region, 48, axis=0), 48, axis=1)
    average = enlarged.reshape(48, y1 - y0, 48, x1 - x0, 3).mean(axis=(1, 3))  # the true box filter
    assert np.abs(batch.faces[0] - average).max() <= 2  # swscale's rounding beside our own


def test_utterances_in_any_order_that_share_pictures(extract, astronaut):
    data = astronaut.read_bytes()
    batch = extract(data, [[1.0, 3.0], [0.0, 2.0]])
    check_contract(batch, 2)
    assert len(batch.faces) == 6  # 0.0 to 2.5 s; those at 1.0 and 1.5 s serve both
    assert batch.frame_utterance.tolist() == [0] * 4 + [1] * 4
    assert batch.face_index[0, :2].tolist() == batch.face_index[1, 2:].tolist()
    alone = extract(data, [[0.0, 2.0]])
    np.testing.assert_array_equal(batch.faces[batch.face_index[1]], alone.faces[alone.face_index[0]])


def test_memory_for_chunks_does_not_change_the_result(extract, astronaut, monkeypatch):
    data = astronaut.read_bytes()
    whole = extract(data, [[0.0, 4.0]])
    monkeypatch.setattr("fv2es_pipelines.faces._MAX_CHUNK_PICTURES", 3)
    parts = extract(data, [[0.0, 4.0]])
    np.testing.assert_allclose(whole.frame_boxes_px, parts.frame_boxes_px, atol=0.05)
    np.testing.assert_array_equal(whole.face_index, parts.face_index)


def test_a_turned_film_gives_upright_faces(extract, astronaut, tmp_path):
    with av.open(astronaut) as container:
        upright = next(container.decode(video=0)).to_ndarray(format="rgb24")
    stored = np.ascontiguousarray(np.rot90(upright, -1))  # a player must turn it by 90 degrees counter-clockwise
    path = write_film(tmp_path / "turned.mp4", [0.0, 0.04], size=(360, 640), rotation_deg=90, draw=lambda _: stored)
    turned, plain = extract(path.read_bytes(), [[0.0, 0.08]]), extract(astronaut.read_bytes(), [[0.0, 0.5]])
    np.testing.assert_allclose(turned.frame_boxes_px, plain.frame_boxes_px, atol=12)
    assert np.abs(turned.faces[0].astype(int) - plain.faces[0]).mean() < 10


@pytest.mark.parametrize(
    ("write", "name"),
    [(nasty_media.sound_only, "sound.mkv"), (nasty_media.cover_art, "song.mp4")],
)
def test_without_pictures_there_are_no_frames(extract, tmp_path, write, name):
    batch = extract(write(tmp_path / name).read_bytes(), [[0.0, 1.0], [1.0, 2.0]])
    check_contract(batch, 2)
    assert len(batch.frame_times_s) == 0
    assert not batch.face_mask.any()


def test_utterances_outside_the_pictures_have_no_frames(extract, astronaut):
    batch = extract(astronaut.read_bytes(), [[100.0, 105.0], [-5.0, -1.0], [11.6, 13.0]])
    check_contract(batch, 3)
    assert batch.frame_utterance.tolist() == [2]


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (nasty_media.one_frame, "one.mkv"),
        (nasty_media.variable_rate, "vfr.mkv"),
        (nasty_media.odd_size, "odd.mkv"),
        (nasty_media.jump_forward, "jump.mkv"),
        (nasty_media.jump_back, "back.ts"),
        (nasty_media.keyless_start, "keyless.ts"),
        (nasty_media.damaged_middle, "bad.mp4"),
        (nasty_media.cut_off_mkv, "cut.mkv"),
    ],
)
def test_odd_films_give_frames(extract, tmp_path, write, name):
    batch = extract(write(tmp_path / name).read_bytes(), [[0.0, 5.0], [2.0, 8.0]])
    check_contract(batch, 2)
    assert len(batch.frame_times_s) >= 1


def test_stand_ins_take_part_but_are_no_faces(detector, tmp_path):
    film = write_film(tmp_path / "blank.mkv", [k / 25 for k in range(25)], size=(120, 80))
    batch = FaceExtractor(detector, stand_in=True)(film.read_bytes(), [[0.0, 1.0]])
    check_contract(batch, 1)
    assert batch.face_mask.tolist() == [[True, True]]
    assert batch.frame_scores.tolist() == [0.0, 0.0]
    assert len(batch.faces) == 2


def test_the_centre_is_the_centre():
    image = np.random.default_rng(0).integers(0, 256, (100, 151, 3), dtype=np.uint8)
    np.testing.assert_array_equal(centre_crop(ArrayPicture(image)), image[26:74, 51:99])
    assert centre_crop(ArrayPicture(image[:20])).shape == (48, 48, 3)


def test_errors_are_of_this_package(extract):
    with pytest.raises(NotMedia):
        extract(b"nonsense", [[0.0, 1.0]])
    with pytest.raises(InvalidUtterances):
        extract(b"nonsense", [[1.0, 0.0]])
