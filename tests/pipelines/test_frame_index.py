"""Pictures that DALI decodes by number, on the CPU, are those that PyAV decodes by time; what no device decodes is refused."""

import numpy as np
import pytest
from clips import number_of, write_film

from fv2es_pipelines.clip import open_clip
from fv2es_pipelines.decode_graph import GraphRunner, decode_pipeline
from fv2es_pipelines.frame_index import device_video, stand_in_video
from fv2es_pipelines.video import PictureReader

STEADY_S = np.arange(60) / 25
UNEVEN_S = np.cumsum(np.resize([0.04, 0.01, 0.3, 0.02, 0.2, 0.033], 60))


@pytest.fixture(scope="module")
def decode():
    return GraphRunner(decode_pipeline("cpu", threads=1))


def by_device(decode, data, times_s, *, size=None):
    with open_clip(data) as clip:
        video = device_video(clip, np.array(times_s, float), device="cpu")
    numbers = np.array([picture.number for picture in video.pictures], np.int32)
    width, height = size or (video.width_px, video.height_px)
    (pictures,) = decode(VIDEO=[video.data], FRAMES=[numbers], SIZE=[np.array([height, width], np.int32)])
    return video, pictures


def by_ffmpeg(data, times_s):
    with open_clip(data) as clip:
        return [
            (each.pts_s, each.positions, each.picture.scaled(each.picture.width_px, each.picture.height_px))
            for each in PictureReader(clip, np.array(times_s, float), threads=1)
        ]


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx", "mjpeg"])
@pytest.mark.parametrize("times_s", [STEADY_S, UNEVEN_S], ids=["steady", "uneven"])
@pytest.mark.parametrize("ending", ["mkv", "mp4"])
def test_the_same_pictures_as_by_ffmpeg(decode, tmp_path, codec, times_s, ending):
    if (codec, ending) == ("libvpx", "mp4"):
        pytest.skip("MP4 does not hold VP8")
    film = write_film(
        tmp_path / f"film.{ending}",
        times_s,
        codec=codec,
        pixel_format="yuvj420p" if codec == "mjpeg" else "yuv420p",
        size=(160, 128),
    ).read_bytes()
    wanted_s = [-1.0, 0.0, 0.5, 0.5, 1.0, 1.3, 2.38, 2.5, 9.0]
    video, pictures = by_device(decode, film, wanted_s)
    expected = by_ffmpeg(film, wanted_s)
    assert len(pictures) == len(video.pictures) == len(expected) > 2
    for picture, rgb, (pts_s, positions, reference) in zip(video.pictures, pictures, expected, strict=True):
        assert (picture.pts_s, picture.positions) == (pytest.approx(pts_s), positions)
        assert number_of(rgb) == number_of(reference)
        assert np.abs(rgb.astype(int) - reference).max() <= 3
    assert len(video.data) < len(film) or codec != "mjpeg"  # only what is needed is handed over


def test_stand_in_is_decoded(decode):
    video = stand_in_video()
    (pictures,) = decode(VIDEO=[video.data], FRAMES=[np.zeros(1, np.int32)], SIZE=[np.array([128, 128], np.int32)])
    assert pictures.shape == (1, 128, 128, 3)
    assert pictures.max() < 5
