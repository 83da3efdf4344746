import numpy as np
import pytest

import nasty_media
from fv2es_pipelines.audio import read_sound
from fv2es_pipelines.clip import open_clip
from fv2es_pipelines.errors import ClipTooLarge, InvalidUtterances, NotMedia, PipelineError, UnsupportedCodec
from fv2es_pipelines.limits import MediaLimits, checked_utterances


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return nasty_media.write_media(tmp_path_factory.mktemp("clip") / "film.mkv", duration_s=1.0).read_bytes()


def opened(data, **limits):
    with open_clip(data, limits=MediaLimits(**limits)) as clip:
        video, audio = clip.video(), clip.audio()
        return (video and len(list(clip.packets(video)))), (audio and audio.codec_context.name)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
def test_opens_bytes_of_every_kind(film, kind):
    assert opened(kind(film)) == (25, "aac")


@pytest.mark.parametrize("write", [nasty_media.zero_bytes, nasty_media.text_file, nasty_media.random_bytes])
def test_says_what_is_no_media(tmp_path, write):
    with pytest.raises(NotMedia, match=r"no readable media .*give a whole media file"):
        opened(write(tmp_path / "bad.mp4").read_bytes())


def test_says_that_a_cut_off_index_is_no_media(tmp_path):
    with pytest.raises(NotMedia):
        opened(nasty_media.truncated_mp4(tmp_path / "cut.mp4").read_bytes())


@pytest.mark.parametrize(
    "playlist",
    [
        "ffconcat version 1.0\nfile '{path}'\n",
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXTINF:5.0,\nfile://{path}\n#EXT-X-ENDLIST\n",
    ],
)
def test_never_follows_a_playlist_to_another_file(tmp_path, film, playlist):
    other = tmp_path / "other.mkv"
    other.write_bytes(film)
    with pytest.raises(NotMedia):
        opened(playlist.format(path=other).encode())


@pytest.mark.parametrize(
    ("limits", "what"),
    [
        ({"max_bytes": 1000}, "max_bytes"),
        ({"max_streams": 1}, "max_streams"),
        ({"max_pixels": 64 * 64}, "max_pixels"),
        ({"max_packets": 24}, "max_packets"),
    ],
)
def test_bounds_what_a_clip_may_cost(film, limits, what):
    with pytest.raises(ClipTooLarge, match=f"{what}: .* exceeds") as caught:
        opened(film, **limits)
    assert caught.value.what == what
    assert caught.value.value > caught.value.limit


def test_a_bound_that_is_just_met_does_no_harm(film):
    assert opened(film, max_packets=25, max_streams=2, max_bytes=len(film), max_pixels=96 * 64) == (25, "aac")


def test_refuses_codecs_outside_the_list(tmp_path):
    data = nasty_media.write_media(
        tmp_path / "odd.mkv", video="snow", audio=None, options={"strict": "-2"}
    ).read_bytes()
    with pytest.raises(
        UnsupportedCodec, match=r"video codec 'snow' is not allowed; convert the video to one of: .*h264"
    ):
        opened(data)


def test_cover_art_is_no_video(tmp_path):
    assert opened(nasty_media.cover_art(tmp_path / "song.mp4").read_bytes())[0] is None


def test_a_stream_that_is_absent_is_none(tmp_path):
    assert opened(nasty_media.sound_only(tmp_path / "sound.mkv").read_bytes()) == (None, "aac")
    assert opened(nasty_media.pictures_only(tmp_path / "mute.mkv").read_bytes())[1] is None


@pytest.mark.parametrize(
    ("utterances", "message"),
    [
        ([], r"shape \(0,\); give \[U, 2\]"),
        ([0.0, 1.0], r"shape \(2,\)"),
        ([[0.0, 1.0, 2.0]], r"shape \(1, 3\)"),
        ([[0.0, 1.0], [2.0, 2.0]], r"utterance 1: \[2, 2\) s is no time range"),
        ([[3.0, 1.0]], "utterance 0: "),
        ([[0.0, np.nan]], "give finite start < end"),
        ([[-np.inf, 0.0]], "give finite start < end"),
    ],
)
def test_says_which_utterance_is_unusable(utterances, message):
    with pytest.raises(InvalidUtterances, match=message):
        checked_utterances(utterances, MediaLimits())


@pytest.mark.parametrize(
    ("utterances", "what"),
    [
        ([[0.0, 1e9]], "max_utterance_s"),
        ([[0.0, 1.0]] * 4, "max_utterances"),
        ([[0.0, 9.0], [0.0, 9.0]], "max_utterances_s"),
    ],
)
def test_bounds_what_utterances_may_cost(utterances, what):
    limits = MediaLimits(max_utterances=3, max_utterance_s=10.0, max_utterances_s=15.0)
    with pytest.raises(ClipTooLarge) as caught:
        checked_utterances(utterances, limits)
    assert caught.value.what == what
    assert isinstance(caught.value, PipelineError)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (nasty_media.variable_rate, "film.mkv"),
        (nasty_media.variable_rate, "film.mp4"),
        (nasty_media.variable_rate, "film.ts"),
        (nasty_media.damaged_middle, "bad.mp4"),
        (nasty_media.cut_off_mkv, "cut.mkv"),
        (nasty_media.sound_only, "sound.mkv"),
    ],
)
def test_the_sound_is_the_same_when_no_picture_is_looked_at(tmp_path, write, name):
    data, found = write(tmp_path / name).read_bytes(), []
    for pictures in (True, False):
        with open_clip(data, pictures=pictures) as clip:
            found.append(read_sound(clip, np.array([[0.0, 4.0], [3.0, 9.0]])))
    whole, alone = found
    assert whole.audio_errors == alone.audio_errors
    for one, other in zip(whole.waves, alone.waves, strict=True):
        np.testing.assert_array_equal(one, other)
    assert alone.waves[0] is not None


def test_no_picture_is_decoded_for_the_sound(astronaut):
    """H.264 says its pixel format in its pictures alone: FFmpeg decodes one to learn it, 0.1 s of work in 4K."""
    data = astronaut.read_bytes()
    with open_clip(data) as clip:
        assert clip.video().codec_context.pix_fmt == "yuv420p"
    with open_clip(data, pictures=False) as clip:
        assert clip.video().codec_context.pix_fmt is None
