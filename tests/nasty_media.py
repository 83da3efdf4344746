"""Writers of media files that are odd in one way each. All are synthetic, small and made in well under a second.

Every function takes the path to write to and gives it back. The ending of the path decides the container, so callers
choose a fitting one; the functions that need a certain container say which.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

TICKS = Fraction(1, 90_000)
QUIET = {
    "libx264": {"preset": "veryfast", "threads": "1"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
}
"""Options that make an encoder fast and silent."""
PIXEL_FORMATS = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le", "png": "rgb24"}
LENIENT = {"vorbis": {"strict": "-2"}, "opus": {"strict": "-2"}, "aac": {"aac_pns": "0"}}
"""aac_pns=0: noise substitution would decode to other noise after a cut."""


def with_exact_sound(path: Path, source: Path) -> Path:
    """The pictures of another file as they are, its sound in FLAC: cut anywhere, it decodes to the same samples. `path` ends in .mkv."""
    with av.open(str(source)) as read, av.open(str(path), "w") as written:
        pictures, sound = read.streams.video[0], read.streams.audio[0]
        copied = written.add_stream_from_template(pictures)
        encoded = written.add_stream("flac", rate=sound.rate, layout=sound.layout.name)
        resampler = av.AudioResampler(format="s16", layout=sound.layout.name, rate=sound.rate, frame_size=1152)
        for packet in read.demux(pictures, sound):
            if packet.stream is pictures:
                if packet.dts is not None:
                    packet.stream = copied
                    written.mux(packet)
                continue
            for frame in packet.decode():
                for part in resampler.resample(frame):
                    written.mux(encoded.encode(part))
        for part in resampler.resample(None):
            written.mux(encoded.encode(part))
        written.mux(encoded.encode(None))
    return path


def picture(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """A picture that differs from its neighbours: a grey wedge, a moving bar and the index as blocks. [height, width, 3] RGB."""
    wedge = np.linspace(0, 200, width)[None, :] + np.zeros((height, 1))  # [height, width]
    image = np.repeat(wedge[..., None], 3, axis=2).astype(np.uint8)  # [height, width, 3]
    left = (index * 3) % width
    image[:, left : left + max(width // 12, 1)] = (255, 120, 30)
    side = max(min(width, height) // 8, 1)
    for bit in range(8):
        if index >> bit & 1:
            image[:side, bit * side : (bit + 1) * side] = (20, 230, 90)
    return image


def tone(duration_s: float, rate_hz: int) -> NDArray[np.int16]:
    """A rising tone with some noise, so that no two stretches are alike. [samples] mono."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    noise = np.random.default_rng(7).normal(0, 300, len(time_s))
    sound = 9000 * np.sin(2 * np.pi * (220 * time_s + 15 * time_s**2)) + noise
    return sound.astype(np.int16)


def write_media(
    path: Path,
    *,
    video: str | None = "libx264",
    audio: str | None = "aac",
    duration_s: float = 2.0,
    fps: Fraction = Fraction(25),
    picture_times_s: Iterable[float] | None = None,
    size: tuple[int, int] = (96, 64),
    gop: int = 12,
    start_s: float = 0.0,
    audio_duration_s: float | None = None,
    rate_hz: int = 16_000,
    rotation_deg: int = 0,
    num_audio: int = 1,
    options: dict[str, str] | None = None,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    shift_s: Callable[[float], float] = lambda time_s: time_s,
) -> Path:
    """A moving picture with a rising tone, through a real encoder and muxer.

    Args:
        video: encoder of the pictures; None for none. `audio` likewise.
        picture_times_s: times of the pictures after `start_s`; None for a steady `fps`.
        size: width and height.
        gop: pictures from one key picture to the next, at most.
        options: for the video encoder, beside those of QUIET.
        shift_s: maps the time of a packet to the time that is written, for clocks that jump.
    """
    times_s = (
        [float(index / fps) for index in range(round(duration_s * fps))]
        if picture_times_s is None
        else list(picture_times_s)
    )
    with av.open(path, "w", format=container, options=container_options or {}) as output:
        pictures = None
        if video is not None:
            pictures = output.add_stream(video, rate=fps, options={**QUIET.get(video, {}), **(options or {})})
            pictures.width, pictures.height = size
            pictures.pix_fmt = PIXEL_FORMATS.get(video, "yuv420p")
            pictures.codec_context.gop_size = gop
            pictures.codec_context.time_base = TICKS if picture_times_s is not None else 1 / fps
            if rotation_deg:
                pictures.set_display_rotation(rotation_deg)
        sounds = []
        if audio is not None:
            sounds = [output.add_stream(audio, rate=rate_hz, options=LENIENT.get(audio, {})) for _ in range(num_audio)]
        coded = [_coded_pictures(pictures, times_s, size)] if pictures is not None else []
        coded += [_coded_sound(sound, audio_duration_s or duration_s, rate_hz) for sound in sounds]
        for packet in _merged(coded):
            offset = round(start_s / packet.time_base)
            for name in ("pts", "dts"):
                time = getattr(packet, name)
                if time is not None:
                    moved = round(shift_s(float(time * packet.time_base)) / packet.time_base)
                    setattr(packet, name, moved + offset)
            output.mux(packet)
    return path


