import hashlib
import itertools
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from clips import NUM_PICTURES, number_of, write_film

import nasty_media
from fv2es_pipelines.bitstream import Av1Thinner
from fv2es_pipelines.clip import OpenClip, open_clip
from fv2es_pipelines.limits import MediaLimits
from fv2es_pipelines.video import PictureReader, bounded_threads, plan_packets

STEADY_S = [number / 25 for number in range(50)]  # fewer than 64: each picture is known by its stripes


def chosen(path, times_s, **reader):
    """For each wanted time the timestamp and the number of the picture; and the reader's count of errors."""
    served = [None] * len(times_s)
    with open_clip(path.read_bytes()) as clip:
        pictures = PictureReader(clip, np.array(times_s, np.float64), **reader)
        for one in pictures:
            rgb = one.picture.scaled(one.picture.width_px, one.picture.height_px)
            for position in one.positions:
                assert served[position] is None
                served[position] = (one.pts_s, number_of(rgb))
    return served, pictures.errors


def expected(pictures_s, times_s, *, end_s=None):
    """The definition: the last picture stamped `t` or earlier; its number is its place."""
    end_s = pictures_s[-1] + 0.04 if end_s is None else end_s
    rows = []
    for time_s in times_s:
        before = [number for number, pts_s in enumerate(pictures_s) if pts_s <= time_s + 1e-3]
        rows.append((pictures_s[before[-1]], before[-1] % NUM_PICTURES) if before and time_s < end_s else None)
    return rows


def check(path, pictures_s, times_s, **reader):
    served, errors = chosen(path, times_s, **reader)
    for one, wanted in zip(served, expected(pictures_s, times_s), strict=True):
        assert (one is None) == (wanted is None), (one, wanted)
        if one is not None:
            assert one[0] == pytest.approx(wanted[0], abs=1.1e-3)
            assert one[1] == wanted[1]
    assert errors == 0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("codec", "ending", "pixel_format"),
    [
        ("libx264", "mp4", "yuv420p"),
        ("libx264", "mkv", "yuv420p"),
        ("libx264", "nut", "yuv420p10le"),
        ("libx265", "mkv", "yuv420p"),
        ("libvpx-vp9", "mkv", "yuv420p"),
        ("libsvtav1", "mkv", "yuv420p"),
        ("mpeg4", "mp4", "yuv420p"),
        ("mpeg2video", "ts", "yuv420p"),
        ("mjpeg", "nut", "yuvj420p"),
        ("png", "nut", "rgb24"),
    ],
)
def test_chooses_by_timestamp_in_every_codec(tmp_path, codec, ending, pixel_format, threads):
    path = write_film(tmp_path / f"film.{ending}", STEADY_S, codec=codec, pixel_format=pixel_format, ticks_hz=25)
    offset_s = 0.0
    with av.open(path) as container:  # an MPEG transport stream starts when it likes
        offset_s = container.streams.video[0].start_time * container.streams.video[0].time_base
    pictures_s = [float(offset_s) + time_s for time_s in STEADY_S]
    times_s = [float(offset_s) + k * 0.5 - 0.25 for k in range(6)]
    check(path, pictures_s, times_s, threads=threads)


@pytest.mark.parametrize("gop", [1, 5, 60])
@pytest.mark.parametrize("bframes", [0, 3])
def test_leaving_out_what_nobody_needs_changes_nothing(tmp_path, gop, bframes):
    path = write_film(
        tmp_path / "film.mkv",
        STEADY_S,
        gop=gop,
        options={"preset": "veryfast", "threads": "1", "bf": str(bframes), "x264-params": "open-gop=1"},
    )
    for start_s in (0.0, 0.13, 1.2):
        check(path, STEADY_S, [start_s + 0.5 * k for k in range(4)])
    check(path, STEADY_S, [1.9])
    check(path, STEADY_S, sorted([*STEADY_S, 0.5, 0.5, 0.51]))


def test_gives_the_very_pictures_of_a_plain_decode_of_real_films(shared_media):
    for name in ("WDA_KatieHill_000.mp4", "single_face.mp4"):
        path = shared_media / name
        with av.open(path) as container:
            plain = {frame.time: digest(frame) for frame in container.decode(video=0)}
        last_s = max(plain)
        times_s = [k * 0.5 for k in range(int(last_s / 0.5) + 1)]
        with open_clip(path.read_bytes()) as clip:
            seen = {one.pts_s: digest(one.picture._frame) for one in PictureReader(clip, np.array(times_s))}
        assert seen == {time_s: plain[time_s] for time_s in {max(t for t in plain if t <= w) for w in times_s}}


