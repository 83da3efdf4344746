"""Films for measuring, read back with FFmpeg."""

import itertools
import os
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.material import ENCODINGS, KEY_INTERVAL_S, SOURCE, Material, material, sha256_of
from fv2es.errors import MissingStream, NotMedia, SourceNotFound, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("material")


@pytest.fixture(scope="module")
def film(folder: Path) -> Material:
    """30 s: more than one loop."""
    return material(height_px=180, duration_s=30, frames_per_s=10, folder=folder)


def decoded(film: Material) -> tuple[list[av.VideoFrame], list[av.AudioFrame]]:
    with av.open(str(film.path)) as container:
        pictures = list(container.decode(video=0))
    with av.open(str(film.path)) as container:
        return pictures, list(container.decode(audio=0))


def test_is_what_it_says(film: Material) -> None:
    pictures, sound = decoded(film)
    assert film.name == "astronaut-180p10-h264-30s"
    assert film.sha256 == sha256_of(film.path)
    assert film.num_bytes == film.path.stat().st_size
    assert {(each.width, each.height) for each in pictures} == {(film.width_px, film.height_px)} == {(320, 180)}
    np.testing.assert_allclose([each.time for each in pictures], np.arange(300) / 10, atol=1e-9)
    ends_s = [each.time + each.samples / each.sample_rate for each in sound]
    np.testing.assert_allclose(
        [each.time for each in sound[1:]], ends_s[:-1], atol=1e-9
    )  # without a gap where loops meet
    assert ends_s[-1] == pytest.approx(30, abs=0.03)
    keys = [each.time for each in pictures if each.key_frame]
    np.testing.assert_allclose(keys, np.arange(0, 30, KEY_INTERVAL_S), atol=1e-9)


def test_loops_are_the_same_pictures(film: Material) -> None:
    pictures, _ = decoded(film)
    np.testing.assert_array_equal(pictures[245].to_ndarray(), pictures[5].to_ndarray())


def test_no_two_pictures_are_alike(film: Material) -> None:
    """The camera moves and grain changes, as in real films; a still would cost next to nothing to decode."""
    pictures, _ = decoded(film)
    luma = [each.to_ndarray()[:180].astype(float) for each in pictures[:100]]
    changes = [np.abs(after - before).mean() for before, after in itertools.pairwise(luma)]
    assert np.median(changes) > 3
    assert min(changes) > 0.2  # levels; where the camera stands still for a moment, grain alone


def test_is_made_once(film: Material, folder: Path) -> None:
    before = {each: each.stat().st_mtime_ns for each in folder.iterdir()}
    assert material(height_px=180, duration_s=30, frames_per_s=10, folder=folder) == film
    assert {each: each.stat().st_mtime_ns for each in folder.iterdir()} == before
    film.path.write_bytes(b"cut off")
    again = material(height_px=180, duration_s=30, frames_per_s=10, folder=folder)
    assert (again, again.path.stat().st_size) == (film, film.num_bytes)


@pytest.mark.parametrize("codec", ENCODINGS)
def test_codecs(codec: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVT_LOG", "1")
    scheduling = os.sched_getscheduler(0)
    film = material(height_px=144, codec=codec, duration_s=4, frames_per_s=15, folder=folder)
    assert os.sched_getscheduler(0) == scheduling
    pictures, sound = decoded(film)
    assert len(pictures) == 60
    assert sum(each.samples for each in sound) == pytest.approx(4 * 48_000, abs=2048)
    with av.open(str(film.path)) as container:
        found = container.streams.video[0].codec_context.name
    assert codec == {"libdav1d": "av1"}.get(found, found)


def test_other_shapes_get_bars(folder: Path, tmp_path: Path) -> None:
    """A square film without sound: black at both sides, and no sound made up."""
    square = tmp_path / "square.mp4"
    with av.open(str(square), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 128, "yuv420p"
        for _ in range(20):
            picture = np.full((128, 128, 3), 200, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    film = material(height_px=180, duration_s=4, frames_per_s=10, source=square, folder=folder)
    with av.open(str(film.path)) as container:
        assert [each.type for each in container.streams] == ["video"]
        luma = [each.to_ndarray()[:180] for each in container.decode(video=0)]
    assert len(luma) == 40
    for each in luma:
        assert each[:, :50].mean() < 30 < 150 < each[60:120, 130:190].mean()
        assert each[:, -50:].mean() < 30


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"height_px": 181}, UsageError, "must be even"),
        ({"height_px": 9000}, UsageError, "64 to 4320"),
        ({"codec": "mpeg1"}, UsageError, "h264, hevc, vp9, av1"),
        ({"duration_s": 5.0}, UsageError, "multiple of 2 s"),
        ({"duration_s": 0.0}, UsageError, "above 0"),
        ({"frames_per_s": 29.97}, UsageError, "whole number"),
        ({"source": Path("missing.mp4")}, SourceNotFound, "no such file"),
        ({"source": SOURCE.with_suffix(".srt")}, (NotMedia, MissingStream), "astronaut.srt"),
    ],
)
def test_refusals(arguments: dict, error: type, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        material(**{"height_px": 64, "duration_s": 2.0} | arguments, folder=tmp_path)
    assert not list(tmp_path.iterdir())