def _coded_pictures(stream, times_s: list[float], size: tuple[int, int]) -> Iterator[av.Packet]:
    for index, time_s in enumerate(times_s):
        frame = av.VideoFrame.from_ndarray(picture(index, *size), "rgb24").reformat(format=stream.pix_fmt)
        frame.time_base = stream.codec_context.time_base
        frame.pts = round(time_s / frame.time_base)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _coded_sound(stream, duration_s: float, rate_hz: int) -> Iterator[av.Packet]:
    samples = tone(duration_s, rate_hz)
    resampler = av.AudioResampler(
        stream.format.name, stream.layout.name, rate_hz, frame_size=stream.codec_context.frame_size or 1024
    )
    for at in range(0, len(samples), 4096):
        frame = av.AudioFrame.from_ndarray(samples[None, at : at + 4096], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, at, Fraction(1, rate_hz)
        for ready in resampler.resample(frame):
            yield from stream.encode(ready)
    for ready in resampler.resample(None):
        yield from stream.encode(ready)
    yield from stream.encode(None)


def _merged(streams: list[Iterator[av.Packet]]) -> list[av.Packet]:
    packets = list(itertools.chain(*streams))
    return sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base))


def remux(
    source: Path,
    path: Path,
    *,
    change: Callable[[int, av.Packet], av.Packet | None] = lambda _, packet: packet,
    container: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """The packets of `source` copied to `path`; `change` may alter or drop each (its number in the file, the packet)."""
    with av.open(source) as reader, av.open(path, "w", format=container, options=options or {}) as writer:
        streams = {stream.index: writer.add_stream_from_template(stream, opaque=True) for stream in reader.streams}
        for stream in reader.streams:
            streams[stream.index].disposition = stream.disposition
        for number, packet in enumerate(reader.demux()):
            if not packet.size:
                continue
            changed = change(number, packet)
            if changed is not None:
                changed.stream = streams[packet.stream_index]
                writer.mux(changed)
    return path


def zero_bytes(path: Path) -> Path:
    """A file with nothing in it."""
    path.write_bytes(b"")
    return path


def text_file(path: Path) -> Path:
    """Prose under whatever name."""
    path.write_text("This is not a video. It is a text about one.\n" * 40)
    return path


def random_bytes(path: Path) -> Path:
    """Noise that no demuxer recognises."""
    path.write_bytes(np.random.default_rng(3).integers(0, 256, 20_000, dtype=np.uint8).tobytes())
    return path


def still_image(path: Path) -> Path:
    """One PNG picture. Needs the ending .png."""
    return write_media(path, video="png", audio=None, picture_times_s=[0.0], container="image2pipe")


def truncated_mp4(path: Path) -> Path:
    """An MP4 whose index, which stands at its end, is cut off."""
    write_media(path, container="mp4")
    path.write_bytes(path.read_bytes()[:-4000])
    return path


def cut_off_mp4(path: Path, *, duration_s: float = 12.0, keep: float = 0.5) -> Path:
    """An MP4 with its index in front and only the first part of its data; it still states its whole duration."""
    write_media(path, duration_s=duration_s, container="mp4", container_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * keep)])
    return path


def cut_off_mkv(path: Path, *, duration_s: float = 12.0, keep: float = 0.5) -> Path:
    """A Matroska file without its last part; it still states its whole duration."""
    write_media(path, duration_s=duration_s, container="matroska")
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * keep)])
    return path


def sound_only(path: Path) -> Path:
    """No pictures."""
    return write_media(path, video=None)


def pictures_only(path: Path) -> Path:
    """No sound."""
    return write_media(path, audio=None)


def one_frame(path: Path) -> Path:
    """A video of a single picture, without sound."""
    return write_media(path, audio=None, picture_times_s=[0.0])


def variable_rate(path: Path, *, duration_s: float = 8.0) -> Path:
    """Pictures at uneven distances, from 10 ms to 0.9 s."""
    steps = itertools.cycle([0.04, 0.01, 0.3, 0.02, 0.9, 0.033, 0.12])
    times_s = itertools.takewhile(lambda time_s: time_s < duration_s, itertools.accumulate(steps, initial=0.0))
    return write_media(path, picture_times_s=times_s, duration_s=duration_s)


