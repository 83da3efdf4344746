"""The pictures that a clip's utterances want, out of one sequential decode that keeps only what it hands on."""

from __future__ import annotations  # PyAV's packets are generic in its stubs alone

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.stream import VideoStream

from fv2es_pipelines.bitstream import Av1Thinner
from fv2es_pipelines.clip import OpenClip
from fv2es_pipelines.constants import TIMESTAMP_TOLERANCE_S
from fv2es_pipelines.picture import DecodedPicture, RgbConverter
from fv2es_pipelines.sampling import PictureChooser

_SKIPPING_CODECS = frozenset({"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"})
"""Decoders that can be told, packet by packet, to leave out pictures that no other refers to. Some read it once only."""
_MIN_SKIPPED_PACKETS = 4  # restarting a decoder costs about as much as decoding a few pictures

_MAX_THREADS = 16  # beyond that FFmpeg warns
_MAX_THREAD_BYTES = 128 * 2**20
"""Most memory for the pictures that the decoder's threads work on, one each, beside those that others refer to: two of 8K, ten of 4K."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenPicture:
    """A picture and the wanted times it serves."""

    pts_s: float
    """When it is shown: seconds on the clip's clock."""
    positions: tuple[int, ...]
    """Positions of the wanted times it serves, ascending, at least one."""
    picture: DecodedPicture