@pytest.mark.parametrize(
    "parameters",
    [
        "pred-struct=2:hierarchical-levels=4",
        "pred-struct=2:hierarchical-levels=3:enable-overlays=1",
        "pred-struct=1",
        "scm=1:film-grain=10",
    ],
)
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_frames_of_av1_that_no_other_needs_change_nothing(tmp_path, parameters, ending):
    path = nasty_media.write_media(
        tmp_path / f"film.{ending}",
        video="libsvtav1",
        audio=None,
        duration_s=5.0,
        gop=60,
        size=(192, 128),
        options={"preset": "8", "svtav1-params": parameters},
    )
    with av.open(path) as container:
        plain = {round(frame.time, 3): digest(frame) for frame in container.decode(video=0)}
    times_s = np.arange(0.1, 5.0, 0.5)
    with open_clip(path.read_bytes()) as clip:
        seen = {round(one.pts_s, 3): digest(one.picture._frame) for one in PictureReader(clip, times_s)}
    assert seen == {time_s: plain[time_s] for time_s in {max(t for t in plain if t <= w + 1e-3) for w in times_s}}
    with av.open(path) as container:
        thinner = Av1Thinner(container.streams.video[0].codec_context.extradata)
        whole = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    thin = [thinner.thinned(data) for data in whole]
    if "pred-struct=1" not in parameters:
        assert sum(one != data for one, data in zip(thin, whole, strict=True)) > 25, "frames at the top of the pyramid"
    for data in whole:
        for stop in (0, 1, 2, len(data) // 2, len(data) - 1):
            assert len(thinner.thinned(data[:stop])) <= stop, "broken off anywhere"


def digest(frame):
    planes = [np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size) for plane in frame.planes]
    rows = [plane[:, : part.width].tobytes() for plane, part in zip(planes, frame.planes, strict=True)]
    return hashlib.sha256(b"".join(rows)).hexdigest()


def test_variable_frame_rate(tmp_path):
    steps = itertools.cycle([0.04, 0.01, 0.3, 0.02, 0.9, 0.033, 0.12])
    pictures_s = list(itertools.takewhile(lambda time_s: time_s < 8, itertools.accumulate(steps, initial=0.0)))
    path = write_film(tmp_path / "vfr.mkv", pictures_s, ticks_hz=1000)
    check(path, pictures_s, [0.1 + 0.5 * k for k in range(15)])


def test_timestamps_that_start_late(tmp_path):
    pictures_s = [3600 + time_s for time_s in STEADY_S]
    path = write_film(tmp_path / "late.mkv", pictures_s)
    check(path, pictures_s, [3599.5, 3600.0, 3600.5, 3601.0, 3601.99, 3602.5])


def test_timestamps_that_jump_ahead(tmp_path):
    pictures_s = [time_s if time_s < 1 else time_s + 40 for time_s in STEADY_S]
    path = write_film(tmp_path / "jump.mkv", pictures_s)
    check(path, pictures_s, [0.5, 0.98, 20.0, 40.9, 41.0, 41.5, 42.5])


def test_timestamps_that_jump_back_serve_no_time_twice(tmp_path):
    path = nasty_media.jump_back(tmp_path / "back.ts")
    with av.open(path) as container:
        stream = container.streams.video[0]
        first_s = float(stream.start_time * stream.time_base)
    served, _ = chosen(path, [first_s + k * 0.5 for k in range(4)])
    assert all(one is not None for one in served)


def test_a_film_of_one_picture(tmp_path):
    path = write_film(tmp_path / "one.mkv", [0.0])
    served, errors = chosen(path, [0.0, 0.5])
    assert (served, errors) == ([(0.0, 0), None], 0)


class Unstamped(OpenClip):
    """A clip whose container gives no presentation times, as some do for streams with reordered pictures."""

    def packets(self, stream):
        for packet in super().packets(stream):
            packet.pts = None
            yield packet


@pytest.mark.parametrize("threads", [1, 2])
def test_pictures_without_timestamps_are_shown_in_order(tmp_path, threads):
    path = write_film(tmp_path / "plain.mkv", STEADY_S, options={"preset": "veryfast", "threads": "1", "bf": "0"})
    with av.open(path) as container:
        pictures = PictureReader(Unstamped(container, MediaLimits()), np.array([0.0, 0.5, 1.0]), threads=threads)
        numbers = [number_of(one.picture.scaled(64, 48)) for one in pictures]
    assert numbers == [0, 12, 25]


