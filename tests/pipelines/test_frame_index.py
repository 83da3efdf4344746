"""Pictures are found by number in the video for a device: by FFmpeg for what NVDEC decodes, by DALI on the CPU for what that decodes."""

import io

import av
import numpy as np
import pytest
from clips import number_of, write_film

import nasty_media
from fv2es_pipelines import frame_index
from fv2es_pipelines.bitstream import shows_one_frame, units
from fv2es_pipelines.clip import open_clip
from fv2es_pipelines.decode_graph import GraphRunner, decode_pipeline
from fv2es_pipelines.errors import NotOnDevice
from fv2es_pipelines.frame_index import decode_size, device_video, stand_in_video
from fv2es_pipelines.video import PictureReader

STEADY_S = np.arange(60) / 25
UNEVEN_S = np.cumsum(np.resize([0.04, 0.01, 0.3, 0.02, 0.2, 0.033], 60))
SIZE = (160, 144)  # HEVC on NVDEC takes no smaller ones
SHORT_GROUPS = "scenecut=0:keyint=15:min-keyint=15"
X265 = {"preset": "ultrafast", "x265-params": f"log-level=none:pools=1:bframes=3:open-gop=1:{SHORT_GROUPS}"}


@pytest.fixture(scope="module")
def decode():
    return GraphRunner(decode_pipeline("cpu"))


def video_for(data, times_s, device):
    with open_clip(data) as clip:
        return device_video(clip, np.array(times_s, float), device=device)


def by_ffmpeg(data, times_s):
    """What `PictureReader` chooses: time, positions, picture."""
    with open_clip(data) as clip:
        return [
            (each.pts_s, each.positions, each.picture.scaled(each.picture.width_px, each.picture.height_px))
            for each in PictureReader(clip, np.array(times_s, float), threads=1)
        ]


def check_numbers(pictures, shown, expected):
    """The chosen pictures serve the same times as the expected ones and show the same number."""
    assert [picture.positions for picture in pictures] == [positions for _, positions, _ in expected]
    assert [picture.pts_s for picture in pictures] == pytest.approx([pts_s for pts_s, _, _ in expected])
    assert [number_of(rgb) for rgb in shown] == [number_of(rgb) for _, _, rgb in expected]


@pytest.mark.parametrize(
    ("codec", "times_s", "ending"),
    [
        ("libvpx-vp9", STEADY_S, "mkv"),
        ("libvpx-vp9", UNEVEN_S, "mp4"),
        ("libvpx", UNEVEN_S, "mkv"),
        ("mjpeg", STEADY_S, "mp4"),
        ("mjpeg", UNEVEN_S, "nut"),
    ],
)
def test_dali_decodes_the_same_pictures(decode, tmp_path, codec, times_s, ending):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    film = write_film(tmp_path / f"film.{ending}", times_s, codec=codec, pixel_format=pixels, size=SIZE).read_bytes()
    wanted_s = [-1.0, 0.0, 0.5, 0.5, 1.0, 1.3, 2.38, 2.5, 9.0]
    video, expected = video_for(film, wanted_s, "cpu"), by_ffmpeg(film, wanted_s)
    numbers = np.array([picture.number for picture in video.pictures], np.int32)
    (shown,) = decode(VIDEO=[video.data], FRAMES=[numbers], SIZE=[np.array(SIZE[::-1], np.int32)])
    assert len(shown) > 2
    check_numbers(video.pictures, shown, expected)
    for rgb, (_, _, reference) in zip(shown, expected, strict=True):
        assert np.abs(rgb.astype(int) - reference).max() <= 3


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "nut"])
@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"bf": "3", "x264-params": f"b-pyramid=2:{SHORT_GROUPS}"}),
        ("libx264", {"bf": "3", "x264-params": f"open-gop=1:{SHORT_GROUPS}"}),
        ("libx265", X265),
    ],
    ids=["h264", "h264-open", "hevc"],
)
def test_numbers_of_codecs_that_reorder_pictures(tmp_path, codec, options, ending):
    if codec == "libx264":
        options = {"preset": "veryfast", "threads": "1", **options}
    if (codec, ending) == ("libx265", "nut"):
        ending = "mov"
    film = write_film(tmp_path / f"film.{ending}", STEADY_S, codec=codec, options=options, size=SIZE).read_bytes()
    wanted_s = [0.3, 2.2, 2.3]  # the groups between are left out
    video = video_for(film, wanted_s, "gpu")
    with av.open(io.BytesIO(video.data.tobytes())) as reader:
        decoded = [frame.to_ndarray(format="rgb24") for frame in reader.decode(video=0)]
    check_numbers(video.pictures, [decoded[picture.number] for picture in video.pictures], by_ffmpeg(film, wanted_s))
    assert len(decoded) < 60


def film_of(codec="libx264", **options):
    return lambda path: write_film(path, STEADY_S, codec=codec, **{"size": SIZE, **options})


INTERLACED = {"preset": "veryfast", "threads": "1", "flags": "+ildct+ilme", "x264-params": "interlaced=1"}


