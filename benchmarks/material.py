"""Films to measure on: one source, made into any size, codec and length; made once, kept in a folder that git ignores.

    python -m benchmarks.material --heights 720,1080 --codecs h264,av1 --minutes 1

A loop of the source is enlarged, seen by a hand-held camera (pan, zoom, shake) and given film grain, so that every picture differs from
the one before and the bit rate is that of real films; then it is encoded once with its sound and repeated by stream copy.
"""

import argparse
import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.audio import AudioStream
from av.stream import Stream
from av.video import VideoStream

from fv2es import Fv2esError
from fv2es.errors import MissingStream, NotMedia, SourceNotFound, UsageError
from fv2es.files import write_whole

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tests" / "media" / "astronaut.mp4"
FOLDER = ROOT / "build" / "bench" / "material"

RECIPE = 1
"""Goes up when films of the same arguments come out otherwise: kept ones are then made anew."""
KEY_INTERVAL_S = 2
"""Between key pictures, as streaming sites have it. Lengths of films are multiples of it."""
LOOP_S, LARGE_LOOP_S = 24, 8
"""What is encoded, up to 1440 lines and above. Both hold whole AAC (1024/48000 s) and Opus (0.02 s) packets."""
LARGE_PX = 1440
SOUND_HZ = 48_000
GRAIN_LEVELS = 2.5
"""Standard deviation of the grain, of 255 levels: a camera in a lit room."""
CUE_S = 5.0
SENTENCES = (
    "I never thought that we would get this far.",
    "When they told me that the launch was put off again, I went home and did not speak to anybody for two days.",
    "Look at that!",
    "My mother still keeps the letter in the drawer beside her bed, and I am sure that she reads it now and then.",
    "We were all very tired, but nobody wanted to leave before it was over.",
    "To be honest, I was furious.",
    "It is the happiest day that I can remember, and I would not change a minute of it.",
)
"""4 to 23 words, some three words a second in all: the speed of quiet speech."""
BITS_PER_S_1080P = 6_000_000
"""Of H.264; streaming sites give 1080p30 4 to 8 Mbit/s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How films of one codec are made. Options are of FFmpeg's encoders: those that leave in what decoders have to work for."""

    encoder: str
    rate: float
    """Bit rate relative to H.264's."""
    options: Mapping[str, str]
    suffix: str = ".mp4"
    sound: str = "aac"


