"""Pictures of a film whose key pictures lie too far apart to be copied with all that they build on: decoded here, and only those that are looked at.

This is the one place where the client decodes. A stretch between two key pictures can be an hour long; copying it from its key picture on
for every clip would take memory without bound and time that grows with its square. So the stretch is decoded once, in order, and the
pictures shown at the sampled times are kept without loss (FFV1): the server sees the same pixels at the same times. Packets are decoded
as soon as many are held, pauses between utterances included, and pictures are encoded one by one.
"""

from __future__ import annotations  # PyAV's packets are generic in its stubs alone

import io
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from fv2es.demux import Coded
from fv2es.utterances import Utterance
from fv2es.window import PacketWindow

PICTURE_STEP_S = 0.5
"""Distance of the pictures that the served model looks at, from an utterance's start (`fv2es_pipelines.constants.FRAME_STEP_S`)."""
TIMESTAMP_TOLERANCE_S = 1e-3
"""As in `fv2es_pipelines.constants`: a picture this late is still the one that is shown."""
MOST_REORDERED = 20
"""A decoder gives a picture out after at most so many further packets (16 in H.264 and HEVC, and some for good measure)."""
_MAX_FOUR_SLICES_PX = 7_500_000
"""FFV1 refuses to cut larger pictures into only four slices (from 8 million pixels of 16 bits with alpha on): it chooses for those."""
_END_SLACK_S = 1e-6
_COUNT = Fraction(1, 25)  # pictures are counted on the way; their times are the source's


@dataclass(frozen=True, kw_only=True, slots=True)
class Still:
    """A decoded picture."""

    frame: VideoFrame
    pts: int
    """In ticks of the source's stream."""
    time_base: Fraction
    """Seconds in a tick."""

    @property
    def start_s(self) -> float:
        """When it is shown, on the source's clock."""
        return float(self.pts * self.time_base)


def looked_at(utterances: Sequence[Utterance]) -> list[float]:
    """The times at which a server looks at utterances, ascending, each once. Seconds on the source's clock."""
    times_s = set()
    for each in utterances:
        count = max(int(np.ceil((each.end_s - each.start_s) / PICTURE_STEP_S)), 1)
        own_s = (each.start_s + PICTURE_STEP_S * np.arange(count)).tolist()
        times_s |= {own_s[0], *(time_s for time_s in own_s if time_s < each.end_s - _END_SLACK_S)}
    return sorted(times_s)


