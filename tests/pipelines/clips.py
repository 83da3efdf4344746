"""Small films whose pictures and sound say when they are: made with PyAV's own encoders, in well under a second.

Each picture shows its number in upright black and white stripes. The sound is given by the caller.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

OPTIONS = {
    "libx264": {"preset": "veryfast", "threads": "1", "bf": "2"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}
NUM_BITS = 6
NUM_PICTURES = 2**NUM_BITS
"""Pictures that can be told apart."""


def striped(number: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """The picture of a number: one stripe for each bit, white for 1, uint8 [height, width, 3]."""
    bits = [number >> bit & 1 for bit in range(NUM_BITS)]
    row = np.repeat(np.array([40, 210], np.uint8)[bits], -(-width // NUM_BITS))[:width]  # [width]
    return np.repeat(np.repeat(row[None, :, None], height, axis=0), 3, axis=2)


def number_of(rgb: npt.NDArray[np.uint8]) -> int:
    """The number that a picture [H, W, 3] shows, modulo 64."""
    width = rgb.shape[1]
    step = -(-width // NUM_BITS)
    centres = [min(bit * step + step // 2, width - 2) for bit in range(NUM_BITS)]
    return sum(int(rgb[:, centre - 1 : centre + 2].mean() > 125) << bit for bit, centre in enumerate(centres))


def write_film(
    path: Path,
    times_s: Sequence[float],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    gop: int = 12,
    rotation_deg: int = 0,
    ticks_hz: int = 90_000,
    options: dict[str, str] | None = None,
    draw: Callable[[int], npt.NDArray[np.uint8]] | None = None,
    change: Callable[[int, bytes], bytes | None] = lambda _, data: data,
) -> Path:
    """Pictures shown from the given times on.

    Args:
        draw: the picture of each number as [H, W, 3]; None for stripes that tell the number.
        change: alters or drops (None) the bytes of each packet, by its place in decoding order.
    """
    with av.open(path, "w") as output:
        stream = output.add_stream(codec, rate=25, options=options or OPTIONS.get(codec, {}))
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = Fraction(1, ticks_hz)
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        packets = []
        for number, time_s in enumerate(times_s):
            rgb = draw(number) if draw is not None else striped(number, *size)
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=pixel_format)
            frame.time_base = Fraction(1, ticks_hz)
            frame.pts = round(time_s * ticks_hz)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for place, packet in enumerate(packets):
            data = change(place, bytes(packet))
            if data is None:
                continue
            fresh = av.Packet(data)
            fresh.pts, fresh.dts, fresh.time_base, fresh.duration = (
                packet.pts,
                packet.dts,
                packet.time_base,
                packet.duration,
            )
            fresh.is_keyframe = packet.is_keyframe
            fresh.stream = stream
            output.mux(fresh)
    return path


def write_sound(
    path: Path,
    wave: npt.NDArray[np.float32],
    *,
    rate_hz: int,
    codec: str = "pcm_s16le",
    layout: str = "mono",
    starts_s: Sequence[float] = (0.0,),
    lengths: Sequence[int] | None = None,
    packet_samples: int = 1024,
    options: dict[str, str] | None = None,
    change: Callable[[int, bytes], bytes | None] = lambda _, data: data,
) -> Path:
    """Sound, float32 [channels, T], in stretches of `lengths` samples that begin at `starts_s`."""
    lengths = lengths or (wave.shape[1],)
    with av.open(path, "w") as output:
        stream = output.add_stream(codec, rate=rate_hz, layout=layout, options=options or {})
        step = stream.codec_context.frame_size or packet_samples
        fitted = av.AudioResampler(stream.format.name, layout, rate_hz, frame_size=0)
        at, packets = 0, []
        for start_s, length in zip(starts_s, lengths, strict=True):
            for offset in range(0, length, step):
                part = np.ascontiguousarray(wave[:, at + offset : at + min(offset + step, length)])
                frame = av.AudioFrame.from_ndarray(part, "fltp", layout)
                frame.sample_rate = rate_hz
                (ready,) = fitted.resample(frame)
                ready.time_base, ready.pts = Fraction(1, rate_hz), round(start_s * rate_hz) + offset
                packets += stream.encode(ready)
            at += length
        packets += stream.encode(None)
        for place, packet in enumerate(packets):
            data = change(place, bytes(packet))
            if data is None:
                continue
            fresh = av.Packet(data)
            fresh.pts, fresh.dts, fresh.time_base, fresh.duration = (
                packet.pts,
                packet.dts,
                packet.time_base,
                packet.duration,
            )
            fresh.is_keyframe = packet.is_keyframe
            for side in packet.iter_sidedata():
                fresh.set_sidedata(side)
            fresh.stream = stream
            output.mux(fresh)
    return path
