import av
import numpy as np
import pytest
from clips import write_sound

import nasty_media
from fv2es_pipelines.audio import read_sound
from fv2es_pipelines.clip import open_clip
from fv2es_pipelines.constants import SAMPLE_RATE_HZ
from fv2es_pipelines.errors import ClipTooLarge
from fv2es_pipelines.limits import MediaLimits, checked_utterances


def read(path, utterances_s=((0.0, 2.0),), **limits):
    bounds = MediaLimits(**limits)
    with open_clip(path.read_bytes(), limits=bounds) as clip:
        return read_sound(clip, checked_utterances(utterances_s, bounds))


def clicks(at_s, *, length_s, rate_hz, channels=1):
    """Short bursts of noise at known times: what a codec smears, their centre keeps."""
    wave = np.zeros(round(length_s * rate_hz), np.float32)
    burst = np.hanning(round(0.02 * rate_hz)) * np.sin(2 * np.pi * 1000 * np.arange(round(0.02 * rate_hz)) / rate_hz)
    for time_s in at_s:
        start = round(time_s * rate_hz)
        wave[start : start + len(burst)] += 0.8 * burst.astype(np.float32)
    return np.repeat(wave[None], channels, axis=0)


def click_times(wave):
    """Starts of the bursts, by the centre of their energy."""
    energy = np.convolve(wave.astype(np.float64) ** 2, np.ones(400), mode="same")
    loud = energy > 0.3 * energy.max()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud.astype(int), [0]])))
    centres = [
        np.average(np.arange(a, b), weights=wave[a:b].astype(np.float64) ** 2 + 1e-12) for a, b in edges.reshape(-1, 2)
    ]
    return [centre / SAMPLE_RATE_HZ - 0.01 for centre in centres]


LENIENT = {"vorbis": {"strict": "-2"}}
CLICKS_S = [0.1, 0.7, 1.3]


@pytest.mark.parametrize(
    ("codec", "ending", "rate_hz", "layout"),
    [
        ("pcm_s16le", "wav", 16_000, "mono"),
        ("pcm_s16le", "mkv", 44_100, "stereo"),
        ("pcm_s24le", "mkv", 48_000, "stereo"),
        ("pcm_f32le", "nut", 22_050, "mono"),
        ("pcm_u8", "nut", 8_000, "mono"),
        ("flac", "mkv", 96_000, "stereo"),
        ("aac", "mp4", 44_100, "stereo"),
        ("aac", "mkv", 48_000, "mono"),
        ("aac", "nut", 48_000, "mono"),
        ("libmp3lame", "mp4", 44_100, "stereo"),
        ("libmp3lame", "mkv", 48_000, "stereo"),
        ("libopus", "mkv", 48_000, "mono"),
        ("vorbis", "mkv", 44_100, "stereo"),
        ("ac3", "mkv", 48_000, "stereo"),
        ("alac", "mp4", 44_100, "stereo"),
    ],
)
def test_sound_lies_where_its_timestamps_say(tmp_path, codec, ending, rate_hz, layout):
    wave = clicks(CLICKS_S, length_s=2.0, rate_hz=rate_hz, channels=1 if layout == "mono" else 2)
    path = write_sound(
        tmp_path / f"clicks.{ending}", wave, rate_hz=rate_hz, codec=codec, layout=layout, options=LENIENT.get(codec)
    )
    # NUT has no place for a decoder's priming: FFmpeg's own reader is the reference for what a file means.
    priming_s = 1024 / rate_hz if (codec, ending) == ("aac", "nut") else 0.0
    with av.open(path) as container:
        first_s = float(next(container.decode(audio=0)).pts * container.streams.audio[0].time_base)
    sound = read(path)
    (heard,) = sound.waves
    assert heard.dtype == np.float32
    assert heard.shape == (32_000,)
    expected = [time_s + (priming_s if first_s > -1e-3 else 0.0) for time_s in CLICKS_S]
    assert click_times(heard) == pytest.approx(expected, abs=1.5e-3)
    assert np.abs(heard).max() == pytest.approx(0.8, abs=0.12)
    assert sound.audio_errors == 0


def test_each_utterance_gets_its_own_stretch(tmp_path):
    path = write_sound(tmp_path / "clicks.wav", clicks(CLICKS_S, length_s=2.0, rate_hz=16_000), rate_hz=16_000)
    whole = read(path).waves[0]
    sound = read(path, [[1.2, 1.5], [0.0, 1.0], [0.65, 1.4]])
    for wave, (start, stop) in zip(sound.waves, [(19_200, 24_000), (0, 16_000), (10_400, 22_400)], strict=True):
        np.testing.assert_array_equal(wave, whole[start:stop])


def test_values_are_exact_where_nothing_is_resampled(tmp_path):
    wave = np.random.default_rng(0).integers(-32768, 32768, (1, 16_000)).astype(np.float32) / 32768
    path = write_sound(tmp_path / "noise.wav", wave, rate_hz=16_000)
    np.testing.assert_array_equal(read(path, [[0.0, 1.0]]).waves[0], wave[0])


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_f32le"])
@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
@pytest.mark.parametrize("layout", ["stereo", "5.1"])
def test_channels_are_averaged_with_ffmpegs_weights(tmp_path, codec, rate_hz, layout):
    """The reference is FFmpeg's mixing of whole numbers, which scales the weights to sum to 1; it rounds to 1/32768."""
    channels = av.AudioLayout(layout).nb_channels
    time_s = np.arange(rate_hz) / rate_hz
    wave = np.stack([0.9 * np.sin(2 * np.pi * 150 * (k + 1) * time_s + k) for k in range(channels)]).astype(np.float32)
    path = write_sound(tmp_path / "many.mkv", wave, rate_hz=rate_hz, codec=codec, layout=layout)
    heard = read(path, [[0.0, 1.0]]).waves[0]
    frame = av.AudioFrame.from_ndarray(np.round(wave * 32767).astype(np.int16), "s16p", layout)
    frame.sample_rate = rate_hz
    reference_mixer = av.AudioResampler("s16", "mono", SAMPLE_RATE_HZ)
    parts = [*reference_mixer.resample(frame), *reference_mixer.resample(None)]
    reference = np.concatenate([part.to_ndarray()[0] for part in parts])[:16_000] / 32768
    assert np.abs(heard[200:-200] - reference[200:-200]).max() < 5e-4
    if layout == "stereo" and rate_hz == SAMPLE_RATE_HZ:
        assert np.abs(heard - wave.mean(axis=0)).max() < 1e-4