def rotated(path: Path, *, rotation_deg: int = 90) -> Path:
    """Pictures that a player must turn. Needs MP4, MOV or Matroska."""
    return write_media(path, rotation_deg=rotation_deg, duration_s=6.0)


def odd_size(path: Path) -> Path:
    """Pictures of 97x63 pixels (VP8). Needs Matroska or WebM."""
    return write_media(path, video="libvpx", audio="libopus", rate_hz=48_000, size=(97, 63))


def late_start(path: Path, *, start_s: float = 3600.0, duration_s: float = 8.0) -> Path:
    """A clock that starts late. Matroska, MPEG-TS and MP4 keep it."""
    return write_media(path, start_s=start_s, duration_s=duration_s)


def jump_forward(path: Path, *, at_s: float = 4.0, by_s: float = 40.0, duration_s: float = 8.0) -> Path:
    """A clock that leaps ahead in the middle, in both streams."""
    return write_media(
        path,
        duration_s=duration_s,
        shift_s=lambda time_s: time_s + by_s if time_s >= at_s else time_s,
        options={"bf": "0"},
    )


def jump_back(path: Path, *, at_s: float = 4.0, duration_s: float = 8.0) -> Path:
    """A clock that starts again in the middle, as when two recordings are joined. MPEG-TS, whatever the ending."""
    first, second = path.with_suffix(".first.ts"), path.with_suffix(".second.ts")
    write_media(first, duration_s=at_s, container="mpegts")
    write_media(second, duration_s=duration_s - at_s, container="mpegts")
    path.write_bytes(first.read_bytes() + second.read_bytes())
    first.unlink()
    second.unlink()
    return path


def many_keys(path: Path, *, duration_s: float = 8.0) -> Path:
    """Every picture is a key picture."""
    return write_media(path, gop=1, duration_s=duration_s)


def single_key(path: Path, *, duration_s: float = 24.0) -> Path:
    """Only the first picture is a key picture."""
    return write_media(path, gop=100_000, duration_s=duration_s, options={"x264-params": "scenecut=0:keyint=infinite"})


def keyless_start(path: Path, *, num_dropped: int = 5, duration_s: float = 8.0) -> Path:
    """A recording that begins between two key pictures. MPEG-TS, whatever the ending."""
    whole = write_media(path.with_suffix(".whole.ts"), duration_s=duration_s, container="mpegts", options={"bf": "0"})
    seen = itertools.count()

    def drop_first(_: int, packet: av.Packet) -> av.Packet | None:
        return None if packet.stream.type == "video" and next(seen) < num_dropped else packet

    remux(whole, path, change=drop_first, container="mpegts")
    whole.unlink()
    return path


def damaged_middle(path: Path, *, duration_s: float = 12.0) -> Path:
    """Noise over a tenth of the data in the middle; the index is sound. MP4, whatever the ending."""
    write_media(path, duration_s=duration_s, container="mp4")
    data = bytearray(path.read_bytes())
    first, length = round(len(data) * 0.45), len(data) // 10
    data[first : first + length] = np.random.default_rng(5).integers(0, 256, length, dtype=np.uint8).tobytes()
    path.write_bytes(bytes(data))
    return path


def audio_ends_early(path: Path, *, duration_s: float = 24.0) -> Path:
    """Sound for the first quarter alone."""
    return write_media(path, duration_s=duration_s, audio_duration_s=duration_s / 4)


def audio_longer(path: Path, *, duration_s: float = 4.0) -> Path:
    """Sound for three times as long as the pictures."""
    return write_media(path, duration_s=duration_s, audio_duration_s=duration_s * 3)


def two_sounds(path: Path) -> Path:
    """Two streams of sound beside the pictures."""
    return write_media(path, num_audio=2)


def cover_art(path: Path) -> Path:
    """Sound with a cover picture, which is no video. Needs MP4 or MOV."""
    with av.open(path, "w", format="mp4") as output:
        cover = output.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = output.add_stream("aac", rate=16_000)
        frame = av.VideoFrame.from_ndarray(picture(0, 96, 64), "rgb24").reformat(format="yuvj420p")
        frame.pts, frame.time_base = 0, Fraction(1, 1)
        for packet in [*cover.encode(frame), *cover.encode(None), *_coded_sound(sound, 2.0, 16_000)]:
            output.mux(packet)
    return path


def unsupported_codec(path: Path) -> Path:
    """Pictures in a codec outside the allow-list (FFV1). Needs Matroska."""
    return write_media(path, video="ffv1", audio=None)
