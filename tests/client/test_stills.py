"""Films whose key pictures lie too far apart: what is decoded here shows the same pixels at the sampled times as the source does."""

import io
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

import nasty_media
from fv2es import cutting
from fv2es.cutting import ClipRule, CutReport, cut
from fv2es.source import probe
from fv2es.stills import PICTURE_STEP_S, TIMESTAMP_TOLERANCE_S, Keeping, Still, looked_at
from fv2es.utterances import Utterance, UtteranceRule, plan_utterances
from fv2es.window import PacketWindow
from fv2es_pipelines import constants
from fv2es_pipelines.sampling import sample_times

RULE = ClipRule(target_length_s=4.0, first_length_s=4.0, max_length_s=8.0, max_lead_s=6.0)
ENCODERS = [
    ("libx264", {"x264-params": "scenecut=0:keyint=infinite:bframes=3:ref=4"}, "mp4"),
    ("libx264", {"x264-params": "scenecut=0:keyint=infinite:bframes=16:b-adapt=0:b-pyramid=normal:ref=8"}, "mkv"),
    ("libx264", {"x264-params": "scenecut=0:keyint=infinite:fullrange=on:colormatrix=bt709"}, "ts"),
    ("libx265", {"x265-params": "log-level=none:pools=1:scenecut=0:keyint=-1:bframes=4"}, "mp4"),
    ("libvpx-vp9", {"lag-in-frames": "16", "auto-alt-ref": "1"}, "webm"),
    ("mpeg4", {"bf": "2", "sc_threshold": "1000000000"}, "avi"),
]


def shown(source, times_s):
    """The pixels shown at times, whether they use the full range, the colour matrix and the rotation: of the last picture stamped so or earlier."""
    found, last, waiting = [], None, list(times_s)
    with av.open(source) as container:
        base = container.streams.video[0].time_base
        for frame in container.decode(video=0):
            while waiting and last is not None and frame.pts * base > waiting[0] + TIMESTAMP_TOLERANCE_S:
                found.append(last)
                waiting.pop(0)
            planes = [np.array(plane)[: plane.line_size * plane.height] for plane in frame.planes]
            rows = [
                each.reshape(plane.height, -1)[:, : plane.width]
                for each, plane in zip(planes, frame.planes, strict=True)
            ]
            last = (
                b"".join(each.tobytes() for each in rows),
                int(frame.color_range) == 2,
                int(frame.colorspace),
                frame.rotation,
            )
    return found + [last] * len(waiting)


@pytest.mark.parametrize(("video", "options", "ending"), ENCODERS)
def test_the_sampled_pictures_are_the_sources(tmp_path, video, options, ending):
    path = nasty_media.write_media(
        tmp_path / f"one.{ending}",
        video=video,
        audio="libopus" if ending == "webm" else "aac",
        rate_hz=48_000 if ending == "webm" else 16_000,
        duration_s=24.0,
        gop=100_000,
        options=options,
        fps=Fraction(30_000, 1001),
    )
    report = CutReport()
    utterances = plan_utterances(probe(path), None, UtteranceRule(window_s=1.7, max_length_s=30)).utterances
    clips = list(cut(probe(path), utterances, RULE, report))
    assert [each for clip in clips for each in clip.utterances] == list(utterances)
    assert report.losses == ()
    codecs = [av.open(io.BytesIO(clip.data)).streams.video[0].codec_context.name for clip in clips]
    assert codecs[0] != "ffv1"
    assert codecs.count("ffv1") >= 3
    assert all(len(clip.data) < 2_000_000 for clip in clips)
    for clip in clips:
        times_s = looked_at(clip.utterances)
        ours = shown(io.BytesIO(clip.data), times_s)
        assert ours == shown(str(path), times_s)
        assert len(set(ours)) == len(times_s), "every sampled picture is another one"
    (note,) = report.notes
    assert f"{codecs.count('ffv1')} clips were decoded here" in note


