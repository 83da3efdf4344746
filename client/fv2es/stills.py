"""Pictures of a film whose key pictures lie too far apart to be copied with all that they build on: decoded here, and only those that are looked at.

This is the one place where the client decodes. A stretch between two key pictures can be an hour long; copying it from its key picture on
for every clip would take memory without bound and time that grows with its square. So the stretch is decoded once, in order, and the
pictures shown at the sampled times are kept without loss (FFV1): the server sees the same pixels at the same times.
"""

import io
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
import numpy as np
from av.container import InputContainer
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

    def __init__(self, stream: VideoStream) -> None:
        self.num_errors = 0
        """Packets that could not be decoded."""
        self.num_missed = 0
        """Times that were asked for too late: the decoder had gone past them."""
        self._context = stream.codec_context
        if not self._context.is_open:
            self._context.thread_type = "SLICE"  # threads over pictures would hold several of them back
        self._shown: Still | None = None
        self._coming: deque[Still] = deque()
        self._is_drained = False

    def at(self, times_s: Sequence[float], window: PacketWindow, *, is_last: bool) -> list[Still]:
        """The pictures shown at times in seconds, ascending; each once.

        Args:
            times_s: when, ascending.
            window: whose pictures are taken, as far as they are needed.
            is_last: no packets will follow.
        """
        found: list[Still] = []
        for time_s in times_s:
            while (ahead := self._next(window, is_last=is_last)) and ahead.start_s <= time_s + TIMESTAMP_TOLERANCE_S:
                self._shown = self._coming.popleft()
            if self._shown is None or self._shown.start_s > time_s + TIMESTAMP_TOLERANCE_S:
                self.num_missed += self._shown is not None
            elif not found or found[-1] is not self._shown:
                found.append(self._shown)
        return found

    def close(self) -> None:
        """Forget everything, so that the stream's decoder can begin anew."""
        self._shown = None
        self._coming.clear()
        self._context.flush_buffers()

    def _next(self, window: PacketWindow, *, is_last: bool) -> Still | None:
        while not self._coming:
            coded = window.pop_picture()
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


def kept(stills: Sequence[Still], end_s: float, rotation_deg: int, limit_bytes: int) -> KeptStills | None:
    """Pictures encoded without loss; None where they take more than `limit_bytes`, or have a form that FFV1 does not keep.

    Args:
        stills: by time, at least one.
        end_s: until when the last one is shown.
        rotation_deg: anticlockwise turn that makes them upright.
        limit_bytes: most bytes.
    """
    first = stills[0].frame
    pixel_format = first.format.name.replace("yuvj", "yuv")  # the same pixels; the range is told apart
    if pixel_format not in {each.name for each in av.Codec("ffv1", "w").video_formats or ()}:
        return None
    data, num_bytes = io.BytesIO(), 0
    with av.open(data, "w", format="matroska") as output:
        stream = output.add_stream("ffv1", rate=25, options={"level": "3", "slices": "4", "slicecrc": "1"})
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, pixel_format
        stream.codec_context.colorspace, stream.codec_context.color_range = first.colorspace, _range(first)
        stream.codec_context.time_base = _COUNT
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        for index, still in enumerate(stills):
            if (still.frame.width, still.frame.height, still.frame.format.name) != (
                first.width,
                first.height,
                first.format.name,
            ):
                return None
            frame = still.frame
            if frame.format.name != pixel_format:
                frame = frame.reformat(
                    format=pixel_format, src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.JPEG
                )
            pts, base = frame.pts, frame.time_base
            frame.pts, frame.time_base = index, _COUNT
            packets = stream.encode(frame)
            frame.pts, frame.time_base = pts, base
            num_bytes += sum(each.size for each in packets)
            if num_bytes > limit_bytes:
                return None
            output.mux(packets)
        output.mux(stream.encode(None))
    container = av.open(io.BytesIO(data.getvalue()), "r")
    packets = [packet for packet in container.demux(video=0) if packet.size]
    base = stills[0].time_base
    ends = [*(each.pts for each in stills[1:]), max(stills[-1].pts + 1, round(end_s / base))]
    coded = [
        Coded(
            packet=packet,
            kind="video",
            pts=still.pts,
            dts=still.pts,
            duration=end - still.pts,
            time_base=base,
            start_s=still.start_s,
            end_s=float(end * base),
            decode_s=still.start_s,
            is_key=True,
            num_bytes=packet.size,
        )
        for packet, still, end in zip(packets, stills, ends, strict=True)
    ]
    return KeptStills(container=container, stream=container.streams.video[0], coded=coded)


def _range(frame: VideoFrame) -> int:
    return int(ColorRange.JPEG) if frame.format.name.startswith("yuvj") else frame.color_range