def test_a_clip_that_starts_between_key_pictures(tmp_path):
    path = write_film(
        tmp_path / "keyless.mkv",
        STEADY_S,
        gop=20,
        options={"preset": "veryfast", "threads": "1", "bf": "0", "x264-params": "scenecut=0"},
        change=lambda place, data: None if place < 7 else data,
    )
    served, _ = chosen(path, [0.5, 1.0, 1.5])
    assert served[0] is None or served[0][0] <= 0.5
    assert [number for _, number in served[1:]] == [25, 37]


def test_damaged_packets_are_counted_and_cost_only_what_depends_on_them(tmp_path):
    noise = np.random.default_rng(1)

    def spoil(place, data):
        return noise.integers(0, 256, len(data), dtype=np.uint8).tobytes() if 12 <= place < 16 else data

    path = write_film(tmp_path / "bad.nut", STEADY_S, codec="mjpeg", pixel_format="yuvj420p", ticks_hz=25, change=spoil)
    served, errors = chosen(path, [0.0, 0.5, 0.6, 1.0])
    assert errors >= 1
    assert served[0] == (0.0, 0)
    assert served[3] == (1.0, 25)
    assert all(one is None or one[0] < 0.48 for one in served[1:3])  # the last good picture stands in


@pytest.mark.parametrize("write", [nasty_media.damaged_middle, nasty_media.cut_off_mp4])
def test_a_damaged_film_still_gives_its_sound_parts(tmp_path, write):
    path = write(tmp_path / "bad.mp4")
    served, errors = chosen(path, [0.0, 0.5, 1.0])
    assert all(served)
    whole, errors = chosen(path, [k * 0.5 for k in range(24)])
    assert errors > 0 or None in whole


PEAK_OF_READING = """
import resource, sys
import numpy as np
from fv2es_pipelines.clip import open_clip
from fv2es_pipelines.video import PictureReader

data = open(sys.argv[1], "rb").read()
for count in map(int, sys.argv[2:]):
    with open_clip(data) as clip:
        for one in PictureReader(clip, np.arange(count) * 0.5, threads=1):
            one.picture.scaled(64, 36)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_stays_flat(tmp_path):
    """What was handed on and dropped is freed at once: a hundred pictures, or ten times ten, peak like ten."""
    path = write_film(tmp_path / "long.mkv", [number / 2 for number in range(100)], size=(1280, 720), gop=10)
    command = [sys.executable, "-c", PEAK_OF_READING, path, *["10"] * 2, "100", *["10"] * 10]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    peaks_kib = [int(line) for line in lines]
    assert max(peaks_kib) - peaks_kib[1] < 30 * 1024  # a decoded picture is 1.4 MB


@pytest.mark.parametrize(
    ("threads", "size", "most"),
    [(3, (640, 360), 3), (64, (640, 360), 16), (64, (3840, 2160), 10), (64, (7680, 4320), 2), (8, (0, 0), 8)],
)
def test_the_larger_the_pictures_the_fewer_threads_hold_some(threads, size, most):
    assert bounded_threads(threads, *size) == most
    assert 1 <= bounded_threads(0, *size) <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize("ending", ["mkv", "mp4", "nut"])
def test_packets_that_nobody_needs_are_not_decoded(tmp_path, ending):
    intra = write_film(tmp_path / f"intra.{ending}", STEADY_S, codec="mjpeg", pixel_format="yuvj420p", ticks_hz=25)
    assert plan_counts(intra, [0.5, 1.0]) == (48, 0, 2)
    options = {"preset": "veryfast", "threads": "1", "bf": "2", "x264-params": "scenecut=0:keyint=25:min-keyint=25"}
    predicted = write_film(tmp_path / f"predicted.{ending}", STEADY_S, options=options, ticks_hz=25)
    skipped, _, shown = plan_counts(predicted, [1.2])
    assert shown == 1
    assert skipped >= 25  # the group before, and what follows
    skipped, _, shown = plan_counts(predicted, [0.1, 0.4, 1.1, 1.4])
    assert shown == 4
    assert skipped >= 20  # 14 pictures of each group come after its last wanted one, some of them are decoded before it


def plan_counts(path, times_s):
    """How many packets are left out, decoded for others, and decoded to be seen."""
    with open_clip(path.read_bytes()) as clip:
        stream = clip.video()
        needs = plan_packets(stream, list(clip.packets(stream)), np.array(times_s)).needs
    return tuple(int((needs == need).sum()) for need in (0, 1, 2))