def test_a_later_key_picture_ends_it(tmp_path):
    first, second = (nasty_media.single_key(tmp_path / f"{name}.mp4", duration_s=20.0) for name in ("first", "second"))
    path = tmp_path / "two keys.mp4"
    with av.open(path, "w") as output:
        reads = [av.open(each) for each in (first, second)]
        streams = [output.add_stream_from_template(each) for each in reads[0].streams]
        for shift_s, read in zip((0, 20), reads, strict=True):
            for packet in read.demux():
                if packet.size and (packet.stream.type == "video" or float(packet.pts * packet.time_base) < 19.9):
                    packet.pts += round(shift_s / packet.time_base)
                    packet.dts += round(shift_s / packet.time_base)
                    packet.stream = streams[packet.stream_index]
                    output.mux(packet)
    utterances = plan_utterances(probe(path), None, UtteranceRule(window_s=2.0)).utterances
    clips = list(cut(probe(path), utterances, RULE))
    assert [each for clip in clips for each in clip.utterances] == list(utterances)
    copied = [
        clip.start_s for clip in clips if av.open(io.BytesIO(clip.data)).streams.video[0].codec_context.name == "h264"
    ]
    assert [round(each) for each in copied][:2] == [0, 20]
    for clip in clips:
        times_s = looked_at(clip.utterances)
        assert shown(io.BytesIO(clip.data), times_s) == shown(str(path), times_s)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_survives(tmp_path, degrees):
    path = nasty_media.write_media(
        tmp_path / "turned.mp4",
        duration_s=20.0,
        gop=100_000,
        rotation_deg=degrees,
        options={"x264-params": "scenecut=0:keyint=infinite"},
    )
    utterances = plan_utterances(probe(path), None, UtteranceRule(window_s=2.0)).utterances
    for clip in cut(probe(path), utterances, RULE):
        times_s = looked_at(clip.utterances)
        assert shown(io.BytesIO(clip.data), times_s) == shown(str(path), times_s)


def test_utterances_that_overlap_stay_together(tmp_path):
    path = nasty_media.single_key(tmp_path / "one.mp4", duration_s=24.0)
    starts_s = [index * 1.3 for index in range(17)]
    utterances = [Utterance(index=at, start_s=start_s, end_s=start_s + 2.0) for at, start_s in enumerate(starts_s)]
    report = CutReport()
    clips = list(cut(probe(path), utterances, RULE, report))
    assert [each for clip in clips for each in clip.utterances] == utterances
    whole = [clip for clip in clips[1:] if all(a.end_s <= b.start_s for a, b in pairwise(clip.utterances))]
    assert not whole
    missed = [note for note in report.notes if "overlap too many others" in note]
    if len(clips) > 2:  # max_length_s parted them: then it is said
        assert missed


def compare(path, clips):
    """Every clip shows the pixels of the source at the sampled times; the codecs of the clips' pictures."""
    codecs = []
    for clip in clips:
        times_s = looked_at(clip.utterances)
        assert shown(io.BytesIO(clip.data), times_s) == shown(str(path), times_s)
        with av.open(io.BytesIO(clip.data)) as container:
            codecs += [each.codec_context.name for each in container.streams.video]
    return codecs


def spaced(*spans_s):
    return [Utterance(index=at, start_s=start_s, end_s=end_s) for at, (start_s, end_s) in enumerate(spans_s)]


@pytest.fixture(scope="module")
def minutes(tmp_path_factory):
    """Four minutes on one key picture."""
    return nasty_media.write_media(
        tmp_path_factory.mktemp("films") / "minutes.mp4",
        duration_s=240.0,
        gop=1_000_000,
        size=(64, 48),
        fps=Fraction(10),
        options={"x264-params": "scenecut=0:keyint=infinite:bframes=3"},
    )


def test_a_long_pause_without_key_pictures_costs_none(minutes, monkeypatch):
    """Four minutes take 400 kB here: bounds are as much smaller, so that the pause goes far beyond them."""
    rule = ClipRule(target_bytes=20_000, max_bytes=20_000, limit_bytes=50_000)
    assert minutes.stat().st_size > 5 * rule.limit_bytes
    most, add = [0], PacketWindow.add

    def watched(window, coded):
        add(window, coded)
        most[0] = max(most[0], window.num_video_bytes)

    monkeypatch.setattr(PacketWindow, "add", watched)
    utterances = spaced((1.0, 4.0), (231.2, 234.0), (236.0, 239.5))
    report = CutReport()
    clips = list(cut(probe(minutes), utterances, rule, report))
    assert [each for clip in clips for each in clip.utterances] == utterances
    codecs = compare(minutes, clips)
    assert (codecs[0], set(codecs[1:])) == ("h264", {"ffv1"})
    (note,) = report.notes
    assert "were decoded here" in note
    assert most[0] < rule.max_bytes + 10_000, "what is held is bounded"


def test_many_small_pictures_are_bounded_too(minutes, monkeypatch):
    monkeypatch.setattr(cutting, "MOST_PICTURES", 400)
    most, add = [0], PacketWindow.add

    def watched(window, coded):
        add(window, coded)
        most[0] = max(most[0], window.num_pictures)

    monkeypatch.setattr(PacketWindow, "add", watched)
    utterances = spaced((1.0, 4.0), (231.2, 234.0))
    clips = list(cut(probe(minutes), utterances))
    assert compare(minutes, clips) == ["h264", "ffv1"]
    assert most[0] <= 402