class Decoding:
    """A stretch of pictures that is decoded once, forwards. Holds what the decoder needs and the picture that is shown."""

    def __init__(self, stream: VideoStream, window: PacketWindow) -> None:
        """Pictures of a stream are taken out of the window, as far as they are needed."""
        self.num_errors = 0
        """Packets that could not be decoded."""
        self.num_missed = 0
        """Times that were asked for too late: the decoder had gone past them."""
        self._window = window
        self._num_breaks = window.num_breaks
        self._context = stream.codec_context
        if not self._context.is_open:
            self._context.thread_type = "SLICE"  # threads over pictures would hold several of them back
        self._shown: Still | None = None
        self._coming: deque[Still] = deque()
        self._is_drained = False

    def reach(self, time_s: float, *, is_last: bool) -> bool:
        """Decode up to a time in seconds; whether a later picture has been seen. `is_last`: no packets will follow."""
        while ahead := self._next(is_last=is_last):
            if ahead.start_s > time_s + TIMESTAMP_TOLERANCE_S:
                return True
            self._shown = self._coming.popleft()
        return False

    def at(self, time_s: float, *, is_last: bool) -> Still | None:
        """The picture shown at a time in seconds, by what the window holds. Times are asked for in ascending order."""
        self.reach(time_s, is_last=is_last)
        if self._shown is not None and self._shown.start_s > time_s + TIMESTAMP_TOLERANCE_S:
            self.num_missed += 1
            return None
        return self._shown

    def close(self) -> None:
        """Forget everything, so that the stream's decoder can begin anew."""
        self._shown = None
        self._coming.clear()
        self._context.flush_buffers()

    def _next(self, *, is_last: bool) -> Still | None:
        if self._num_breaks != self._window.num_breaks:
            self._num_breaks = self._window.num_breaks
            self.close()
        while not self._coming:
            coded = self._window.pop_picture()
            if coded is None and (not is_last or self._is_drained):
                return None
            self._is_drained = coded is None
            try:
                frames = self._context.decode(coded.packet if coded is not None else None)
            except EOFError:
                return None
            except av.error.FFmpegError:
                self.num_errors += 1
                continue
            for frame in frames:
                if frame.pts is not None and frame.time_base is not None:
                    self.num_errors += frame.is_corrupt
                    self._coming.append(Still(frame=frame, pts=frame.pts, time_base=frame.time_base))
        return self._coming[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptStills:
    """Pictures without loss, as packets of a stream."""

    container: InputContainer
    """Holds the stream; to be closed."""
    stream: VideoStream
    coded: list[Coded]
    """By time, each a key picture."""


class Keeping:
    """Pictures that are encoded without loss as they come, so that none of them is held decoded."""

    def __init__(self, *, rotation_deg: int, limit_bytes: int) -> None:
        """Set up.

        Args:
            rotation_deg: anticlockwise turn that makes the pictures upright.
            limit_bytes: most bytes of all pictures together.
        """
        self.num_bytes = 0
        self.is_refused = False
        """Whether pictures take more than `limit_bytes`, or have a form that FFV1 does not keep: nothing is held any more."""
        self._rotation_deg, self._limit_bytes = rotation_deg, limit_bytes
        self._head = io.BytesIO()
        """A file with the stream and its first picture alone."""
        self._output: OutputContainer | None = None
        self._stream: VideoStream
        self._form: tuple[int, int, str] = (0, 0, "")
        self._last: Still | None = None
        self._times: list[tuple[int, float]] = []
        self._time_base = Fraction(1)
        self._packets: list[Packet[Any]] = []

    @property
    def num_pictures(self) -> int:
        """Pictures that are held."""
        return len(self._times)

    def add(self, still: Still) -> None:
        """Take in the next picture by time; the one that was last is not taken in twice."""
        if self.is_refused or still is self._last:
            return
        self._last = still
        frame = still.frame
        form = (frame.width, frame.height, frame.format.name)
        pixel_format = frame.format.name.replace("yuvj", "yuv")  # the same pixels; the range is told apart
        if self._output is None:
            if pixel_format not in {each.name for each in av.Codec("ffv1", "w").video_formats or ()}:
                self._refuse()
                return
            self._form, self._time_base = form, still.time_base
            self._begin(frame, pixel_format)
        if form != self._form:
            self._refuse()
            return
        if frame.format.name != pixel_format:
            frame = frame.reformat(
                format=pixel_format, src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.JPEG
            )
        frame.pts, frame.time_base = len(self._times), _COUNT
        self._times.append((still.pts, still.start_s))
        self._take(self._stream.encode(frame))

    def finish(self, end_s: float) -> KeptStills | None:
        """What was taken in, the last picture shown until `end_s` in seconds; None where that is nothing."""
        output, base = self._output, self._time_base
        if output is None:
            return None
        self._take(self._stream.encode(None))
        if self.is_refused:
            return None
        output.mux_one(self._packets[0])
        output.close()
        container = av.open(io.BytesIO(self._head.getvalue()), "r")
        stream = container.streams.video[0]
        ends = [*(pts for pts, _ in self._times[1:]), max(self._times[-1][0] + 1, round(end_s / base))]
        coded = []
        for packet, (pts, start_s), end in zip(self._packets, self._times, ends, strict=True):
            packet.stream = stream
            coded.append(
                Coded(
                    packet=packet,
                    kind="video",
                    pts=pts,
                    dts=pts,
                    duration=end - pts,
                    time_base=base,
                    start_s=start_s,
                    end_s=float(end * base),
                    decode_s=start_s,
                    is_key=True,
                    num_bytes=packet.size,
                )
            )
        return KeptStills(container=container, stream=stream, coded=coded)

    def _begin(self, frame: VideoFrame, pixel_format: str) -> None:
        self._output = av.open(self._head, "w", format="matroska")
        options = {"level": "3", "slicecrc": "1"}
        if frame.width * frame.height <= _MAX_FOUR_SLICES_PX:
            options["slices"] = "4"
        stream = self._output.add_stream("ffv1", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pixel_format
        stream.codec_context.colorspace, stream.codec_context.color_range = frame.colorspace, _range(frame)
        stream.codec_context.time_base = _COUNT
        if self._rotation_deg:
            stream.set_display_rotation(self._rotation_deg)
        self._stream = stream

    def _take(self, packets: Sequence[Packet[Any]]) -> None:
        self._packets += packets
        self.num_bytes += sum(each.size for each in packets)
        if self.num_bytes > self._limit_bytes:
            self._refuse()

    def _refuse(self) -> None:
        self.is_refused = True
        self._packets.clear()


def _range(frame: VideoFrame) -> int:
    return int(ColorRange.JPEG) if frame.format.name.startswith("yuvj") else frame.color_range
