"""Films as a plain program reads them: with PyAV's defaults, every picture decoded, all of the sound."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.video.stream import VideoStream

from benchmarks.peers.errors import FilmUnusable, TooLittleMemory
from benchmarks.peers.plan import Span
from fv2es_pipelines.constants import FRAME_STEP_S, SAMPLE_RATE_HZ, TIMESTAMP_TOLERANCE_S

Rgb = npt.NDArray[np.uint8]
Wave = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]

_RESERVE_BYTES: Final = 2 * 2**30
"""For nets, decoder and other programs: beside the pictures."""
_LARGEST: Final = float(np.nextafter(np.float32(1), np.float32(0)))


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeVideo:
    """All pictures of a film in memory."""

    pictures: Rgb
    """[F, H, W, 3], red first, as stored: not turned upright."""
    times_s: Times
    """[F], when each is shown, on the film's clock."""
    end_s: float
    """Until when the last one is shown."""


@contextmanager
def opened(film: Path) -> Iterator[InputContainer]:
    """The film, open for reading.

    Raises:
        FilmUnusable: there is no such file, it is no media, or it is damaged where it is read.
    """
    try:
        with av.open(str(film)) as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        raise FilmUnusable(film, f"can't be read ({error.strerror or error}); give a whole media file") from error


def video_of(container: InputContainer) -> VideoStream | None:
    """The first stream of pictures, None where there is none."""
    return next(iter(container.streams.video), None)


def need_bytes(film: Path) -> tuple[int, float]:
    """Most bytes that `whole_video` takes for a film, and the film's length in seconds.

    Pictures are there twice when the list of them becomes one array.
    """
    with opened(film) as container:
        stream = video_of(container)
        if stream is None:
            return 0, 0.0
        duration_s = float((container.duration or 0) / 1_000_000)
        rate = stream.average_rate or stream.guessed_rate
        count = stream.frames or round(duration_s * float(rate or 30))
        return 2 * count * stream.codec_context.width * stream.codec_context.height * 3, duration_s


def available_bytes() -> int:
    """Memory that a new process may take, by the kernel's estimate and the limit of the control group."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        cache = next(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text(encoding="ascii").splitlines()
            if line.startswith("file ")
        )
    except (OSError, StopIteration, ValueError):
        return free
    return free if limit == "max" else min(free, int(limit) - used + cache)


def check_memory(film: Path, available: int | None = None) -> None:
    """Make sure that `whole_video` can succeed.

    Args:
        film: that would be read.
        available: bytes; None: what the machine has now.

    Raises:
        TooLittleMemory: it can't; the error says how many seconds would fit.
    """
    needed, duration_s = need_bytes(film)
    usable = (available_bytes() if available is None else available) - _RESERVE_BYTES
    if needed > usable:
        raise TooLittleMemory(
            film,
            needed_bytes=needed,
            available_bytes=max(usable, 0),
            fitting_s=float(np.floor(duration_s * max(usable, 0) / needed)),
        )


def whole_video(film: Path) -> WholeVideo | None:
    """Every picture of a film as RGB, one by one into a list that becomes one array; None where it has no pictures.

    Raises:
        FilmUnusable: it can't be read.
        TooLittleMemory: it would not fit.
    """
    check_memory(film)
    with opened(film) as container:
        stream = video_of(container)
        if stream is None:
            return None
        pictures, stamps, end_s = [], [], 0.0
        for frame in container.decode(stream):
            pictures.append(rgb_of(frame))
            stamps.append(_shown_s(frame, film))
            end_s = stamps[-1] + (frame.duration or 0) * float(frame.time_base or 0)
    if not pictures:
        return None
    return WholeVideo(pictures=np.stack(pictures), times_s=np.array(stamps), end_s=end_s)


def shown_times(film: Path) -> tuple[Times, float]:
    """When each picture of a film is shown, ascending, and until when the last: seconds, by its packets alone."""
    with opened(film) as container:
        stream = video_of(container)
        if stream is None:
            return np.zeros(0), 0.0
        base_s = float(stream.time_base or 1)
        shown = [
            (packet.pts * base_s, (packet.pts + (packet.duration or 0)) * base_s)
            for packet in container.demux(stream)
            if packet.pts is not None and packet.size
        ]
        stamps = [start_s for start_s, _ in shown]
        end_s = max((stop_s for _, stop_s in shown), default=0.0)
    return np.sort(np.array(stamps)), end_s


def all_frames(film: Path) -> Iterator[tuple[av.VideoFrame, float]]:
    """Every decoded frame of a film and when it is shown, in that order."""
    with opened(film) as container:
        stream = video_of(container)
        if stream is not None:
            for frame in container.decode(stream):
                yield frame, _shown_s(frame, film)


def rgb_of(frame: av.VideoFrame) -> Rgb:
    """A frame's pixels as stored, not turned upright: [H, W, 3], red first."""
    pixels: Any = frame.to_ndarray(format="rgb24")
    return np.asarray(pixels, np.uint8)


