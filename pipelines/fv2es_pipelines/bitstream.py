"""What packets of video say about themselves without being decoded: units of H.264 and HEVC, shown frames of VP8 and VP9."""

from collections.abc import Iterator
from typing import Final

H264_SPS: Final = 7
H264_IDR: Final = 5
HEVC_SPS: Final = 33
_START_CODE: Final = b"\x00\x00\x01"


def length_bytes(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length in front of each unit of an H.264 or HEVC stream; 0: units are set apart by start codes.

    Source: ISO/IEC 14496-15, the decoder configuration records, whose first byte is 1.
    """
    position = {"h264": 4, "hevc": 21}[codec]
    if not extradata or len(extradata) <= position or extradata[0] != 1:
        return 0
    return (extradata[position] & 3) + 1


def units(data: bytes, *, codec: str, length_bytes: int) -> list[tuple[int, bytes]] | None:
    """Type and bytes of each unit in a packet of H.264 or HEVC; None where the packet is damaged: its units don't fill it.

    Source: ITU-T H.264 7.3.1 and H.265 7.3.1.2, the unit headers; H.264 annex B, the start codes.
    """
    found = []
    for unit in _with_start_codes(data) if not length_bytes else _with_lengths(data, length_bytes):
        if not unit or unit[0] & 0x80:  # the first bit of a header is always zero
            return None
        found.append((unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63, unit))
    return found or None


def _with_lengths(data: bytes, length_bytes: int) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        start = at + length_bytes
        at = start + int.from_bytes(data[at:start], "big")
        yield data[start:at] if at <= len(data) else b""


def _with_start_codes(data: bytes) -> Iterator[bytes]:
    start = data.find(_START_CODE)
    while start >= 0:
        stop = data.find(_START_CODE, start + 3)
        unit = data[start + 3 : stop if stop >= 0 else len(data)].rstrip(b"\x00")
        yield unit
        start = stop


def shows_one_frame(data: bytes, *, codec: str) -> bool:
    """Whether a packet of VP8 or VP9 decodes to one new frame that is shown, as a packet of other codecs does.

    Source: RFC 6386 9.1 (bit `show_frame`); VP9 bitstream specification 6.2 (`show_existing_frame`, `show_frame`) and annex B
    (several frames in a packet).
    """
    if codec == "vp8":
        return bool(data) and bool(data[0] >> 4 & 1)
    shown = 0
    for frame in _vp9_frames(data):
        if not frame or frame[0] >> 6 != 2:
            return False
        later = frame[0] >> 4 & 3 == 3  # profile 3 has a reserved bit more
        if frame[0] >> (2 if later else 3) & 1:  # shows a frame of an earlier packet once more
            return False
        shown += frame[0] >> (0 if later else 1) & 1
    return shown == 1


def _vp9_frames(data: bytes) -> list[bytes]:
    marker = data[-1] if data else 0
    if marker >> 5 != 6:
        return [data]
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index = data[-(2 + count * width) :]
    if len(index) != 2 + count * width or index[0] != marker:
        return [data]
    frames, at = [], 0
    for number in range(count):
        size = int.from_bytes(index[1 + number * width : 1 + (number + 1) * width], "little")
        frames.append(data[at : at + size])
        at += size
    return frames
