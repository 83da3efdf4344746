"""Packets into a small media file in memory, without decoding, with the source's own timestamps."""

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import av.error
from av.audio.stream import AudioStream
from av.stream import Stream

from fv2es.demux import ChosenStreams, Coded, codec_name
from fv2es.errors import UnsupportedMedia

TOLERANCE_S = {"mp4": 1e-4, "mov": 1e-4, "nut": 1e-4, "matroska": 6e-4}
"""How far a timestamp read back from a clip may lie from the source's. MP4, MOV and NUT keep the stream's own ticks (sound is
rounded to a sample, 63 us at 16 kHz); Matroska as FFmpeg writes it counts in milliseconds."""

MAX_REFUSED = 0.05
"""A container may refuse this share of a clip's packets as damaged; if it refuses more, it is the wrong container."""

_HEADER_BYTES = 64
"""More than a container adds to a packet; if not, the file grows."""
_MAX_TIMESCALE = 2**31 - 1
_MIN_VIDEO_TIMESCALE = 10_000  # below it FFmpeg's MP4 muxer doubles the scale until it is reached


class ClipWriter:
    """Writes clips of one source in the first container that proves to hold them.

    No one container holds everything exactly: NUT drops the rotation and refuses times below zero and ProRes; MP4
    refuses VP8, PCM and ProRes; Matroska rounds to 1 ms. So each clip is read back, packets only, and its times are
    compared; a container that fails once for a source is not tried again.
    """

    def __init__(self, name: str, source_format: str, chosen: ChosenStreams) -> None:
        self.num_refused = 0
        """Damaged packets that the muxer refused, in all clips."""
        self._name = name
        self._chosen = chosen
        of_source = ["matroska"] if "matroska" in source_format else []
        self._containers = list(dict.fromkeys([*of_source, "mp4", "mov", "nut", "matroska"]))

    def write(self, coded: Sequence[Coded]) -> tuple[bytes, str]:
        """The clip and FFmpeg's name of its container.

        Args:
            coded: each stream's packets in the order of decoding; at least one packet.

        Raises:
            UnsupportedMedia: no container holds these streams with their times.
        """
        reasons: list[str] = []
        while self._containers:
            container = self._containers[0]
            try:
                data, held = _written(coded, self._chosen, container)
                error_s = _largest_error_s(data, held)
            except (ValueError, av.error.FFmpegError) as error:
                reasons.append(f"{container}: {error}")
            else:
                if error_s <= TOLERANCE_S[container]:
                    self.num_refused += len(coded) - len(held)
                    return data, container
                reasons.append(f"{container}: times differ by {error_s:.2g} s")
            self._containers.pop(0)
        raise UnsupportedMedia(
            self._name,
            f"no container holds its streams with their times ({'; '.join(reasons) or 'all failed before'}); "
            "convert it: ffmpeg -i IN -c:v libx264 -c:a aac OUT.mp4",
        )


def decode_times(pts: Sequence[int], dts: Sequence[int | None]) -> list[int]:
    """Decoding times that every muxer takes: strictly increasing and never after the presentation time.

    Times that hold already are returned as they are; else all are made anew from the order of presentation.

    Args:
        pts: presentation times in ticks, in the order of decoding.
        dts: decoding times in ticks, None where unknown; as many.
    """
    known = [time for time in dts if time is not None]
    if (
        len(known) == len(pts)
        and all(left < right for left, right in pairwise(known))
        and all(decode <= present for decode, present in zip(known, pts, strict=True))
    ):
        return known
    rising: list[int] = []
    for time in sorted(pts):
        rising.append(max(time, rising[-1] + 1) if rising else time)
    delay = max((decode - present for decode, present in zip(rising, pts, strict=True)), default=0)
    return [time - max(delay, 0) for time in rising]


