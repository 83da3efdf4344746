"""Clips are compared with the source itself: both are decoded, and every utterance must show the same pictures at the
same times and sound the same."""

import hashlib
import io
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nasty_media
from fv2es.cutting import ClipRule, CutReport, cut
from fv2es.errors import UsageError
from fv2es.remux import TOLERANCE_S, decode_times
from fv2es.source import probe
from fv2es.utterances import Utterance, UtteranceRule, plan_utterances

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "media"
SHORT = ClipRule(target_length_s=3.0)

# Sound of a clip against sound of the source, relative to its peak. Most decoders give the same bits once settled.
SOUND_TOLERANCE = {
    "opus": 1e-3,  # predicts from all that went before; converges within the pre-roll
    "ac3": 0.1,  # fills silent bands with noise from a generator whose state depends on what went before
    "eac3": 0.1,
    "flv": np.inf,  # FLV counts in milliseconds, so its own frames overlap; the times of the packets are checked instead
}


def decoded(source):
    """Times and hashes of pictures, and pieces of sound with their times."""
    pictures, sound = {}, []
    with av.open(source) as container:
        for packet in container.demux():
            if packet.stream.disposition & av.stream.Disposition.attached_pic:
                continue
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                if isinstance(frame, av.VideoFrame):
                    planes = b"".join(shown_bytes(plane, frame.format.name) for plane in frame.planes)
                    pictures[float(frame.pts * frame.time_base)] = (hashlib.md5(planes).hexdigest(), frame.rotation)  # noqa: S324
                else:
                    samples = frame.to_ndarray()
                    if not frame.format.is_planar:
                        samples = samples.reshape(-1, frame.layout.nb_channels).T
                    sound.append((float(frame.pts * frame.time_base), samples[0].astype(float), frame.sample_rate))
    return pictures, sound