@pytest.mark.parametrize("layout", ["stereo", "5.1"])
def test_full_scale_in_all_channels_does_not_clip(tmp_path, layout):
    channels = av.AudioLayout(layout).nb_channels
    tone = 0.95 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 48_000).astype(np.float32)
    path = write_sound(
        tmp_path / "loud.mkv", np.stack([tone] * channels), rate_hz=48_000, codec="pcm_f32le", layout=layout
    )
    heard = read(path, [[0.0, 1.0]]).waves[0]
    assert np.abs(heard).max() == pytest.approx(0.95, abs=0.01)


def test_beyond_full_scale_is_clipped(tmp_path):
    wave = np.full((1, 16_000), 3.0, np.float32)
    path = write_sound(tmp_path / "loud.nut", wave, rate_hz=16_000, codec="pcm_f32le")
    heard = read(path, [[0.0, 1.0]]).waves[0]
    assert heard.max() < 1.0
    assert heard.max() > 0.9999


def test_gaps_are_silent_and_keep_what_follows_in_place(tmp_path):
    wave = clicks(CLICKS_S, length_s=2.0, rate_hz=48_000)
    path = write_sound(
        tmp_path / "gap.mkv", wave, rate_hz=48_000, starts_s=(0.0, 1.5, 3.0), lengths=(24_000, 24_000, 48_000)
    )
    (heard,) = read(path, [[0.0, 5.0]]).waves
    assert click_times(heard) == pytest.approx([0.1, 1.7, 3.3], abs=1e-3)
    assert (heard[8_200:23_900] == 0).all()


def test_where_sound_overlaps_the_earlier_is_heard(tmp_path):
    wave = np.concatenate([np.full((1, 16_000), 0.25), np.full((1, 16_000), -0.5)], axis=1).astype(np.float32)
    path = write_sound(
        tmp_path / "over.mkv",
        wave,
        rate_hz=16_000,
        codec="pcm_f32le",
        starts_s=(0.0, 0.75),
        lengths=(16_000, 16_000),
        packet_samples=16_000,
    )
    (heard,) = read(path, [[0.0, 1.75]]).waves
    assert heard[15_900] == pytest.approx(0.25)
    assert heard[16_100] == pytest.approx(-0.5)
    assert heard[27_900] == pytest.approx(-0.5)


def test_rounded_timestamps_make_no_gaps(tmp_path):
    """Matroska rounds the 23.2 ms of an AAC frame at 44.1 kHz to whole milliseconds."""
    time_s = np.arange(4 * 44_100) / 44_100
    tone = (0.5 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)[None]
    path = write_sound(tmp_path / "tone.mkv", tone, rate_hz=44_100, codec="aac", options={"b": "192k"})
    (heard,) = read(path, [[0.5, 3.5]]).waves
    expected = 0.5 * np.sin(2 * np.pi * 440 * (0.5 + np.arange(48_000) / SAMPLE_RATE_HZ))
    assert np.abs(heard - expected).max() < 0.03


def test_a_late_clock_and_utterances_beside_the_sound(tmp_path):
    wave = clicks([0.1], length_s=1.0, rate_hz=16_000)
    path = write_sound(tmp_path / "late.mkv", wave, rate_hz=16_000, starts_s=(3600.0,))
    sound = read(path, [[3600.0, 3601.0], [3599.5, 3600.5], [0.0, 1.0], [3601.0, 3602.0], [3600.5, 3602.0]])
    assert [wave is None for wave in sound.waves] == [False, False, True, True, False]
    assert click_times(sound.waves[0]) == pytest.approx([0.1], abs=1e-3)
    assert click_times(sound.waves[1]) == pytest.approx([0.6], abs=1e-3)
    assert (sound.waves[1][:7_900] == 0).all()
    assert len(sound.waves[4]) == 24_000


def test_damaged_packets_are_counted_where_they_would_be_heard(tmp_path):
    wave = clicks(CLICKS_S, length_s=2.0, rate_hz=16_000)

    def spoil(place, data):
        return b"\xff" * len(data) if place in (5, 6) else data

    path = write_sound(tmp_path / "bad.mkv", wave, rate_hz=16_000, codec="flac", change=spoil)
    damaged = read(path, [[0.0, 2.0]])
    assert damaged.audio_errors == 2
    assert click_times(damaged.waves[0])[-1] == pytest.approx(CLICKS_S[-1], abs=1e-3)
    assert read(path, [[0.0, 0.3]]).audio_errors == 0


def test_no_sound_is_none(tmp_path):
    sound = read(nasty_media.pictures_only(tmp_path / "mute.mkv"), [[0.0, 1.0], [1.0, 2.0]])
    assert sound.waves == (None, None)
    assert sound.audio_errors == 0


def test_sound_is_bounded(tmp_path):
    path = write_sound(tmp_path / "long.wav", np.zeros((1, 32_000), np.float32), rate_hz=16_000)
    with pytest.raises(ClipTooLarge, match="max_duration_s"):
        read(path, max_duration_s=1.0)
