"""One picture for each utterance, out of the source, for reports."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import av.error
import av.filter
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from fv2es.demux import open_media
from fv2es.errors import SourceError
from fv2es.files.as_json import source_path
from fv2es.result import Frame, Result, UtteranceResult

SIDE_PX = 180
"""The longer side of a picture in a report."""
_TIME_TOLERANCE_S = 0.001
_TURNS = {0: (), 90: (("transpose", "cclock"),), 180: (("hflip", ""), ("vflip", "")), 270: (("transpose", "clock"),)}
"""FFmpeg's filters that make a picture upright, by the anticlockwise turn that is needed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFrame:
    """An upright picture, made small."""

    time_s: float
    """On the source's clock."""
    jpeg: bytes
    width: int
    height: int
    box: tuple[float, float, float, float] | None
    """The face: x0, y0, x1, y1 in pixels of this small picture."""

    @property
    def data_uri(self) -> str:
        """For the `src` of an image."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"


def key_frames(result: Result) -> Iterator[tuple[int, KeyFrame | str]]:
    """For each utterance that has frames: its index with its picture, or the reason why there is none.

    The picture is the sampled one nearest to the utterance's middle that shows a face; without any face, the nearest.
    """
    wanted = [(each.index, _chosen(each)) for each in result.utterances if each.frames]
    if not wanted:
        return
    video = result.source.get("video") or {}
    try:
        with open_media(source_path(result)) as container:
            stream = container.streams[video["stream_index"]]
            if not isinstance(stream, VideoStream):
                raise SourceError(str(result.source["path"]), "another file than the one that was analysed lies there")
            for index, frame in wanted:
                yield index, _key_frame(container, stream, frame, video.get("rotation_deg", 0))
    except (SourceError, KeyError, IndexError) as error:
        yield from ((index, f"no picture: {error}") for index, _ in wanted)


def _chosen(utterance: UtteranceResult) -> Frame:
    middle_s = (utterance.start_s + utterance.end_s) / 2
    return min(utterance.frames, key=lambda frame: (frame.box_px is None, abs(frame.time_s - middle_s)))


def _key_frame(container: InputContainer, stream: VideoStream, frame: Frame, rotation_deg: int) -> KeyFrame | str:
    try:
        picture = _picture_at(container, stream, frame.time_s)
        if picture is None:
            return f"no picture: the file holds none at {frame.time_s:.2f} s"
        small, scale = _upright(picture, rotation_deg)
        jpeg = _jpeg(small)
    except (av.error.FFmpegError, ValueError) as error:
        return f"no picture: {error}"
    box = frame.box_px
    return KeyFrame(
        time_s=frame.time_s,
        jpeg=jpeg,
        width=small.width,
        height=small.height,
        box=None if box is None else (box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale),
    )


def _picture_at(container: InputContainer, stream: VideoStream, time_s: float) -> VideoFrame | None:
    """The picture that is shown from `time_s` on."""
    base = stream.time_base or Fraction(1, 1000)
    container.seek(max(int((time_s - _TIME_TOLERANCE_S) / base), 0), stream=stream)
    for picture in container.decode(stream):
        if picture.time is not None and picture.time >= time_s - _TIME_TOLERANCE_S:
            return picture
    return None


def _upright(picture: VideoFrame, rotation_deg: int) -> tuple[VideoFrame, float]:
    """The picture turned and made small, and by which factor."""
    scale = min(SIDE_PX / max(picture.width, picture.height), 1.0)
    width, height = (max(round(side * scale), 1) for side in (picture.width, picture.height))
    graph = av.filter.Graph()
    steps = [
        graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=Fraction(1, 1000)
        ),
        graph.add("scale", f"{width}:{height}:out_range=full"),
        *(graph.add(name, arguments) if arguments else graph.add(name) for name, arguments in _TURNS[rotation_deg]),
        graph.add("format", "yuvj420p"),
        graph.add("buffersink"),
    ]
    graph.link_nodes(*steps).configure()
    graph.push(picture)
    made = graph.pull()
    if not isinstance(made, VideoFrame):
        raise ValueError("the filter gave no picture")
    return made, scale


def _jpeg(picture: VideoFrame) -> bytes:
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height = picture.width, picture.height
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 25)
    encoder.qmin, encoder.qmax = 4, 4
    picture.pts = 0
    return b"".join(bytes(packet) for packet in (*encoder.encode(picture), *encoder.encode(None)))
