import math
from pathlib import Path

import pytest

import nasty_media
from fv2es.errors import MissingStream, NotMedia, SourceNotFound, UnsupportedMedia
from fv2es.source import SourceInfo, probe

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "media"


def test_states_what_a_plain_file_holds(tmp_path):
    path = nasty_media.write_media(tmp_path / "plain.mp4", duration_s=3.0, size=(160, 90))
    info = probe(path)
    assert (info.start_s, info.duration_s) == (0.0, pytest.approx(3.0, abs=0.001))
    assert info.size_bytes == path.stat().st_size
    assert info.video is not None
    assert (info.video.codec, info.video.width, info.video.height) == ("h264", 160, 90)
    assert (info.video.rotation_deg, info.video.average_fps) == (0, 25.0)
    assert info.audio is not None
    assert (info.audio.codec, info.audio.rate_hz, info.audio.num_channels) == ("aac", 16_000, 2)
    assert info.notes == ()


@pytest.mark.parametrize(
    ("name", "duration_s", "codecs"),
    [
        # the end of the longest track by its edit list
        ("WDA_KatieHill_000.mp4", 8.0, ("mpeg4", "aac")),
        ("WolfgangLanger_Pexels.mp4", 19.69, ("h264", "aac")),
        ("single_face.mp4", 2.419, ("h264", "mp3")),
        ("no_face.mp4", 3.945, ("h264", "aac")),
    ],
)
def test_real_files(name, duration_s, codecs):
    if not (DATA / name).exists():
        pytest.skip("the shared media are not here")
    info = probe(DATA / name)
    assert info.duration_s == pytest.approx(duration_s, abs=0.001)
    assert (info.video.codec, info.audio.codec) == codecs


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_rotation_is_that_of_decoded_pictures(tmp_path, degrees, ending):
    import av

    path = nasty_media.write_media(tmp_path / f"turned.{ending}", rotation_deg=degrees, audio=None, duration_s=0.4)
    with av.open(path) as container:
        shown = next(container.decode(video=0)).rotation % 360
    assert probe(path).video.rotation_deg == shown == degrees


def test_start_is_the_files_own(tmp_path):
    info = probe(nasty_media.late_start(tmp_path / "late.mkv", start_s=3600.0, duration_s=2.0))
    # encoders of sound pad the last frame (1024 samples, 64 ms)
    assert info.start_s == pytest.approx(3600.0, abs=0.001)
    assert info.end_s == pytest.approx(3602.0, abs=0.07)
    assert info.notes == ()


def test_what_primes_a_decoder_does_not_count(tmp_path):
    assert probe(nasty_media.write_media(tmp_path / "primed.mp4", duration_s=1.0)).start_s == 0.0


@pytest.mark.parametrize("make", [nasty_media.cut_off_mkv, nasty_media.cut_off_mp4])
def test_duration_is_measured_where_the_container_lies(tmp_path, make):
    info = probe(make(tmp_path / f"cut.{'mkv' if 'mkv' in make.__name__ else 'mp4'}", duration_s=6.0))
    assert 2.0 < info.duration_s < 4.0
    assert any("the container states an end at 6." in note for note in info.notes)


@pytest.mark.parametrize(("ending", "audio"), [("aac", "aac"), ("mp3", "libmp3lame"), ("ts", "aac")])
def test_duration_without_a_header_that_states_it(tmp_path, ending, audio):
    path = nasty_media.write_media(tmp_path / f"headless.{ending}", video=None, audio=audio, duration_s=4.0)
    assert probe(path).duration_s == pytest.approx(4.0, abs=0.15)  # encoders pad by up to two frames


def test_one_picture_has_a_length(tmp_path):
    info = probe(nasty_media.one_frame(tmp_path / "one.mp4"))
    assert info.audio is None
    assert 0 < info.duration_s < 0.2


def test_cover_art_is_no_video(tmp_path):
    info = probe(nasty_media.cover_art(tmp_path / "song.mp4"))
    assert info.video is None
    assert info.audio is not None


def test_one_of_several_sounds_is_named(tmp_path):
    info = probe(nasty_media.two_sounds(tmp_path / "two.mp4"))
    assert info.notes == ("of 2 audio streams number 1 is used",)


def test_only_pictures_only_sound(tmp_path):
    assert probe(nasty_media.pictures_only(tmp_path / "p.mp4")).audio is None
    assert probe(nasty_media.sound_only(tmp_path / "s.mp4")).video is None


@pytest.mark.parametrize(
    ("make", "ending", "error", "match"),
    [
        (nasty_media.zero_bytes, "mp4", NotMedia, r"0 bytes.*again"),
        (nasty_media.text_file, "mp4", NotMedia, r"no media"),
        (nasty_media.text_file, "txt", NotMedia, r"no media"),
        (nasty_media.random_bytes, "mp4", NotMedia, r"no media"),
        (nasty_media.truncated_mp4, "mp4", NotMedia, r"lost its index"),
        (nasty_media.still_image, "png", UnsupportedMedia, r"still image \(png_pipe\)"),
        (nasty_media.unsupported_codec, "mkv", UnsupportedMedia, r"codec ffv1 is not one of .*h264.*ffmpeg -i"),
    ],
)
def test_refusals_state_value_rule_and_remedy(tmp_path, make, ending, error, match):
    path = make(tmp_path / f"bad.{ending}")
    with pytest.raises(error, match=match) as caught:
        probe(path)
    assert caught.value.source == str(path)
    assert not caught.value.retryable


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(SourceNotFound, match="there is no such file"):
        probe(tmp_path / "absent.mp4")
    with pytest.raises(SourceNotFound, match="is a directory"):
        probe(tmp_path)
    for url in ("http://127.0.0.1:1/x.mp4", "rtsp://host/cam", "file:///etc/passwd"):
        with pytest.raises(UnsupportedMedia, match="is a URL"):
            probe(url)


def test_a_playlist_opens_no_further_file(tmp_path):
    nasty_media.write_media(tmp_path / "part.ts", duration_s=1.0)
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\npart.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(NotMedia):
        probe(playlist)


def test_only_a_cover_is_a_missing_stream(tmp_path):
    source = nasty_media.cover_art(tmp_path / "song.mp4")
    path = nasty_media.remux(
        source, tmp_path / "cover.mp4", change=lambda _, packet: packet if packet.stream.type == "video" else None
    )
    with pytest.raises(MissingStream, match=r"no video or audio stream \(found: .*video mjpeg"):
        probe(path)


def test_json_has_plain_types(tmp_path):
    import json

    info = probe(nasty_media.pictures_only(tmp_path / "p.mp4"))
    plain = json.loads(json.dumps(info.to_dict()))
    assert plain["path"] == str(info.path)
    assert plain["audio"] is None
    assert plain["video"]["width"] == 96
    assert math.isclose(plain["duration_s"], info.duration_s)
    assert isinstance(info, SourceInfo)