def _written(coded: Sequence[Coded], chosen: ChosenStreams, container: str) -> tuple[bytes, list[Coded]]:
    """The file and the packets that it holds: all but those that the muxer refused."""
    kinds = {each.kind for each in coded}
    sources = [stream for stream in chosen.all() if stream.type in kinds]
    # "disabled": the muxer must not shift the clip to begin at zero
    options = {"avoid_negative_ts": "disabled"}
    if container in {"mp4", "mov"}:
        options = {"movie_timescale": str(_movie_timescale(sources))}
    times = {}
    for kind in kinds:
        own = [each for each in coded if each.kind == kind]
        times[kind] = iter(decode_times([each.pts for each in own], [each.dts for each in own]))
    out, num_refused = _Target(sum(each.num_bytes for each in coded) + len(coded) * _HEADER_BYTES), 0
    held: list[Coded] = []
    with av.open(out, "w", format=container, options=options) as output:
        made = {
            "video" if stream.type == "video" else "audio": output.add_stream_from_template(stream, opaque=True)
            for stream in sources
        }
        output.start_encoding()
        for each in coded:
            packet, source_stream = each.packet, each.packet.stream
            own_times = packet.time_base, packet.pts, packet.dts, packet.duration
            packet.stream = made[each.kind]
            packet.time_base = each.time_base
            packet.pts, packet.dts, packet.duration = each.pts, next(times[each.kind]), each.duration
            try:
                output.mux_one(packet)
                held.append(each)
            except av.error.FFmpegError:
                num_refused += 1
                if num_refused > max(1, len(coded) * MAX_REFUSED):
                    raise
            finally:
                packet.stream = source_stream  # the packet may be needed again
                packet.time_base, packet.pts, packet.dts, packet.duration = own_times
    return out.written(), held


class _Target(io.BytesIO):
    """A file in memory that has room from the start: grown by an eighth at a time it would be copied nine times over."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__(bytes(num_bytes))
        self._end = 0

    def write(self, data: Any) -> int:
        num_written = super().write(data)
        self._end = max(self._end, self.tell())
        return num_written

    def written(self) -> bytes:
        """What was written, without what is left of the room."""
        self.truncate(self._end)
        return self.getvalue()


def _movie_timescale(sources: Sequence[Stream]) -> int:
    """Ticks a second in which an MP4 states where its streams begin, so that every stream's own ticks fit."""
    scales = [1000]
    for stream in sources:
        scale = (stream.time_base or Fraction(1, 1000)).denominator
        while stream.type == "video" and scale < _MIN_VIDEO_TIMESCALE:
            scale *= 2
        scales.append(stream.codec_context.sample_rate if isinstance(stream, AudioStream) else scale)
    common = math.lcm(*scales)
    return common if common <= _MAX_TIMESCALE else max(scales)


def _largest_error_s(data: bytes, coded: Sequence[Coded]) -> float:
    """The largest difference between the clip's presentation times and the source's; infinite where pictures lack or a codec changed.

    Sound may be divided into packets anew (PCM in MOV is): then its start alone is compared.
    """
    read: dict[str, list[float]] = {"video": [], "audio": []}
    codecs = {codec_name(each.packet.stream) for each in coded}
    with av.open(io.BytesIO(data), "r") as clip:
        if {codec_name(stream) for stream in clip.streams} != codecs:  # MP4 gives MP2 back as MP3
            return math.inf
        for packet in clip.demux():
            if packet.size and packet.pts is not None and packet.stream.type in read:
                read[packet.stream.type].append(float(packet.pts * packet.time_base))
    worst_s = 0.0
    for kind, found_s in read.items():
        wanted_s = sorted(each.start_s for each in coded if each.kind == kind)
        found_s.sort()
        if kind == "audio" and wanted_s and len(found_s) != len(wanted_s):
            wanted_s, found_s = wanted_s[:1], found_s[:1]
        if len(found_s) != len(wanted_s):
            return math.inf
        worst_s = max([worst_s, *(abs(a - b) for a, b in zip(wanted_s, found_s, strict=True))])
    return worst_s
