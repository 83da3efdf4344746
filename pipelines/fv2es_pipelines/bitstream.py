"""What packets of video say about themselves without being decoded: units of H.264 and HEVC, shown frames of VP8 and VP9, references of AV1."""

from collections.abc import Iterator
from dataclasses import dataclass
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


class Av1Thinner:
    """Takes frames that no other frame refers to out of packets of AV1, once it has seen what the sequence is like.

    In AV1 all that a frame leaves behind (pixels, motion, probabilities, segments, filters) lies in the places that it says it refreshes. One
    that refreshes none changes nothing that is decoded later: dav1d leaves out the same frames where it is asked for reference frames alone.

    Source: AV1 bitstream specification 5.3 (units), 5.5 (sequence header), 5.9.2 (frame header), 7.20 (what a frame refreshes).
    """

    def __init__(self, extradata: bytes | None) -> None:
        """Begin with the units of an MP4's or Matroska's decoder configuration record (its first 4 bytes are flags)."""
        self._sequence: _Av1Sequence | None = None
        if extradata and len(extradata) > 4 and extradata[0] == 0x81:
            self.seen(extradata[4:])

    def seen(self, data: bytes) -> None:
        """Take notice of the sequence headers in a packet that is decoded as it is."""
        for kind, unit in _av1_units(data) or []:
            if kind == AV1_SEQUENCE:
                self._sequence = _av1_sequence(_Bits(_payload(unit)))

    def thinned(self, data: bytes) -> bytes:
        """The packet without frames that no other refers to; empty where nothing else is in it. As it is where its headers can't be followed."""
        found = _av1_units(data)
        if found is None:
            return data
        kept, is_left_out, num_frames = [], False, 0
        try:
            for kind, unit in found:
                if kind == AV1_SEQUENCE:
                    self._sequence = _av1_sequence(_Bits(_payload(unit)))
                elif kind in _AV1_FRAMES:
                    is_left_out = self._sequence is not None and not _refreshes(_Bits(_payload(unit)), self._sequence)
                elif kind not in _AV1_FRAME_PARTS:
                    is_left_out = False
                if not is_left_out:
                    kept.append(unit)
                    num_frames += kind in _AV1_FRAMES or kind == AV1_SEQUENCE
        except IndexError:  # broken off within a header
            return data
        return b"".join(kept) if num_frames else b""


AV1_SEQUENCE: Final = 1
_AV1_FRAMES: Final = (3, 6)  # frame header; header and tiles in one
_AV1_FRAME_PARTS: Final = (4, 7)  # tiles; the same header once more


@dataclass(frozen=True, kw_only=True, slots=True)
class _Av1Sequence:
    """What has to be known of a sequence to read its frames' headers."""

    has_screen_content: int
    """0, 1, or 2: each frame says so itself."""
    has_integer_motion: int
    """The same."""
    order_bits: int


class _Bits:
    """Bits of a unit, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> int:
        """The next bits as a number. Raises IndexError where there are not as many."""
        value = 0
        for at in range(self._at, self._at + count):
            value = value << 1 | self._data[at >> 3] >> (7 - (at & 7)) & 1
        self._at += count
        return value


def _av1_units(data: bytes) -> list[tuple[int, bytes]] | None:
    """Type and bytes, header included, of each unit; None where they don't fill the packet or belong to layers."""
    found, at = [], 0
    while at < len(data):
        header, start = data[at], at
        if header & 0x84:  # the first bit is zero; an extension tells the layer
            return None
        if header & 2:
            try:
                size, at = _leb128(data, at + 1)
            except IndexError:
                return None
            at += size
        else:
            at = len(data)
        if at > len(data):
            return None
        found.append((header >> 3 & 15, data[start:at]))
    return found


def _payload(unit: bytes) -> bytes:
    return unit[_leb128(unit, 1)[1] :] if unit[0] & 2 else unit[1:]


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and the position behind it."""
    value = 0
    for group in range(8):
        value |= (data[at] & 127) << 7 * group
        at += 1
        if not data[at - 1] & 128:
            break
    return value, at


def _av1_sequence(bits: _Bits) -> _Av1Sequence | None:
    """A sequence header; None where its frames' headers hold more than is read here: still pictures, frame numbers, decoder models."""
    bits.take(3 + 1)  # profile, still picture
    if bits.take(1):  # reduced header
        return None
    if bits.take(1):  # timing
        bits.take(32 + 32)
        if bits.take(1):
            num_zeros = 0
            while not bits.take(1):
                num_zeros += 1
            bits.take(num_zeros)
        if bits.take(1):  # decoder model
            return None
    has_delays = bits.take(1)
    for _ in range(bits.take(5) + 1):  # operating points
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if has_delays and bits.take(1):
            bits.take(4)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    bits.take(width_bits + height_bits)
    if bits.take(1):  # frames are numbered, and a number must not be missing
        return None
    bits.take(3 + 4)  # large blocks, two intra filters; four inter tools
    has_order = bits.take(1)
    bits.take(2 * has_order)
    has_screen_content = 2 if bits.take(1) else bits.take(1)
    has_integer_motion = 2
    if has_screen_content and not bits.take(1):
        has_integer_motion = bits.take(1)
    return _Av1Sequence(
        has_screen_content=has_screen_content,
        has_integer_motion=has_integer_motion,
        order_bits=bits.take(3) + 1 if has_order else 0,
    )


def _refreshes(bits: _Bits, sequence: _Av1Sequence) -> bool:
    """Whether a frame leaves anything behind, by its header; true for one that shows an earlier frame, which may be a key frame."""
    if bits.take(1):
        return True
    frame_type, is_shown = bits.take(2), bits.take(1)
    if not is_shown:
        bits.take(1)
    if frame_type == 3 or (frame_type == 0 and is_shown):  # switch frames, shown key frames
        return True
    is_resilient = bits.take(1)
    bits.take(1)  # probabilities stay
    has_screen_content = bits.take(1) if sequence.has_screen_content == 2 else sequence.has_screen_content
    if has_screen_content and sequence.has_integer_motion == 2:
        bits.take(1)
    bits.take(1 + sequence.order_bits)  # a size of its own, its place in the order
    if frame_type == 1 and not is_resilient:
        bits.take(3)
    return bits.take(8) != 0