@pytest.mark.parametrize(("video", "gop"), [("mjpeg", 1), ("libx264", 1_000_000)])
def test_an_utterance_of_too_many_bytes_is_decoded(tmp_path, video, gop):
    path = nasty_media.write_media(
        tmp_path / "large.mkv",
        video=video,
        duration_s=20.0,
        size=(64, 48),
        gop=gop,
        fps=Fraction(50),
        options={"qp": "4", "x264-params": "scenecut=0:keyint=infinite"} if video == "libx264" else None,
    )
    utterances = spaced((1.2, 9.2), (10.0, 12.0), (11.0, 13.0), (14.0, 20.0))
    size = path.stat().st_size
    rule = ClipRule(target_bytes=size // 20, max_bytes=size // 20, limit_bytes=size // 4)
    report = CutReport()
    clips = list(cut(probe(path), utterances, rule, report))
    assert [each for clip in clips for each in clip.utterances] == utterances
    assert "ffv1" in compare(path, clips)
    assert all("were decoded here" in note for note in report.notes)


def test_a_key_picture_in_the_pause_ends_decoding(tmp_path):
    path = nasty_media.write_media(
        tmp_path / "keys.mp4",
        duration_s=90.0,
        gop=700,
        size=(64, 48),
        fps=Fraction(10),
        options={"x264-params": "scenecut=0:bframes=3"},
    )
    rule = ClipRule(target_bytes=20_000, max_bytes=20_000, limit_bytes=50_000)
    utterances = spaced((1.0, 3.0), (71.0, 73.0), (85.0, 88.0))  # the second key picture lies at 70 s
    report = CutReport()
    clips = list(cut(probe(path), utterances, rule, report))
    assert [each for clip in clips for each in clip.utterances] == utterances
    assert compare(path, clips)[:2] == ["h264", "h264"]


@pytest.mark.parametrize("size", [(3840, 2160), (6144, 4096), (7680, 4320), (8192, 8192)])
def test_large_pictures_are_kept(size):
    frame = VideoFrame(*size, "yuv420p")
    for plane, level in zip(frame.planes, (90, 128, 140), strict=True):
        plane.update(bytes([level]) * plane.buffer_size)
    keeping = Keeping(rotation_deg=0, limit_bytes=256_000_000)
    keeping.add(Still(frame=frame, pts=5, time_base=Fraction(1, 25)))
    found = keeping.finish(1.0)
    assert found is not None
    with found.container:
        (picture,) = found.stream.codec_context.decode(found.coded[0].packet) or found.stream.codec_context.decode(None)
        assert (picture.width, picture.height) == size
        assert [bytes(plane)[plane.width // 2] for plane in picture.planes] == [90, 128, 140]


def test_pictures_without_loss_over_the_limit_are_named(tmp_path):
    coarse = {
        "qp": "48",
        "x264-params": "scenecut=0:keyint=infinite",
    }  # so that the stream itself stays below the limit
    path = nasty_media.write_media(
        tmp_path / "one.mp4", duration_s=12.0, gop=100_000, options=coarse, fps=Fraction(5), audio=None, size=(320, 240)
    )
    rule = ClipRule(
        target_length_s=3.0, max_length_s=6.0, max_lead_s=3.0, target_bytes=10_000, max_bytes=10_000, limit_bytes=10_000
    )
    assert path.stat().st_size < rule.limit_bytes
    report = CutReport()
    utterances = plan_utterances(probe(path), None, UtteranceRule(window_s=3.0, max_length_s=6.0)).utterances
    clips = list(cut(probe(path), utterances, rule, report))
    named = [
        note for note in report.notes if "encode the file with key pictures more often: ffmpeg -i IN -g 250" in note
    ]
    assert named, report.notes
    assert [each for clip in clips for each in clip.utterances] + [loss.utterance for loss in report.losses] == list(
        utterances
    )
    assert report.losses, "without sound nothing is left of them"


def test_times_are_those_of_the_served_model():
    assert (PICTURE_STEP_S, TIMESTAMP_TOLERANCE_S) == (constants.FRAME_STEP_S, constants.TIMESTAMP_TOLERANCE_S)
    for start_s, end_s in [(0.0, 5.0), (1.3, 1.31), (3600.1, 3605.100001), (7.0, 9.4999999999)]:
        found = looked_at([Utterance(index=0, start_s=start_s, end_s=end_s)])
        assert found == pytest.approx(sample_times(start_s, end_s).tolist())