ENCODINGS: Mapping[str, Encoding] = {
    # veryfast has CABAC, deblocking and three B-pictures of which one is a reference; faster presets leave those out.
    "h264": Encoding(encoder="libx264", rate=1.0, options={"preset": "veryfast", "x264-params": "scenecut=0"}),
    "hevc": Encoding(
        encoder="libx265",
        rate=0.6,
        options={"preset": "superfast", "x265-params": "open-gop=0:scenecut=0:sao=1:log-level=error"},
    ),
    "vp9": Encoding(
        encoder="libvpx-vp9",
        rate=0.65,
        options={"deadline": "realtime", "cpu-used": "7", "row-mt": "1", "tile-columns": "2"},
        suffix=".webm",
        sound="libopus",
    ),
    "av1": Encoding(encoder="libsvtav1", rate=0.5, options={"preset": "9", "svtav1-params": "scd=0"}),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """A film on disk, and what has to be known of it beside a measurement."""

    path: Path
    sha256: str
    duration_s: float
    width_px: int
    height_px: int
    codec: str
    """A key of `ENCODINGS`."""
    frames_per_s: float
    num_bytes: int

    @property
    def name(self) -> str:
        """Such as `astronaut-1080p30-h264-60s`."""
        return self.path.stem.rpartition("-")[0]


class MaterialError(Fv2esError):
    """A film can't be made from its source."""


def material(
    *,
    height_px: int = 1080,
    codec: str = "h264",
    duration_s: float = 60.0,
    frames_per_s: float = 30.0,
    source: Path = SOURCE,
    folder: Path = FOLDER,
) -> Material:
    """A film of this size, codec and length, from `folder` or made now.

    Args:
        height_px: even, from 64 to 4320; the width is 16/9 of it, rounded to even. What is not 16:9 gets black bars.
        codec: `h264`, `hevc`, `vp9` (WebM with Opus) or `av1`; the others are MP4 with AAC.
        duration_s: a multiple of `KEY_INTERVAL_S`.
        frames_per_s: a whole number of pictures in a second.
        source: a film with pictures; its first `LOOP_S` seconds are used, and repeated where it is shorter.
        folder: keeps films; each has a JSON file beside it.

    Raises:
        UsageError: an argument is outside its rule.
        SourceError: the source can't be read or has no pictures.
        MaterialError: FFmpeg could not encode it.
    """
    if codec not in ENCODINGS:
        raise UsageError(f"codec={codec!r} is not among {', '.join(ENCODINGS)}")
    if height_px % 2 or not 64 <= height_px <= 4320:
        raise UsageError(f"height_px={height_px} must be even, from 64 to 4320")
    if not duration_s > 0 or duration_s % KEY_INTERVAL_S:
        raise UsageError(f"duration_s={duration_s:g} must be a multiple of {KEY_INTERVAL_S} s, above 0")
    if not 1 <= frames_per_s <= 240 or frames_per_s % 1:
        raise UsageError(f"frames_per_s={frames_per_s:g} must be a whole number from 1 to 240")
    if not source.is_file():
        raise SourceNotFound(str(source), "no such file")
    whole_loop_s = LOOP_S if height_px <= LARGE_PX else LARGE_LOOP_S
    loop = _Loop(
        source=source,
        source_sha256=sha256_of(source),
        codec=codec,
        width_px=2 * round(height_px * 8 / 9),
        height_px=height_px,
        frames_per_s=int(frames_per_s),
        duration_s=int(min(whole_loop_s, duration_s)),
    )
    encoding = ENCODINGS[codec]
    path = folder / f"{loop.name}-{duration_s:g}s-{loop.key}{encoding.suffix}"
    beside = path.with_suffix(".json")
    if path.is_file() and beside.is_file():
        kept = json.loads(beside.read_text(encoding="utf-8"))
        if kept["num_bytes"] == path.stat().st_size:
            return Material(**kept | {"path": path})
    folder.mkdir(parents=True, exist_ok=True)
    looped = folder / f"{loop.name}-loop{loop.duration_s}s-{loop.key}{encoding.suffix}"
    if not looped.is_file():
        _whole(looped, lambda part: _encode(loop, part))
    _whole(path, lambda part: _repeat(looped, part, loop_s=loop.duration_s, duration_s=duration_s))
    made = Material(
        path=path,
        sha256=sha256_of(path),
        duration_s=float(duration_s),
        width_px=loop.width_px,
        height_px=height_px,
        codec=codec,
        frames_per_s=float(frames_per_s),
        num_bytes=path.stat().st_size,
    )
    write_whole(beside, json.dumps(asdict(made) | {"path": path.name}, indent=1).encode())
    return made


def words_of(film: Material) -> Path:
    """A transcript for a film: one of `SENTENCES` every `CUE_S` seconds. It is made up; what it costs to read is real."""
    path = film.path.with_suffix(".tsv")
    lines = []
    for index in range(math.ceil(film.duration_s / CUE_S)):
        start_s, end_s = index * CUE_S, min((index + 1) * CUE_S, film.duration_s)
        lines.append(f"{start_s:.1f}\t{end_s:.1f}\t{SENTENCES[index % len(SENTENCES)]}\n")
    write_whole(path, "".join(lines).encode())
    return path


def sha256_of(path: Path) -> str:
    """Of the file's bytes, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loop:
    """What is encoded, to be repeated afterwards."""

    source: Path
    source_sha256: str
    codec: str
    width_px: int
    height_px: int
    frames_per_s: int
    duration_s: int

    @property
    def name(self) -> str:
        return f"{self.source.stem}-{self.height_px}p{self.frames_per_s}-{self.codec}"

    @property
    def key(self) -> str:
        """Eight digits that stand for the recipe and the source's bytes."""
        return hashlib.sha256(f"{RECIPE} {self.source_sha256} {ENCODINGS[self.codec]}".encode()).hexdigest()[:8]

    @property
    def bits_per_s(self) -> int:
        """Grows with the pixels, but slower, as it does on streaming sites."""
        pixels = self.width_px * self.height_px / (1920 * 1080)
        return round(BITS_PER_S_1080P * ENCODINGS[self.codec].rate * float(pixels**0.75))


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make the file under another name, and give it its own when it is whole."""
    handle, name = tempfile.mkstemp(prefix=".part-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        write(Path(name))
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def same_scheduling() -> Iterator[None]:
    """Keep this thread's scheduling, also as a decorator.

    SVT-AV1, opened by root, moves the thread into the class of real time, which all processes that it starts then inherit.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


@same_scheduling()
def _encode(loop: _Loop, target: Path) -> None:
    """The loop with its sound.

    Raises:
        SourceError: the source has no pictures, or FFmpeg can't read it.
        MaterialError: FFmpeg can't encode it.
    """
    encoding = ENCODINGS[loop.codec]
    try:
        with av.open(str(loop.source)) as probe:
            kinds = [each.type for each in probe.streams]
    except av.FFmpegError as error:
        raise NotMedia(str(loop.source), f"FFmpeg can't read it ({error}); give a film") from error
    if "video" not in kinds:
        raise MissingStream(str(loop.source), wanted="video", found=kinds)
    try:
        with av.open(str(target), "w", options={"fflags": "+bitexact"}) as film:
            video = cast(VideoStream, film.add_stream(encoding.encoder, rate=loop.frames_per_s))
            video.options = dict(encoding.options)
            video.width, video.height, video.pix_fmt = loop.width_px, loop.height_px, "yuv420p"
            video.bit_rate = loop.bits_per_s
            video.gop_size = KEY_INTERVAL_S * loop.frames_per_s
            sound = None
            if "audio" in kinds:
                sound = cast(AudioStream, film.add_stream(encoding.sound, rate=SOUND_HZ, layout="stereo"))
                sound.bit_rate = 128_000
            samples = iter(_sound(loop) if sound is not None else ())
            heard_s = 0.0
            for index, picture in enumerate(_pictures(loop)):
                frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
                frame.pts, frame.time_base = index, Fraction(1, loop.frames_per_s)
                film.mux(video.encode(frame))
                while sound is not None and heard_s <= index / loop.frames_per_s and (part := next(samples, None)):
                    heard_s += part.samples / SOUND_HZ
                    film.mux(sound.encode(part))
            film.mux(video.encode(None))
            if sound is not None:
                for part in samples:
                    film.mux(sound.encode(part))
                film.mux(sound.encode(None))
    except av.FFmpegError as error:
        raise MaterialError(f"{loop.name}: FFmpeg can't encode it with {encoding.encoder}: {error}") from error


def _pictures(loop: _Loop) -> Iterator[npt.NDArray[np.uint8]]:
    """The loop as the camera sees it, each uint8 [height * 3 / 2, width], planar YUV 4:2:0."""
    width, height = loop.width_px, loop.height_px
    random = np.random.default_rng(0)
    grain = random.normal(0, GRAIN_LEVELS, (height + 64, width + 64)).round().astype(np.int16)
    for index, frame in enumerate(_steady(loop)):
        time_s = index / loop.frames_per_s
        # The picture is 2% to 10% larger than what is shown of it, breathing over 9 s; the shown part drifts and shakes.
        zoom = 1.06 + 0.04 * math.sin(math.tau * time_s / 9)
        shift_x = 0.7 * math.sin(math.tau * time_s / 7) + 0.3 * math.sin(math.tau * 2.3 * time_s + 1)
        shift_y = 0.7 * math.cos(math.tau * time_s / 11) + 0.3 * math.sin(math.tau * 1.7 * time_s)
        scale = zoom * min(width / frame.width, height / frame.height)
        inner = (2 * round(frame.width * scale / 2), 2 * round(frame.height * scale / 2))
        large = frame.reformat(*inner, "yuv420p", interpolation="BICUBIC")
        picture = np.empty((height * 3 // 2, width), np.uint8)
        planes = (picture[:height], *picture[height:].reshape(2, height // 2, width // 2))
        for plane, shown in zip(large.planes, planes, strict=True):
            pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
            room_y, room_x = pixels.shape[0] - shown.shape[0], pixels.shape[1] - shown.shape[1]
            shown[:] = 128 if len(shown) != height else 16  # black bars, where the picture is smaller
            sway_y, sway_x = (zoom - 1) / 2 * shift_y * shown.shape[0], (zoom - 1) / 2 * shift_x * shown.shape[1]
            _lay(pixels, shown, round(room_y / 2 + sway_y), round(room_x / 2 + sway_x))
        top, left = random.integers(0, 64, 2)
        luma = planes[0]
        np.clip(luma + grain[top : top + height, left : left + width], 0, 255, out=luma, casting="unsafe")
        yield picture


def _lay(pixels: npt.NDArray[np.uint8], shown: npt.NDArray[np.uint8], top: int, left: int) -> None:
    """Copy what lies under `shown` when its corner is at (top, left) of `pixels`; negative where `pixels` is smaller."""
    height, width = shown.shape
    from_y, from_x = max(top, 0), max(left, 0)
    to_y, to_x = min(top + height, pixels.shape[0]), min(left + width, pixels.shape[1])
    shown[from_y - top : to_y - top, from_x - left : to_x - left] = pixels[from_y:to_y, from_x:to_x]


def _steady(loop: _Loop) -> Iterator[av.VideoFrame]:
    """The source's pictures at the loop's rate: the last one shown at each time; from the start again after the end."""
    frames = _repeated(loop.source)
    start_s, shown = next(frames)
    following = next(frames, None)
    for index in range(loop.duration_s * loop.frames_per_s):
        while following is not None and following[0] - start_s <= index / loop.frames_per_s:
            shown, following = following[1], next(frames, None)
        yield shown


def _repeated(source: Path) -> Iterator[tuple[float, av.VideoFrame]]:
    """The source's pictures over and over, with times in seconds that go on."""
    offset_s = last_s = 0.0
    while True:
        with av.open(str(source)) as film:
            stream = film.streams.video[0]
            stream.thread_type = "AUTO"
            shown_s = 1 / float(stream.average_rate or 25)
            first_s = math.nan
            for frame in film.decode(stream):
                if frame.pts is None:
                    continue
                first_s = frame.time if math.isnan(first_s) else first_s
                last_s = offset_s + frame.time - first_s
                yield last_s, frame
        if math.isnan(first_s):
            raise NotMedia(str(source), "not one picture of it can be decoded; give another film")
        offset_s = last_s + shown_s


def _sound(loop: _Loop) -> Iterator[av.AudioFrame]:
    """The source's sound as stereo at 48 kHz, repeated where the source is shorter, exactly as long as the loop."""
    wanted = loop.duration_s * SOUND_HZ
    done = 0
    while done < wanted:
        before = done
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=SOUND_HZ)
        with av.open(str(loop.source)) as film:
            for decoded in (*film.decode(audio=0), None):
                for frame in resampler.resample(decoded):
                    samples = frame.to_ndarray()[:, : wanted - done]  # [2, T]
                    if samples.size:
                        part = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
                        part.sample_rate, part.pts, part.time_base = SOUND_HZ, done, Fraction(1, SOUND_HZ)
                        done += samples.shape[1]
                        yield part
        if done == before:
            raise NotMedia(str(loop.source), "not one sample of its sound can be decoded; give another film")


def _repeat(looped: Path, target: Path, *, loop_s: int, duration_s: float) -> None:
    """The loop's packets over and over, with times that go on, up to the duration. Nothing is decoded."""
    with av.open(str(target), "w", options={"fflags": "+bitexact"}) as film:
        copies: dict[int, Stream] = {}
        for turn in range(math.ceil(duration_s / loop_s)):
            with av.open(str(looped)) as loop:
                if not copies:
                    copies = {
                        each.index: film.add_stream_from_template(each, opaque=True) for each in loop.streams.video
                    }
                    copies |= {
                        each.index: film.add_stream_from_template(each, opaque=True) for each in loop.streams.audio
                    }
                first: dict[int, int] = {}
                for packet in loop.demux():
                    if packet.pts is None or packet.dts is None:
                        continue
                    ticks = round(loop_s / packet.time_base)
                    # A sound's first packet (its encoder's warm-up) lies before 0; a loop's worth from there on is kept.
                    start = first.setdefault(packet.stream_index, min(packet.pts, 0))
                    end = min(ticks, round((duration_s - turn * loop_s) / packet.time_base))
                    if packet.pts >= start + end:
                        continue
                    packet.pts += turn * ticks
                    packet.dts += turn * ticks
                    packet.stream = copies[packet.stream_index]
                    film.mux(packet)


def main() -> int:
    """Make films, and print where they are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.material", description="Make films to measure on.")
    parser.add_argument("--heights", default="1080", help="lines, such as 360,1080")
    parser.add_argument("--codecs", default="h264", help=f"among {','.join(ENCODINGS)}")
    parser.add_argument("--minutes", default="1", help="lengths, such as 0.1,1,60")
    parser.add_argument("--frames-per-s", type=float, default=30.0)
    parser.add_argument("--source", type=Path, default=SOURCE, help="any film (default: the one of the tests)")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder otherwise prints its settings
    try:
        for height_px in map(int, options.heights.split(",")):
            for codec in options.codecs.split(","):
                for minutes in map(float, options.minutes.split(",")):
                    made = material(
                        height_px=height_px,
                        codec=codec,
                        duration_s=minutes * 60,
                        frames_per_s=options.frames_per_s,
                        source=options.source,
                        folder=options.folder,
                    )
                    megabits_per_s = made.num_bytes * 8e-6 / made.duration_s
                    sys.stdout.write(f"{made.path}  {megabits_per_s:.1f} Mbit/s  sha256 {made.sha256}\n")
    except (Fv2esError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, ValueError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