class PictureReader:
    """Decodes a clip once, in order, and hands out the pictures that are shown at the wanted times.

    Pictures that nobody wants and that no other picture needs are not decoded. Damaged packets are counted and the last
    good picture stands in, with its own timestamp.

    Attributes:
        errors: packets that could not be decoded, or not without loss, so far.
    """

    def __init__(self, clip: OpenClip, times_s: npt.NDArray[np.float64], *, threads: int = 0) -> None:
        """Wanted times: seconds on the clip's clock, ascending, float64 [n]. Threads: see `bounded_threads`."""
        self.errors = 0
        self._clip, self._times_s, self._threads = clip, times_s, threads
        self._converter = RgbConverter()

    def __iter__(self) -> Iterator[ChosenPicture]:
        """Chosen pictures in the order they are shown.

        Raises:
            UnsupportedCodec, ClipTooLarge: as `OpenClip.video`.
        """
        stream = self._clip.video()
        if stream is None:
            return
        packets = list(self._clip.packets(stream))
        self.errors += self._clip.damaged
        chooser = PictureChooser(self._times_s)
        clock = StreamClock(stream)
        end_s, shown = max((packet_end_s(packet, clock) for packet in packets), default=-np.inf), None
        for frame in self._decode(stream, packets, plan_packets(stream, packets, self._times_s)):
            pts_s = clock.stamp(frame)
            positions = chooser.arrive(pts_s)
            if positions and shown is not None:
                yield ChosenPicture(pts_s=shown[0], positions=tuple(positions), picture=self._picture(shown[1]))
            shown = (pts_s, frame)
            end_s = max(end_s, clock.end(frame, pts_s))
            if chooser.done:
                return
        if shown is not None:
            positions = chooser.finish(end_s)
            if positions:
                yield ChosenPicture(pts_s=shown[0], positions=tuple(positions), picture=self._picture(shown[1]))

    def _picture(self, frame: av.VideoFrame) -> DecodedPicture:
        return DecodedPicture(frame, self._converter)

    def _decode(
        self, stream: VideoStream, packets: list[Packet[VideoStream]], plan: PacketPlan
    ) -> Iterator[av.VideoFrame]:
        """Frames in the order they are shown. Takes the packets out of the list, so that what is decoded is not held."""
        packets.reverse()
        context = stream.codec_context
        context.thread_count = bounded_threads(self._threads, context.width, context.height)
        context.thread_type = "AUTO"
        can_leave_out = context.codec.canonical_name in _SKIPPING_CODECS
        thinner = Av1Thinner(context.extradata) if context.codec.canonical_name == "av1" else None
        skipped = 0
        for need in plan.needs:
            packet = packets.pop()
            if need == SKIP:
                skipped += 1
                continue
            if skipped and not plan.intra_only:
                yield from self._drain(stream)
                context.flush_buffers()
            skipped = 0
            if can_leave_out:
                context.skip_frame = "DEFAULT" if need == SHOW else "NONREF"
            given: Packet[VideoStream] | None = packet
            if thinner is not None:
                given = _thinned(packet, thinner, is_seen=need == SHOW)
                if given is None:
                    continue
            try:
                frames = context.decode(given)
            except av.FFmpegError:
                self.errors += 1
                continue
            yield from self._counted(frames)
        yield from self._drain(stream)

    def _drain(self, stream: VideoStream) -> Iterator[av.VideoFrame]:
        try:
            frames = stream.codec_context.decode(None)
        except EOFError:  # nothing was ever sent
            return
        except av.FFmpegError:
            self.errors += 1
            return
        yield from self._counted(frames)

    def _counted(self, frames: Sequence[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for frame in frames:
            self.errors += frame.is_corrupt
            yield frame


def _thinned(packet: Packet[VideoStream], thinner: Av1Thinner, *, is_seen: bool) -> Packet[VideoStream] | None:
    """The packet, where it is not to be seen without frames that no other needs; None where nothing is left."""
    data = bytes(packet)
    if is_seen:
        thinner.seen(data)
        return packet
    left = thinner.thinned(data)
    if len(left) == len(data):
        return packet
    if not left:
        return None
    thin = cast("Packet[VideoStream]", Packet(left))
    thin.pts, thin.dts, thin.duration, thin.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    return thin


def bounded_threads(threads: int, width_px: int, height_px: int) -> int:
    """So many threads of a decoder, but no more than `_MAX_THREAD_BYTES` allow; 0: as many as this process has cores."""
    picture_bytes = max(1, width_px * height_px * 3 // 2)  # of 4:2:0 with 8 bits, by far the most common
    wanted = threads or len(os.sched_getaffinity(0))
    return max(1, min(wanted, _MAX_THREADS, _MAX_THREAD_BYTES // picture_bytes))


SKIP, REFERENCE, SHOW = 0, 1, 2
"""What a packet is needed for: nothing, other pictures, being seen itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PacketPlan:
    """What to do with each packet: leave it out, decode it for others if others need it, or decode it to be seen."""

    needs: npt.NDArray[np.int8]
    """[packets] of SKIP, REFERENCE, SHOW."""
    intra_only: bool
    """No picture of this codec refers to another."""
    by_times: bool
    """False: the timestamps don't tell which picture is shown when; everything is needed."""


def plan_packets(
    stream: VideoStream,
    packets: Sequence[Packet[VideoStream]],
    times_s: npt.NDArray[np.float64],
    *,
    starts: Sequence[int] | None = None,
) -> PacketPlan:
    """What each packet is needed for when the pictures shown at `times_s` are wanted; all of them where timestamps don't tell.

    Args:
        stream: of the packets.
        packets: all of the stream, in the order of decoding.
        times_s: seconds on the clip's clock, ascending, float64 [n].
        starts: positions of packets at which a decoder may begin anew; None: all key packets.
    """
    intra_only = bool(stream.codec_context.codec.intra_only)
    everything = PacketPlan(needs=np.full(len(packets), SHOW, np.int8), intra_only=intra_only, by_times=False)
    if not packets or any(packet.pts is None for packet in packets):
        return everything
    decoding_times = [packet.dts for packet in packets if packet.dts is not None]  # Matroska lacks those of the first
    if np.any(np.diff(decoding_times) < 0):
        return everything  # the clock jumps back: which picture is shown when is known only after decoding
    pts_s = np.array([packet.pts for packet in packets], np.float64) * float(stream.time_base or 1)  # [n]
    order = np.argsort(pts_s, kind="stable")  # shown order -> decoding order
    shown = np.searchsorted(pts_s[order], times_s + TIMESTAMP_TOLERANCE_S, side="right") - 1
    wanted = np.zeros(len(packets), bool)
    wanted[order[shown[shown >= 0]]] = True
    needs = np.full(len(packets), SKIP, np.int8)
    if starts is None:
        starts = [index for index, packet in enumerate(packets) if packet.is_keyframe]
    keys = [index for index in starts if index]
    previous_start = 0
    for start, stop in zip([0, *keys], [*keys, len(packets)], strict=True):
        seen = start + np.flatnonzero(wanted[start:stop])
        if len(seen):
            # Pictures shown before their key frame may refer to the group before it.
            first = previous_start if pts_s[seen].min() < pts_s[start] else start
            last = int(seen.max()) + 1
            needs[first:last] = np.maximum(needs[first:last], REFERENCE)
            needs[seen] = SHOW
        previous_start = start
    _fill_short_gaps(needs, 1 if intra_only else _MIN_SKIPPED_PACKETS)
    return PacketPlan(needs=needs, intra_only=intra_only, by_times=True)


def _fill_short_gaps(needs: npt.NDArray[np.int8], shortest: int) -> None:
    """Turn gaps of skipped packets that are shorter than `shortest` and lie between needed ones into references."""
    used = np.flatnonzero(needs)
    for before, after in itertools.pairwise(used):
        if 1 < after - before <= shortest:
            needs[before + 1 : after] = REFERENCE


class StreamClock:
    """Timestamps of decoded frames in seconds, with a way out where the container gave none."""

    def __init__(self, stream: VideoStream) -> None:
        self.time_base_s = float(stream.time_base or 1)
        rate = stream.average_rate or stream.guessed_rate
        self.period_s = 1 / float(rate) if rate else 0.04
        self._last_s: float | None = None

    def stamp(self, frame: av.VideoFrame | Packet[VideoStream]) -> float:
        """When a frame is shown; frames in the order they are shown. So for packets, where that is their order."""
        ticks = frame.pts if frame.pts is not None else frame.dts
        if ticks is not None:
            self._last_s = ticks * self.time_base_s
        else:
            self._last_s = 0.0 if self._last_s is None else self._last_s + self.period_s
        return self._last_s

    def end(self, frame: av.VideoFrame | Packet[VideoStream], pts_s: float) -> float:
        """Until when a frame that is shown from `pts_s` on is shown."""
        return pts_s + (frame.duration * self.time_base_s if frame.duration else self.period_s)


def packet_end_s(packet: Packet[VideoStream], clock: StreamClock) -> float:
    """Until when a packet's picture is shown by its own account, in seconds; minus infinity where it has no timestamp."""
    if packet.pts is None:
        return float("-inf")
    length_s = packet.duration * clock.time_base_s if packet.duration else clock.period_s
    return packet.pts * clock.time_base_s + length_s
