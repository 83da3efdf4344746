"""Which pictures of a clip a decoder on a device has to make: a small video of just the packets that it needs, and numbers in it.

Nothing is decoded here but one key picture, which says how the film is turned and coloured.
"""

from __future__ import annotations  # PyAV's packets are generic in its stubs alone

import functools
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final, Literal, cast

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.stream import VideoStream

from fv2es_pipelines import bitstream
from fv2es_pipelines.clip import OpenClip
from fv2es_pipelines.errors import NotOnDevice
from fv2es_pipelines.picture import Orientation, RgbConverter
from fv2es_pipelines.sampling import PictureChooser
from fv2es_pipelines.video import SHOW, SKIP, StreamClock, packet_end_s, plan_packets

Device = Literal["cpu", "gpu"]

MAX_DECODED_BYTES: Final = 2 * 2**30
"""Most memory of the device for the pictures of one clip at full size, which DALI makes all at once: 346 of 1080p, 86 of 4K."""

MAX_HANDED_BYTES: Final = 256 * 2**20
"""Most memory for the pictures of one clip at the size of `decode_size`, which go through shared memory: 89 of the largest."""

MAX_DECODE_PX: Final = 1_000_000
"""Larger pictures are made smaller on the device, to at most this many pixels: they go through shared memory. The detector's box may
then be another one of near-equal ones."""

_TICK: Final = Fraction(1, 1000)  # Matroska's
_SPACING_TICKS: Final = 20
_PLAIN: Final = frozenset({"yuv420p", "yuvj420p"})


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecRule:
    """What a device decodes of one codec."""

    pixel_formats: frozenset[str] = _PLAIN
    """FFmpeg's names."""
    min_px: tuple[int, int] = (1, 1)
    """Least width and height as stored."""
    max_px: tuple[int, int] = (16_384, 16_384)
    """Most width and height as stored."""


DEVICE_CODECS: Final[Mapping[Device, Mapping[str, CodecRule]]] = {
    "gpu": {
        "h264": CodecRule(min_px=(48, 16), max_px=(4096, 4096)),
        "hevc": CodecRule(min_px=(144, 144), max_px=(8192, 8192)),
        "vp8": CodecRule(min_px=(48, 16), max_px=(4096, 4096)),
        "vp9": CodecRule(min_px=(128, 128), max_px=(8192, 8192)),
    },
    "cpu": {"vp8": CodecRule(), "vp9": CodecRule(), "mjpeg": CodecRule()},
}
"""What DALI decodes on each device, by FFmpeg's codec names. Sources: the table of NVIDIA's NVDEC programming guide, of it what every
data-centre GPU since Turing has (AV1 is not there: A100 and T4 lack it) and DALI 2.4 turns into RGB (8 bits); the documentation of DALI's
`decoders.video`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DevicePicture:
    """A picture that the device makes, and the wanted times it serves."""

    number: int
    """In the order shown, of the video that is handed over."""
    pts_s: float
    """When it is shown: seconds on the clip's clock."""
    positions: tuple[int, ...]
    """Positions of the wanted times it serves, ascending, at least one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceVideo:
    """A video for the device's decoder."""

    data: npt.NDArray[np.uint8]
    """A Matroska file of the needed packets; of one black picture where no picture is wanted or the clip has none."""
    pictures: tuple[DevicePicture, ...] = ()
    """In the order shown."""
    width_px: int
    """Width as stored, not turned upright."""
    height_px: int
    orientation: Orientation = field(default_factory=Orientation)
    bt709: bool = False
    """The film states the colours of BT.709; else those of BT.601 hold."""


