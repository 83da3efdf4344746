"""Encoded clips, opened with care: known containers and codecs only, no other files, no network, bounded in size."""

from __future__ import annotations  # PyAV's packets are generic in its stubs alone

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeVar, cast

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from fv2es_pipelines.errors import ClipTooLarge, NotMedia, UnsupportedCodec
from fv2es_pipelines.limits import MediaLimits

StreamT = TypeVar("StreamT", bound=Stream)
ClipBytes = bytes | bytearray | memoryview | npt.NDArray[np.uint8]

CONTAINERS: Final = (
    "matroska", "webm", "nut", "mov", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "wav", "mp3", "flac", "aac", "ivf",
)  # fmt: skip
"""FFmpeg demuxers that may open a clip. None of them follows references to other files or addresses."""

VIDEO_CODECS: Final = frozenset({
    "h264", "hevc", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v3", "h263", "flv1", "vc1", "wmv3",
    "mjpeg", "prores", "dnxhd", "theora", "png", "ffv1", "rawvideo", "dvvideo",
})  # fmt: skip
"""Codecs of pictures that may be decoded, by FFmpeg's codec names."""

AUDIO_CODECS: Final = frozenset({
    "aac", "mp3", "mp2", "opus", "vorbis", "flac", "alac", "ac3", "eac3", "wmav2", "amr_nb", "amr_wb", "pcm",
})  # fmt: skip
"""Codecs of sound that may be decoded, by FFmpeg's codec names; `pcm` stands for all whose name begins with `pcm_`."""


class _BytesReader:
    """A file made of bytes that are already in memory: reads copy only what is asked for."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._position = data, 0

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size < 0 else self._position + size
        chunk = bytes(self._data[self._position : end])
        self._position += len(chunk)
        return chunk

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, len(self._data))[whence]
        return self._position

    def tell(self) -> int:
        return self._position


class OpenClip:
    """A clip that is open for reading: its streams and their packets.

    Attributes:
        damaged: packets that the container itself could not deliver whole, so far.
    """

    def __init__(self, container: InputContainer, limits: MediaLimits) -> None:
        self.limits = limits
        self.damaged = 0
        self._container = container

    def video(self) -> VideoStream | None:
        """The first stream of pictures that is no cover art; None if there is none.

        Raises:
            UnsupportedCodec: its codec is not in `VIDEO_CODECS`.
            ClipTooLarge: its pictures exceed `max_pixels`.
        """
        for stream in self._container.streams.video:
            if stream.disposition & Disposition.attached_pic:
                continue
            _check_codec(stream, kind="video", allowed=VIDEO_CODECS)
            pixels = stream.codec_context.width * stream.codec_context.height
            if pixels > self.limits.max_pixels:
                raise ClipTooLarge("max_pixels", value=pixels, limit=self.limits.max_pixels)
            # A picture's size may change later: the decoder holds to the bound itself.
            stream.codec_context.options = {"max_pixels": str(self.limits.max_pixels)}
            return stream
        return None

    def audio(self) -> AudioStream | None:
        """The default stream of sound, else the first one; None if there is none.

        Raises:
            UnsupportedCodec: its codec is not in `AUDIO_CODECS`.
        """
        streams = self._container.streams.audio
        chosen = next((stream for stream in streams if stream.disposition & Disposition.default), None)
        chosen = chosen or next(iter(streams), None)
        if chosen is not None:
            _check_codec(chosen, kind="audio", allowed=AUDIO_CODECS)
        return chosen

    def packets(self, stream: StreamT) -> Iterator[Packet[StreamT]]:
        """The stream's packets in the order of decoding. A clip that breaks off ends there and counts in `damaged`.

        Raises:
            ClipTooLarge: there are more than `max_packets`.
        """
        packets = cast("Iterator[Packet[StreamT]]", self._container.demux(stream))
        for count in range(self.limits.max_packets + 1):
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                self.damaged += 1
                return
            if packet is None:
                return
            if not packet.size:  # the marker at the end of the stream
                continue
            if count == self.limits.max_packets:
                raise ClipTooLarge("max_packets", value=count + 1, limit=self.limits.max_packets)
            yield packet


def _check_codec(stream: VideoStream | AudioStream, *, kind: str, allowed: frozenset[str]) -> None:
    context = stream.codec_context  # None where FFmpeg has no decoder at all
    name = context.codec.canonical_name if context is not None else "unknown"
    if ("pcm" if name.startswith("pcm_") else name) not in allowed:
        raise UnsupportedCodec(name, kind=kind, allowed=tuple(allowed))


@contextmanager
def open_clip(data: ClipBytes, *, limits: MediaLimits | None = None, pictures: bool = True) -> Iterator[OpenClip]:
    """Open an encoded clip. The bytes are read where they lie and must stay unchanged until the clip is closed.

    Args:
        data: a whole media file; an array must be uint8 and contiguous.
        limits: bounds; None for the defaults.
        pictures: False: only the sound is wanted, and no picture is decoded to learn the pictures' format.

    Raises:
        NotMedia: the bytes are empty or no media of an allowed container.
        ClipTooLarge: the clip has more bytes or streams than allowed.
    """
    limits = limits or MediaLimits()
    view = memoryview(cast(bytes, data)).cast("B")
    if len(view) > limits.max_bytes:
        raise ClipTooLarge("max_bytes", value=len(view), limit=limits.max_bytes)
    if not len(view):
        raise NotMedia(num_bytes=0, reason="empty")
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "none"}
    if not pictures:
        options["skip_frame"] = "all"
    try:
        container = av.open(_BytesReader(view), mode="r", options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise NotMedia(num_bytes=len(view), reason=error.strerror or type(error).__name__) from error
    with container:
        if len(container.streams) > limits.max_streams:
            raise ClipTooLarge("max_streams", value=len(container.streams), limit=limits.max_streams)
        yield OpenClip(container, limits)
