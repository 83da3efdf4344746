"""What a media file holds, found without decoding any of it."""

import io
import os
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from fv2es.demux import ChosenStreams, ReadReport, choose_streams, codec_name, open_media, read_packets
from fv2es.errors import NotMedia
from fv2es.plain import is_utf8, printable

DURATION_TOLERANCE_S = 0.5
"""The container's own duration is believed when the last packets end this close to it."""
MIN_DURATION_S = 0.04
"""A file whose packets state no duration (a single picture) lasts this long: one picture at 25 Hz."""

_FAR_AHEAD_US = 2**62
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """The stream of pictures."""

    codec: str
    """FFmpeg's name, for example h264."""
    width: int
    """Pixels, as coded: before any rotation."""
    height: int
    rotation_deg: int
    """Anticlockwise turn that makes the picture upright: 0, 90, 180 or 270."""
    average_fps: float | None
    """Pictures per second on average, as the container states; None where it does not. Never used for timing."""
    stream_index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioInfo:
    """The stream of sound."""

    codec: str
    rate_hz: int
    num_channels: int
    stream_index: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceInfo:
    """One media file. Times: seconds on the file's own clock."""

    path: Path
    size_bytes: int
    container: str
    """FFmpeg's name of the container, for example mov,mp4,m4a,3gp,3g2,mj2."""
    start_s: float
    """When the first picture or sound is presented; not always 0."""
    duration_s: float
    """From `start_s` to the end of the last packet; > 0."""
    video: VideoInfo | None
    audio: AudioInfo | None
    notes: tuple[str, ...] = ()
    """What a reader should know: streams left out, a duration that the container states wrongly."""

    @property
    def end_s(self) -> float:
        """When the last picture or sound ends."""
        return self.start_s + self.duration_s

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON: plain types, the notes left out (they stand in the result)."""
        plain = asdict(self)
        del plain["notes"]
        if is_utf8(self.path):
            return {**plain, "path": str(self.path)}
        return {**plain, "path": printable(self.path), "path_hex": os.fsencode(self.path).hex()}


def probe(path: str | os.PathLike[str]) -> SourceInfo:
    """What the file holds. Reads the header and the last packets; all packets only where the header can't be trusted.

    Raises:
        SourceNotFound: there is no such file, it is a directory or may not be read.
        NotMedia: the bytes are no media, the index is missing, or not one packet can be read.
        MissingStream: neither pictures nor sound.
        UnsupportedMedia: a URL, a still image, or codecs outside the allow-list.
    """
    name = os.fspath(path)
    with open_media(path) as container:
        chosen = choose_streams(container, name)
        start_s, stated_ends_s = _stated_span(container, chosen)
        tail_end_s = _tail_end(container, chosen) if chosen.video is not None else None
        size_bytes, kind = container.size, container.format.name
        video = _video_info(chosen.video) if chosen.video is not None else None
        audio = _audio_info(chosen.audio) if chosen.audio is not None else None
    notes = list(chosen.notes)
    end_s = _agreed_end_s(stated_ends_s, tail_end_s)
    if start_s is None or end_s is None or end_s <= start_s:
        first_s, end_s = _scanned_span(path)
        start_s = first_s if start_s is None or start_s >= end_s else start_s
        if stated_ends_s and _agreed_end_s(stated_ends_s, end_s) is None:
            notes.append(f"the container states an end at {stated_ends_s[0]:.2f} s, its packets end at {end_s:.2f} s")
    start_s = max(start_s, 0.0)  # below zero lies only what primes a decoder
    return SourceInfo(
        path=Path(name),
        size_bytes=size_bytes,
        container=kind,
        start_s=start_s,
        duration_s=max(end_s - start_s, MIN_DURATION_S),
        video=video,
        audio=audio,
        notes=tuple(notes),
    )


def _stated_span(container: InputContainer, chosen: ChosenStreams) -> tuple[float | None, tuple[float, ...]]:
    """Start and possible ends in seconds as the header has them.

    Matroska's duration is the end on the file's clock (as FFmpeg writes it) or the length: both are possible ends.
    """
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in chosen.all()
        if stream.start_time is not None and stream.time_base is not None
    ]
    if container.duration is None or container.duration <= 0:
        return min(starts, default=None), ()
    origin_us = container.start_time if container.start_time is not None else 0
    return min(starts, default=None), (
        (origin_us + container.duration) / _MICROSECONDS,
        container.duration / _MICROSECONDS,
    )


def _agreed_end_s(stated_ends_s: tuple[float, ...], measured_s: float | None) -> float | None:
    """The stated end that the packets bear out; None where none does."""
    if measured_s is None:
        return None
    return next((end_s for end_s in stated_ends_s if abs(end_s - measured_s) <= DURATION_TOLERANCE_S), None)


def _tail_end(container: InputContainer, chosen: ChosenStreams) -> float | None:
    """End in seconds of what follows the last key picture; None where the container can't be searched."""
    try:
        container.seek(_FAR_AHEAD_US)
    except av.error.FFmpegError:
        return None
    report = ReadReport()
    end_s = max((coded.end_s for coded in read_packets(container, chosen, report)), default=None)
    return None if report.failure else end_s


def _scanned_span(path: str | os.PathLike[str]) -> tuple[float, float]:
    """Start and end in seconds over all packets."""
    start_s, end_s = float("inf"), float("-inf")
    with open_media(path) as container:
        chosen = choose_streams(container, os.fspath(path))
        for coded in read_packets(container, chosen, ReadReport()):
            start_s, end_s = min(start_s, coded.start_s), max(end_s, coded.end_s)
    if start_s > end_s:
        raise NotMedia(os.fspath(path), "not one packet of it can be used; copy or download the file again")
    return start_s, end_s


def _video_info(stream: VideoStream) -> VideoInfo:
    return VideoInfo(
        codec=codec_name(stream),
        width=stream.codec_context.width,
        height=stream.codec_context.height,
        rotation_deg=_rotation_deg(stream),
        average_fps=float(stream.average_rate) if stream.average_rate else None,
        stream_index=stream.index,
    )


def _audio_info(stream: AudioStream) -> AudioInfo:
    return AudioInfo(
        codec=codec_name(stream),
        rate_hz=stream.codec_context.sample_rate,
        num_channels=stream.codec_context.channels,
        stream_index=stream.index,
    )


def _rotation_deg(stream: VideoStream) -> int:
    """The rotation of the stream's display matrix.

    PyAV shows the matrix on decoded pictures alone. FFmpeg writes it into the header of an MP4 (ISO/IEC 14496-12,
    tkhd), so an MP4 header is written into memory and read there. A codec that neither MP4 nor MOV holds gives 0.
    """
    for kind in ("mp4", "mov"):
        header = io.BytesIO()
        try:
            with av.open(header, "w", format=kind, options={"movflags": "frag_keyframe+empty_moov"}) as container:
                container.add_stream_from_template(stream, opaque=True)
                container.start_encoding()
        except (ValueError, av.error.FFmpegError):
            continue
        at = header.getvalue().find(b"tkhd")
        if at >= 0:
            is_long = header.getvalue()[at + 4] == 1
            a, b = struct.unpack_from(">ii", header.getvalue(), at + (56 if is_long else 44))
            return {(1, 0): 0, (0, 1): 270, (-1, 0): 180, (0, -1): 90}.get((_sign(a), _sign(b)), 0)
    return 0


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