def decode_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Width and height to which the device reduces pictures of a size: their own up to `MAX_DECODE_PX` pixels."""
    scale = min(1.0, math.sqrt(MAX_DECODE_PX / (width_px * height_px)))
    return max(1, int(width_px * scale)), max(1, int(height_px * scale))


def device_video(clip: OpenClip, times_s: npt.NDArray[np.float64], *, device: Device) -> DeviceVideo:
    """What the device's decoder needs to make the pictures that are shown at the wanted times.

    The same pictures are chosen as by `PictureReader`, by the timestamps of the packets alone.

    Args:
        clip: an open clip; its packets are read.
        times_s: seconds on the clip's clock, ascending, float64 [n].
        device: whose decoder.

    Raises:
        NotOnDevice: this decoder can't make them, or it is not certain that it makes the right ones.
        UnsupportedCodec, ClipTooLarge: as `OpenClip.video`.
    """
    stream = clip.video()
    if stream is None:
        return stand_in_video()
    codec = stream.codec_context.codec.canonical_name
    _check_format(stream, codec, device)
    packets = list(clip.packets(stream))
    if clip.damaged or any(packet.is_corrupt for packet in packets):
        raise NotOnDevice("damage", "the container lost some of its packets")
    if not packets:
        return stand_in_video()
    data = [bytes(packet) for packet in packets]
    starts = _starts(packets, data, codec, stream.codec_context.extradata)
    chosen = _chosen(stream, packets, times_s)
    if not chosen:
        return stand_in_video()
    served = np.concatenate([positions for _, positions in chosen])
    plan = plan_packets(stream, packets, times_s[np.sort(served)], starts=starts)
    if not plan.by_times:
        raise NotOnDevice("times", "its clock jumps back")
    needs = _without_strays(plan.needs, packets)
    if any(needs[place] != SHOW for place, _ in chosen):
        raise NotOnDevice("start", "a wanted picture refers to others before the clip's first key picture")
    first = _first_picture(stream, packets, int(np.flatnonzero(needs)[0]))
    kept = np.flatnonzero(needs)  # in the order of decoding
    number_of = _numbers([cast(int, packets[place].pts) for place in kept])
    number = dict(zip(kept.tolist(), number_of, strict=True))
    width_px, height_px = stream.codec_context.width, stream.codec_context.height
    _check_memory(len(chosen), width_px, height_px)
    time_base_s = float(stream.time_base or 1)
    pictures = tuple(
        DevicePicture(
            number=number[place], pts_s=cast(int, packets[place].pts) * time_base_s, positions=tuple(positions)
        )
        for place, positions in chosen
    )
    return DeviceVideo(
        data=_written(stream, [packets[place] for place in kept], number_of),  # gives the packets other times
        pictures=pictures,
        width_px=width_px,
        height_px=height_px,
        orientation=RgbConverter().orientation(first),
        bt709=first.colorspace == av.video.reformatter.Colorspace.ITU709,
    )


@functools.cache
def stand_in_video() -> DeviceVideo:
    """One black picture for a decoder that must be given something: VP9, which DALI decodes on both devices."""
    side_px, out = 128, io.BytesIO()
    with av.open(out, "w", format="matroska", options={"fflags": "bitexact"}) as writer:
        stream = writer.add_stream("libvpx-vp9", rate=25, options={"deadline": "realtime"})
        stream.width, stream.height, stream.pix_fmt = side_px, side_px, "yuv420p"
        black = av.VideoFrame.from_ndarray(np.zeros((side_px, side_px, 3), np.uint8), "rgb24")
        for packet in [*stream.encode(black), *stream.encode(None)]:
            writer.mux(packet)
    return DeviceVideo(data=np.frombuffer(out.getvalue(), np.uint8), width_px=side_px, height_px=side_px)


def _check_format(stream: VideoStream, codec: str, device: Device) -> None:
    context = stream.codec_context
    rule = DEVICE_CODECS[device].get(codec)
    if rule is None:
        raise NotOnDevice("codec", f"{codec} is none of {', '.join(DEVICE_CODECS[device])}")
    if context.pix_fmt not in rule.pixel_formats:
        raise NotOnDevice("pixels", f"{codec} with pixels of {context.pix_fmt}, not {' or '.join(rule.pixel_formats)}")
    width, height = context.width, context.height
    fits = rule.min_px[0] <= width <= rule.max_px[0] and rule.min_px[1] <= height <= rule.max_px[1]
    if not fits or (device == "gpu" and (width % 2 or height % 2)):
        raise NotOnDevice("size", f"{codec} of {width}x{height}")
    if context.field_order > 1:  # 0: not stated, 1: progressive
        raise NotOnDevice("interlaced", "its pictures are interlaced")


def _check_memory(num_pictures: int, width_px: int, height_px: int) -> None:
    small_width_px, small_height_px = decode_size(width_px, height_px)
    for num_bytes, limit in (
        (num_pictures * width_px * height_px * 3, MAX_DECODED_BYTES),
        (num_pictures * small_width_px * small_height_px * 3, MAX_HANDED_BYTES),
    ):
        if num_bytes > limit:
            raise NotOnDevice("memory", f"{num_pictures} pictures of {width_px}x{height_px} at once")


def _starts(
    packets: Sequence[Packet[VideoStream]], data: Sequence[bytes], codec: str, extradata: bytes | None
) -> list[int]:
    """Positions of packets at which a decoder may begin anew.

    Raises:
        NotOnDevice: packets are damaged or don't hold one picture each, or the clip begins between two key pictures.
    """
    starts = [place for place, packet in enumerate(packets) if packet.is_keyframe]
    if not starts or starts[0] > 0:
        raise NotOnDevice("start", "the clip begins between two key pictures")
    if codec in ("vp8", "vp9") and not all(bitstream.shows_one_frame(each, codec=codec) for each in data):
        raise NotOnDevice("hidden", "it has packets that do not show one picture each")
    if codec not in ("h264", "hevc"):
        return starts
    size = bitstream.length_bytes(codec, extradata)
    parameters = set()
    whole: list[int] = []
    for place, each in enumerate(data):
        units = bitstream.units(each, codec=codec, length_bytes=size)
        if units is None:
            raise NotOnDevice("damage", f"packet {place} is damaged")
        kinds = {kind for kind, _ in units}
        parameters |= {unit for kind, unit in units if kind == (_SPS[codec])}
        # From an open group's first picture NVDEC and DALI can't begin; HEVC has no such key pictures by FFmpeg's account.
        if packets[place].is_keyframe and (codec == "hevc" or bitstream.H264_IDR in kinds):
            whole.append(place)
    if len(parameters) > 1:
        raise NotOnDevice("changes", "its format changes on the way")
    return whole


_SPS: Final = {"h264": bitstream.H264_SPS, "hevc": bitstream.HEVC_SPS}


def _chosen(
    stream: VideoStream, packets: Sequence[Packet[VideoStream]], times_s: npt.NDArray[np.float64]
) -> list[tuple[int, list[int]]]:
    """Places of packets whose pictures are wanted, in the order shown, and the positions of the times that each serves.

    Raises:
        NotOnDevice: a packet has no timestamp.
    """
    if any(packet.pts is None for packet in packets):
        raise NotOnDevice("times", "packets without timestamps")
    clock, chooser = StreamClock(stream), PictureChooser(times_s)
    order = sorted(range(len(packets)), key=lambda place: cast(int, packets[place].pts))
    chosen = []
    for shown, place in zip([None, *order], order, strict=False):
        positions = chooser.arrive(clock.stamp(packets[place]))
        if positions and shown is not None:
            chosen.append((shown, positions))
    positions = chooser.finish(max(packet_end_s(packet, clock) for packet in packets))
    return [*chosen, (order[-1], positions)] if positions else chosen


def _without_strays(needs: npt.NDArray[np.int8], packets: Sequence[Packet[VideoStream]]) -> npt.NDArray[np.int8]:
    """The needs without pictures that are shown before the key picture at which decoding begins anew: what they refer to is not there."""
    left = needs.copy()
    begin_pts = 0
    for place, packet in enumerate(packets):
        pts = cast(int, packet.pts)
        if needs[place] == SKIP:
            continue
        if place == 0 or needs[place - 1] == SKIP:
            begin_pts = pts
        elif pts < begin_pts:
            left[place] = SKIP
    return left


def _first_picture(stream: VideoStream, packets: Sequence[Packet[VideoStream]], place: int) -> av.VideoFrame:
    """The key picture at a place, decoded by FFmpeg.

    Raises:
        NotOnDevice: it is damaged, or not as the container states.
    """
    context = stream.codec_context
    context.thread_count = 1
    try:
        frames = [*context.decode(packets[place]), *context.decode(None)]
    except av.FFmpegError as error:
        raise NotOnDevice("damage", f"its first key picture: {error.strerror}") from error
    if not frames or frames[0].is_corrupt:
        raise NotOnDevice("damage", "its first key picture can't be decoded")
    if frames[0].interlaced_frame:
        raise NotOnDevice("interlaced", "its pictures are interlaced")
    if (frames[0].width, frames[0].height) != (context.width, context.height):
        raise NotOnDevice("changes", "its pictures are not of the size that the container states")
    return frames[0]


def _numbers(pts: Sequence[int]) -> list[int]:
    """For packets in the order of decoding: the place of each in the order shown."""
    numbers = [0] * len(pts)
    for number, place in enumerate(sorted(range(len(pts)), key=pts.__getitem__)):
        numbers[place] = number
    return numbers


def _written(
    stream: VideoStream, packets: Sequence[Packet[VideoStream]], numbers: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """A Matroska file of the packets, shown in the order of their numbers at even distances.

    Raises:
        NotOnDevice: Matroska does not take them.
    """
    delay = max(place - number for place, number in enumerate(numbers))
    out = io.BytesIO()
    try:
        with av.open(out, "w", format="matroska", options={"fflags": "bitexact"}) as writer:
            target = writer.add_stream_from_template(stream, opaque=True)
            for place, (packet, number) in enumerate(zip(packets, numbers, strict=True)):
                packet.stream, packet.time_base = target, _TICK
                packet.pts, packet.dts = (number + delay) * _SPACING_TICKS, place * _SPACING_TICKS
                packet.duration = _SPACING_TICKS
                writer.mux(packet)
    except (ValueError, av.FFmpegError) as error:
        raise NotOnDevice("container", f"Matroska does not take its packets ({error})") from error
    return np.frombuffer(out.getvalue(), np.uint8)