def shown_bytes(plane, pixel_format):
    """The plane without the padding at the end of its rows."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height]
    return rows[:, : plane.width * (2 if "10le" in pixel_format else 1)].tobytes()


def sound_line(sound, start_s, end_s):
    """Samples of [start_s, end_s) placed by their times; nan where there is none."""
    if not sound:
        return np.zeros(0)
    rate_hz = sound[0][2]
    first, last = round(start_s * rate_hz), round(end_s * rate_hz)
    line = np.full(last - first, np.nan)
    for time_s, samples, _ in sound:
        at = round(time_s * rate_hz)
        low, high = max(at, first), min(at + len(samples), last)
        if low < high:
            line[low - first : high - first] = samples[low - at : high - at]
    return line


def within(pictures, start_s, end_s, slack_s):
    return [(t, h) for t, h in sorted(pictures.items()) if start_s - slack_s <= t < end_s - slack_s]


def assert_same(path, clips, sound_tolerance=1e-6):
    """Each utterance of each clip decodes as the source does. Gives (pictures, samples) compared."""
    pictures, sound = decoded(str(path))
    peak = max((float(np.abs(samples).max()) for _, samples, _ in sound), default=1.0) or 1.0
    num_pictures = num_samples = 0
    for clip in clips:
        own_pictures, own_sound = decoded(io.BytesIO(clip.data))
        slack_s = TOLERANCE_S[clip.container]
        for each in clip.utterances:
            wanted = within(pictures, each.start_s, each.end_s, slack_s)
            found = within(own_pictures, each.start_s, each.end_s, slack_s)
            assert [h for _, h in wanted] == [h for _, h in found]
            assert [t for t, _ in found] == pytest.approx([t for t, _ in wanted], abs=slack_s)
            num_pictures += len(wanted)
            wanted_line, found_line = (sound_line(line, each.start_s, each.end_s) for line in (sound, own_sound))
            heard = ~np.isnan(wanted_line)
            num_samples += int(heard.sum())
            if heard.any():
                error = np.abs(wanted_line - found_line)[heard] / peak
                assert np.nan_to_num(error, nan=np.inf).max() <= sound_tolerance
    return num_pictures, num_samples


def cut_all(path, *, window_s=1.5, rule=SHORT):
    info, report = probe(path), CutReport()
    planned = plan_utterances(info, None, UtteranceRule(window_s=window_s, max_length_s=30))
    clips = list(cut(info, planned.utterances, rule, report))
    return planned.utterances, clips, report


FORMATS = [
    ("libx264", "aac", "mp4", 16_000, "mp4"),
    ("libx264", "aac", "ts", 16_000, "mp4"),
    ("libx264", "aac", "mkv", 16_000, "matroska"),
    ("libx264", "aac", "flv", 44_100, "mp4"),
    ("libx264", "aac", "avi", 16_000, "mp4"),
    ("libx264", "alac", "mov", 16_000, "mp4"),
    ("libx265", "aac", "mp4", 16_000, "mp4"),
    ("libvpx", "vorbis", "webm", 48_000, "matroska"),
    ("libvpx-vp9", "libopus", "webm", 48_000, "matroska"),
    ("libsvtav1", "libopus", "mp4", 48_000, "mp4"),
    ("mpeg2video", "ac3", "ts", 48_000, "mp4"),
    ("mpeg4", "libmp3lame", "avi", 16_000, "mp4"),
    ("mpeg4", "flac", "mkv", 16_000, "matroska"),
    ("mjpeg", "pcm_s16le", "avi", 16_000, "mov"),
    ("prores_ks", "pcm_s24le", "mov", 16_000, "mov"),
    (None, "libmp3lame", "mp3", 16_000, "mp4"),
    (None, "pcm_s16le", "wav", 16_000, "mov"),
    (None, "libopus", "ogg", 48_000, "mp4"),
    (None, "flac", "flac", 16_000, "mp4"),
    (None, "aac", "aac", 16_000, "mp4"),
]


@pytest.mark.parametrize(("video", "audio", "ending", "rate_hz", "container"), FORMATS)
def test_clips_decode_as_the_source_does(tmp_path, monkeypatch, video, audio, ending, rate_hz, container):
    monkeypatch.setenv("SVT_LOG", "1")  # errors alone
    path = nasty_media.write_media(
        tmp_path / f"source.{ending}",
        video=video,
        audio=audio,
        rate_hz=rate_hz,
        duration_s=7.0,
        fps=Fraction(30_000, 1001),
        gop=40,
        options={"bf": "2"} if video in ("libx264", "mpeg2video", "mpeg4") else {},
    )
    utterances, clips, report = cut_all(path)
    assert {clip.container for clip in clips} == {container}
    assert len(clips) >= 2
    assert [each for clip in clips for each in clip.utterances] == list(utterances)
    tolerance = SOUND_TOLERANCE.get(ending, SOUND_TOLERANCE.get(audio.removeprefix("lib"), 1e-6))
    num_pictures, num_samples = assert_same(path, clips, tolerance)
    assert num_pictures == (round(7.0 * 30_000 / 1001) if video else 0)
    assert num_samples > 6.9 * rate_hz
    assert (report.notes, report.losses) == ((), ())
    assert (report.num_clips, report.num_bytes) == (len(clips), sum(len(clip.data) for clip in clips))


@pytest.mark.parametrize(
    "name", ["WDA_KatieHill_000.mp4", "WolfgangLanger_Pexels.mp4", "single_face.mp4", "no_face.mp4"]
)
def test_real_files(name):
    if not (DATA / name).exists():
        pytest.skip("the shared media are not here")
    utterances, clips, report = cut_all(DATA / name)
    assert [each for clip in clips for each in clip.utterances] == list(utterances)
    assert_same(DATA / name, clips)
    assert (report.notes, report.losses) == ((), ())


@pytest.mark.parametrize(
    ("make", "ending"),
    [
        (nasty_media.variable_rate, "mp4"),
        (nasty_media.late_start, "mkv"),
        (nasty_media.late_start, "ts"),
        (nasty_media.late_start, "mp4"),
        (nasty_media.many_keys, "mp4"),
        (nasty_media.one_frame, "mp4"),
        (nasty_media.pictures_only, "mp4"),
        (nasty_media.sound_only, "mp4"),
        (nasty_media.odd_size, "webm"),
        (nasty_media.two_sounds, "mp4"),
        (nasty_media.cover_art, "mp4"),
        (nasty_media.audio_longer, "mp4"),
        (nasty_media.audio_ends_early, "mp4"),
    ],
)
def test_odd_files_lose_nothing(tmp_path, make, ending):
    path = make(tmp_path / f"odd.{ending}")
    utterances, clips, report = cut_all(path)
    assert [each for clip in clips for each in clip.utterances] == list(utterances)
    # the source's decoder hears all streams of sound at once; a clip holds one
    if make is not nasty_media.two_sounds:
        assert sum(assert_same(path, clips, 1e-3)) > 0
    assert (report.notes, report.losses) == ((), ())


@pytest.mark.parametrize(
    ("video", "options", "ending"),
    [
        ("libx264", {"x264-params": "open-gop=1:bframes=3:scenecut=0"}, "mp4"),
        ("libx264", {"x264-params": "open-gop=1:bframes=3:scenecut=0"}, "ts"),
        ("libx265", {"x265-params": "log-level=none:pools=1:open-gop=1:bframes=3:keyint=25"}, "mp4"),
        ("mpeg2video", {"bf": "2"}, "ts"),
    ],
)
def test_key_pictures_that_others_reach_back_over(tmp_path, video, options, ending):
    path = nasty_media.write_media(tmp_path / f"open.{ending}", video=video, duration_s=8.0, gop=25, options=options)
    _, clips, report = cut_all(path)
    assert assert_same(path, clips)[0] == 200
    for clip in clips[1:]:
        with av.open(io.BytesIO(clip.data)) as container:
            times = [packet.pts for packet in container.demux(video=0) if packet.size]
            assert min(times) == times[0], "a clip begins with pictures that build on those before its key picture"
    assert report.notes == ()


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_survives(tmp_path, ending, degrees):
    path = nasty_media.rotated(tmp_path / f"turned.{ending}", rotation_deg=degrees)
    _, clips, _ = cut_all(path)
    for clip in clips:
        pictures, _ = decoded(io.BytesIO(clip.data))
        assert {turn % 360 for _, turn in pictures.values()} == {degrees}


def test_pictures_before_an_edit_lists_start(tmp_path):
    whole = nasty_media.write_media(tmp_path / "whole.mp4", duration_s=6.0)

    def earlier(_, packet):
        packet.pts -= round(0.7 / packet.time_base)
        packet.dts -= round(0.7 / packet.time_base)
        return packet

    path = nasty_media.remux(whole, tmp_path / "trimmed.mp4", change=earlier)
    with av.open(path) as container:
        assert next(container.demux(video=0)).pts < 0
    _, clips, _ = cut_all(path)
    assert assert_same(path, clips)[0] == pytest.approx(132, abs=1)


def test_a_clip_begins_at_the_key_picture_with_some_sound_ahead(tmp_path):
    path = nasty_media.write_media(
        tmp_path / "plain.mp4", duration_s=8.0, gop=25, options={"x264-params": "scenecut=0"}
    )
    info = probe(path)
    (clip,) = cut(info, [Utterance(index=0, start_s=4.6, end_s=5.3)])
    with av.open(io.BytesIO(clip.data)) as container:
        times_s = {"video": [], "audio": []}
        for packet in container.demux():
            if packet.size:
                times_s[packet.stream.type].append(float(packet.pts * packet.time_base))
    assert min(times_s["video"]) == pytest.approx(4.0)  # key pictures lie at whole seconds
    assert max(times_s["video"]) == pytest.approx(5.28)
    assert 4.6 - 0.25 - 0.064 <= min(times_s["audio"]) <= 4.6 - 0.25
    assert 5.3 <= max(times_s["audio"]) + 0.064 <= 5.3 + 0.1 + 0.064
    assert (clip.start_s, clip.end_s) == (4.6, 5.3)


def test_clips_have_the_target_length(tmp_path):
    path = nasty_media.write_media(tmp_path / "plain.mp4", duration_s=20.0, fps=Fraction(10), gop=10)
    utterances, clips, _ = cut_all(path, rule=ClipRule(target_length_s=6.0))
    assert [len(clip.utterances) for clip in clips] == [4, 4, 4, 2]
    assert [clip.index for clip in clips] == [0, 1, 2, 3]
    assert (clips[0].start_s, clips[-1].end_s) == (0.0, utterances[-1].end_s)


def test_large_clips_are_cut_earlier(tmp_path):
    path = nasty_media.write_media(tmp_path / "big.avi", video="mjpeg", audio=None, duration_s=8.0, size=(320, 240))
    size_bytes = path.stat().st_size
    _, clips, _ = cut_all(path, window_s=1.0, rule=ClipRule(target_bytes=size_bytes // 3))
    assert max(len(clip.data) for clip in clips) <= size_bytes / 3
    assert 3 <= len(clips) <= 5


def test_one_key_picture_for_all(tmp_path):
    path = nasty_media.single_key(tmp_path / "single.mp4", duration_s=12.0)
    _, clips, report = cut_all(path)
    assert len(clips) == 1, "a second clip would hold the first one's pictures again"
    assert report.notes == ()
    _, clips, report = cut_all(path, rule=ClipRule(target_length_s=3.0, max_length_s=6.0))
    assert len(clips) == 2
    assert assert_same(path, clips)[0] == 300


def test_pictures_over_the_limit_are_named(tmp_path):
    path = nasty_media.single_key(tmp_path / "single.mp4", duration_s=12.0)
    rule = ClipRule(target_length_s=3.0, target_bytes=300, max_bytes=300, limit_bytes=300)
    utterances, clips, report = cut_all(path, rule=rule)
    assert [each for clip in clips for each in clip.utterances] == list(utterances)
    with av.open(io.BytesIO(clips[-1].data)) as container:
        assert [stream.type for stream in container.streams] == ["audio"]
    note = next(note for note in report.notes if note.startswith("pictures in ["))
    assert "300 bytes" in note


@pytest.mark.parametrize(("make", "ending"), [(nasty_media.cut_off_mp4, "mp4"), (nasty_media.cut_off_mkv, "mkv")])
def test_what_is_missing_at_the_end_is_named(tmp_path, make, ending):
    path = make(tmp_path / f"short.{ending}", duration_s=12.0)
    info, report = probe(path), CutReport()
    utterances = [Utterance(index=index, start_s=index * 2.0, end_s=index * 2.0 + 2.0) for index in range(6)]
    clips = list(cut(info, utterances, SHORT, report))
    held = [each.index for clip in clips for each in clip.utterances]
    assert held == [0, 1, 2]
    assert [loss.utterance.index for loss in report.losses] == [3, 4, 5]
    assert all("the file's data end at" in loss.reason for loss in report.losses)
    assert any("nothing follows for 3 utterances up to 12.00 s" in note for note in report.notes)


def test_a_damaged_middle_costs_no_utterance(tmp_path):
    path = nasty_media.damaged_middle(tmp_path / "damaged.mp4")
    utterances, clips, _ = cut_all(path)
    assert [each for clip in clips for each in clip.utterances] == list(utterances)
    last = clips[-1]
    assert assert_same(path, [last])[0] > 30, "what follows the damage is whole again"


def test_a_leap_ahead_leaves_nothing_in_between(tmp_path):
    path = nasty_media.jump_forward(tmp_path / "leap.mkv", at_s=4.0, by_s=40.0, duration_s=8.0)
    utterances, clips, report = cut_all(path, window_s=2.0)
    lost = [loss.utterance for loss in report.losses]
    held = [each for clip in clips for each in clip.utterances]
    assert sorted([*lost, *held], key=lambda each: each.index) == list(utterances)
    # the last picture counts as shown for 10 s
    assert {each.start_s for each in lost} == {float(start_s) for start_s in range(14, 44, 2)}
    assert all("neither pictures nor sound" in loss.reason for loss in report.losses)


def test_a_clock_that_starts_again_is_named(tmp_path):
    path = nasty_media.jump_back(tmp_path / "joined.ts")
    utterances, clips, report = cut_all(path)
    assert [each for clip in clips for each in clip.utterances] == list(utterances)
    text = "\n".join(report.notes)
    assert "the video stream jump back from 3.9" in text
    assert "the audio stream jump back from 4.0" in text


def test_a_start_without_a_key_picture_is_named(tmp_path):
    path = nasty_media.keyless_start(tmp_path / "middle.ts")
    utterances, clips, report = cut_all(path)
    assert [each for clip in clips for each in clip.utterances] == list(utterances)
    assert any("no key picture precedes them" in note for note in report.notes)
    pictures, _ = decoded(io.BytesIO(clips[0].data))
    assert pictures


def test_utterances_far_apart_and_overlapping(tmp_path):
    path = nasty_media.write_media(tmp_path / "plain.mp4", duration_s=16.0, gop=25)
    spans = [(1.0, 3.0), (2.0, 2.5), (2.2, 6.0), (15.0, 15.7)]
    utterances = [Utterance(index=index, start_s=a, end_s=b) for index, (a, b) in enumerate(spans)]
    clips = list(cut(probe(path), utterances, ClipRule(interleave_s=5.0)))
    assert [[each.index for each in clip.utterances] for clip in clips] == [[0, 1, 2], [3]]
    assert (clips[0].start_s, clips[0].end_s) == (1.0, 6.0)
    assert assert_same(path, clips)[0] > 0


def test_streams_one_after_the_other_are_not_waited_for(tmp_path):
    source = nasty_media.write_media(tmp_path / "plain.mkv", duration_s=12.0)
    path = tmp_path / "apart.nut"
    with av.open(source) as reader, av.open(path, "w", options={"max_interleave_delta": "1"}) as writer:
        streams = {stream.index: writer.add_stream_from_template(stream, opaque=True) for stream in reader.streams}
        packets = [packet for packet in reader.demux() if packet.size and packet.pts >= 0]
        for packet in sorted(packets, key=lambda packet: packet.stream.type == "audio"):
            packet.stream = streams[packet.stream_index]
            writer.mux(packet)
    info, report = probe(path), CutReport()
    utterances = plan_utterances(info, None, UtteranceRule(window_s=2.0)).utterances
    clips = list(cut(info, utterances, ClipRule(target_length_s=2.0, interleave_s=3.0), report))
    assert [each for clip in clips for each in clip.utterances] == list(utterances)
    assert any("came too late for their clip" in note for note in report.notes)


def test_it_cuts_only_as_clips_are_taken(tmp_path):
    path = nasty_media.write_media(tmp_path / "plain.mp4", duration_s=8.0)
    report = CutReport()
    clips = cut(probe(path), plan_utterances(probe(path), None, UtteranceRule(window_s=2.0)).utterances, SHORT, report)
    next(clips)
    assert report.num_clips == 1
    clips.close()
    path.unlink()


def test_utterances_must_be_in_order(tmp_path):
    info = probe(nasty_media.sound_only(tmp_path / "s.mp4"))
    with pytest.raises(UsageError, match="in the order"):
        cut(info, [Utterance(index=0, start_s=1, end_s=2), Utterance(index=1, start_s=0, end_s=1)])
    with pytest.raises(UsageError, match="must end after it starts"):
        cut(info, [Utterance(index=0, start_s=1, end_s=1)])
    assert list(cut(info, [])) == []


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"target_length_s": 0}, "target_length_s=0"),
        ({"target_length_s": 200}, "max_length_s=120"),
        ({"target_bytes": 0}, "target_bytes=0"),
        ({"pre_roll_s": -1}, "pre_roll_s=-1"),
        ({"interleave_s": 0}, "interleave_s=0"),
    ],
)
def test_rules_are_checked(wrong, match):
    with pytest.raises(UsageError, match=match):
        ClipRule(**wrong)


ticks = st.lists(st.tuples(st.integers(-50, 500), st.none() | st.integers(-60, 500)), max_size=30)


@given(ticks)
def test_decode_times_suit_every_muxer(times):
    pts, dts = [each[0] for each in times], [each[1] for each in times]
    made = decode_times(pts, dts)
    assert all(left < right for left, right in pairwise(made))
    assert all(decode <= present for decode, present in zip(made, pts, strict=True))


def test_decode_times_that_hold_are_kept():
    assert decode_times([0, 3, 1, 2], [-2, -1, 0, 1]) == [-2, -1, 0, 1]


MEASURE = """
import sys
from pathlib import Path
from fv2es.cutting import ClipRule, cut
from fv2es.source import probe
from fv2es.utterances import UtteranceRule, plan_utterances
info = probe(sys.argv[1])
plan = plan_utterances(info, None, UtteranceRule())
total = sum(len(clip.data) for clip in cut(info, plan.utterances, ClipRule(target_bytes=4_000_000)))
# not getrusage: its peak begins with that of the process that forked this one
(peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(total, int(peak) * 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Eleven times the length may cost no more than one clip and noise (measured: 6 MB; holding all clips costs 47 MB)."""
    base = nasty_media.write_media(tmp_path / "base.mkv", video="mjpeg", duration_s=2.0, size=(640, 480))
    peaks, totals = [], []
    for num_loops in (10, 110):
        path = looped(base, tmp_path / f"long{num_loops}.mkv", num_loops, length_s=2.0)
        done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
        total, peak = map(int, done.stdout.split())
        peaks.append(peak)
        totals.append(total)
        path.unlink()
    assert totals[1] - totals[0] > 40e6
    assert peaks[1] - peaks[0] < 10e6


def looped(base, path, num_loops, *, length_s):
    """The packets of `base` again and again, each time later by `length_s`."""
    with av.open(base) as reader:
        packets = [(packet, packet.pts, packet.dts) for packet in reader.demux() if packet.size and packet.pts >= 0]
        packets = [each for each in packets if float(each[1] * each[0].time_base) < length_s]
        with av.open(path, "w") as writer:
            made = {stream.index: writer.add_stream_from_template(stream, opaque=True) for stream in reader.streams}
            for turn in range(num_loops):
                for packet, pts, dts in packets:
                    packet.time_base = Fraction(1, 1000)
                    packet.pts, packet.dts = pts + round(turn * length_s * 1000), dts + round(turn * length_s * 1000)
                    packet.stream = made[packet.stream_index]
                    writer.mux_one(packet)
    return path