def _shown_s(frame: av.VideoFrame | av.AudioFrame, film: Path) -> float:
    if frame.pts is None or frame.time_base is None:
        raise FilmUnusable(film, "has pictures or sound without timestamps; write it anew with FFmpeg")
    return float(frame.pts * frame.time_base)


def sampled(span: Span, times_s: Times, end_s: float) -> list[int]:
    """Which pictures an utterance looks at: of those shown at its start and every 0.5 s after it the numbers, ascending."""
    count = max(int(np.ceil((span.end_s - span.start_s) / FRAME_STEP_S - 1e-6)), 1)
    wanted_s = span.start_s + FRAME_STEP_S * np.arange(count)
    wanted_s = wanted_s[wanted_s < end_s]
    places = np.searchsorted(times_s, wanted_s + TIMESTAMP_TOLERANCE_S, side="right") - 1
    return [int(place) for place in places if place >= 0]


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeSound:
    """All sound of a film."""

    wave: Wave
    """[n], 16 kHz, mono, -1..1."""
    start_s: float
    """When it begins, on the film's clock."""

    def of(self, span: Span) -> Wave | None:
        """The sound of an utterance; None where it has none."""
        length = round((span.end_s - span.start_s) * SAMPLE_RATE_HZ)
        first = round((self.start_s - span.start_s) * SAMPLE_RATE_HZ)
        low, high = max(first, 0), min(first + len(self.wave), length)
        if low >= high:
            return None
        own = np.zeros(length, np.float32)
        own[low:high] = self.wave[low - first : high - first]
        return own


def whole_sound(film: Path) -> WholeSound | None:
    """All sound of a film, channels averaged, as the wav file that the original is given; None where it has none.

    Raises:
        FilmUnusable: it can't be read.
    """
    with opened(film) as container:
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            return None
        mixer = AudioResampler("fltp", "mono", SAMPLE_RATE_HZ, options={"rematrix_maxval": "1.0"})
        parts: list[Any] = []
        start_s: float | None = None
        for frame in container.decode(stream):
            if start_s is None:
                start_s = _shown_s(frame, film)
            frame.pts = None
            parts += mixer.resample(frame)
        if start_s is None:
            return None
        parts += mixer.resample(None)
    wave = np.concatenate([part.to_ndarray()[0] for part in parts]).astype(np.float32, copy=False)
    return WholeSound(wave=np.clip(wave, -1.0, _LARGEST), start_s=start_s)


def check_streams(film: Path) -> None:
    """Make sure that a film holds pictures or sound.

    Raises:
        FilmUnusable: it can't be read, or holds neither.
    """
    with opened(film) as container:
        if not container.streams.video and not container.streams.audio:
            raise FilmUnusable(film, "holds neither pictures nor sound; give a film")


def shortened(film: Path, target: Path, *, until_s: float) -> Path:
    """The film's beginning, by stream copy.

    Args:
        film: to be shortened.
        target: the new file, whose name ends as the film's.
        until_s: packets that begin later are left out; > 0.
    """
    with opened(film) as source, av.open(str(target), "w") as writer:
        streams: Sequence[Any] = [*source.streams.video[:1], *source.streams.audio[:1]]
        copies = {stream.index: writer.add_stream_from_template(stream) for stream in streams}
        for packet in source.demux(*streams):
            if packet.dts is None or float(packet.dts * packet.time_base) >= until_s:
                continue
            packet.stream = copies[packet.stream.index]
            writer.mux(packet)
    return target


def threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