@pytest.mark.parametrize(
    ("make", "name", "reason"),
    [
        (film_of("mpeg4", ticks_hz=25), "asp.mp4", "codec"),
        (film_of("mjpeg", pixel_format="yuvj420p"), "jpeg.mkv", "codec"),
        (film_of("libsvtav1", options={"preset": "12", "svtav1-params": "lp=1"}), "av1.mkv", "codec"),
        (film_of(pixel_format="yuv422p"), "422.mp4", "pixels"),
        (film_of(pixel_format="yuv420p10le"), "ten bits.mp4", "pixels"),
        (film_of("libx265", pixel_format="yuv444p", options=X265), "444.mp4", "pixels"),
        (film_of("libvpx-vp9", size=(96, 64)), "small.mkv", "size"),
        (nasty_media.odd_size, "odd.webm", "size"),
        (film_of(options=INTERLACED), "interlaced.mp4", "interlaced"),
        (nasty_media.keyless_start, "keyless.ts", "start"),
        (nasty_media.damaged_middle, "damaged.mp4", "damage"),
        (nasty_media.jump_back, "back.ts", "damage"),
    ],
)
def test_what_nvdec_lacks_is_refused(tmp_path, make, name, reason):
    with pytest.raises(NotOnDevice, match="decoded on the CPU") as caught:
        video_for(make(tmp_path / name).read_bytes(), [0.5, 5.0], "gpu")
    assert caught.value.reason == reason


def test_pictures_that_would_fill_the_device_are_refused(tmp_path, monkeypatch):
    film = film_of()(tmp_path / "film.mp4").read_bytes()
    assert len(video_for(film, [0.0, 0.5, 1.0], "gpu").pictures) == 3
    for limit in ("MAX_DECODED_BYTES", "MAX_HANDED_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(frame_index, limit, 3 * 160 * 144 * 3 - 1)
            with pytest.raises(NotOnDevice) as caught:
                video_for(film, [0.0, 0.5, 1.0], "gpu")
        assert caught.value.reason == "memory"


@pytest.mark.parametrize(
    ("size", "start_s", "reason"), [((176, 144), 2.4, "changes"), (SIZE, 0.0, "times"), (SIZE, 2.4, None)]
)
def test_joined_recordings(tmp_path, size, start_s, reason):
    first, second = film_of()(tmp_path / "1.ts"), film_of(size=size)(tmp_path / "2.ts")
    joined = first.read_bytes() + nasty_media.remux(second, tmp_path / "3.ts", change=later(start_s)).read_bytes()
    if reason is None:
        assert len(video_for(joined, [0.5, 3.0], "gpu").pictures) == 2
        return
    with pytest.raises(NotOnDevice) as caught:
        video_for(joined, [0.5, 3.0], "gpu")
    assert caught.value.reason == reason


def later(by_s):
    def change(_, packet):
        ticks = round(by_s / packet.time_base)
        packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        return packet

    return change


@pytest.mark.parametrize(
    ("make", "name", "wanted_s"),
    [
        (nasty_media.sound_only, "sound.mp4", [0.0]),
        (nasty_media.cover_art, "cover.mp4", [0.0]),
        (nasty_media.pictures_only, "far.mkv", [77.0]),
    ],
)
def test_where_no_picture_is_wanted_one_stands_in(decode, tmp_path, make, name, wanted_s):
    video = video_for(make(tmp_path / name).read_bytes(), wanted_s, "gpu")
    assert video.pictures == ()
    assert video is stand_in_video()
    (pictures,) = decode(VIDEO=[video.data], FRAMES=[np.zeros(1, np.int32)], SIZE=[np.array([128, 128], np.int32)])
    assert pictures.shape == (1, 128, 128, 3)
    assert pictures.max() < 5


def test_rotation_and_colours_are_told(tmp_path):
    turned = video_for(film_of(rotation_deg=90)(tmp_path / "turned.mp4").read_bytes(), [0.5], "gpu")
    assert turned.orientation.transpose
    assert (turned.width_px, turned.height_px) == SIZE
    assert not turned.bt709
    hd = {"preset": "veryfast", "threads": "1", "x264-params": "colormatrix=bt709"}
    assert video_for(film_of(options=hd)(tmp_path / "hd.mp4").read_bytes(), [0.5], "gpu").bt709


@pytest.mark.parametrize(
    ("full", "expected"), [((640, 360), (640, 360)), ((1920, 1080), (1333, 750)), ((3840, 2160), (1333, 750))]
)
def test_large_pictures_are_made_smaller(full, expected):
    assert decode_size(*full) == expected


@pytest.mark.parametrize(
    ("codec", "data", "shown"),
    [
        ("vp8", bytes([0b10000]), True),
        ("vp8", bytes([0]), False),
        ("vp9", bytes([0b10000010, 1]), True),
        ("vp9", bytes([0b10000000, 1]), False),
        ("vp9", bytes([0b10001000, 1]), False),  # shows an earlier frame
        ("vp9", bytes([0b10000000, 1, 0b10000010, 1, 0b11000001, 2, 2, 0b11000001]), True),  # hidden, then shown
        ("vp9", bytes([0b10000010, 1, 0b10000010, 1, 0b11000001, 2, 2, 0b11000001]), False),
    ],
)
def test_frames_in_a_packet(codec, data, shown):
    assert shows_one_frame(data, codec=codec) is shown


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x00\x09\x65", b"\x00\x00\x00\x01\xe5", b"\x00\x00"])
def test_units_that_do_not_fill_their_packet(data):
    assert units(data, codec="h264", length_bytes=4) is None
    assert units(b"\x00\x00\x00\x02\x65\x01", codec="h264", length_bytes=4) == [(5, b"\x65\x01")]
