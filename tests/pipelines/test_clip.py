import numpy as np
import pytest

import nasty_media
from fv2es_pipelines.clip import MediaLimits, checked_utterances, open_clip
from fv2es_pipelines.errors import ClipTooLarge, InvalidUtterances, NotMedia, PipelineError, UnsupportedCodec


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
