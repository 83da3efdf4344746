"""One decoded picture, seen upright: converted to RGB only as far as someone asks, whole and small or a region at full size."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, cast

import av
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData
from av.sidedata.sidedata import Type as SideDataType
from av.video.plane import VideoPlane
from av.video.reformatter import Interpolation, VideoReformatter

Rgb = npt.NDArray[np.uint8]

_CHROMA_ALIGN_PX = 16  # regions start on whole chroma samples of every subsampling, with neighbours for interpolation


class Picture(Protocol):
    """What detection and cropping need of a picture. Pixels are those of the upright, full-size picture."""

    @property
    def width_px(self) -> int:
        """Width of the upright picture."""

    @property
    def height_px(self) -> int:
        """Height of the upright picture."""

    def scaled(self, width_px: int, height_px: int) -> Rgb:
        """The whole picture, area-averaged down to the size; uint8 [height_px, width_px, 3], red first."""

    def region(self, x0: int, y0: int, x1: int, y1: int) -> Rgb:
        """Pixels [x0, x1) x [y0, y1) at full size, which must lie inside; uint8 [y1 - y0, x1 - x0, 3], red first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Orientation:
    """How stored pixels become upright: first rows and columns are exchanged, then axes are mirrored."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def of_frame(cls, frame: av.VideoFrame) -> "Orientation":
        """From the frame's display matrix, rounded to the nearest quarter turn; mirroring is kept."""
        try:
            side_data = tuple(cast(Iterable[SideData], frame.side_data))
        except ValueError:  # PyAV does not know every kind of side data; a quarter turn it tells without
            return cls._of_rotation(frame.rotation)
        matrix = next((one for one in side_data if one.type is SideDataType.DISPLAYMATRIX), None)
        if matrix is None:
            return cls()
        # Row vectors (x, y, 1) times the matrix give the place on the screen; 16.16 fixed point, y points down.
        xx, xy, _, yx, yy = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
        if abs(xx) + abs(yy) >= abs(xy) + abs(yx):
            return cls(mirror_x=xx < 0, mirror_y=yy < 0)
        return cls(transpose=True, mirror_x=yx < 0, mirror_y=xy < 0)

    @classmethod
    def _of_rotation(cls, counter_clockwise_deg: int) -> "Orientation":
        turns = round(counter_clockwise_deg / 90) % 4
        return cls(transpose=turns % 2 == 1, mirror_x=turns in (2, 3), mirror_y=turns in (1, 2))

    def size_px(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Width and height after turning; the same exchange leads back."""
        return (height_px, width_px) if self.transpose else (width_px, height_px)

    def upright(self, stored: Rgb) -> Rgb:
        """Stored pixels [H, W, 3] turned upright, contiguous."""
        turned = stored.transpose(1, 0, 2) if self.transpose else stored
        turned = turned[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]
        return np.ascontiguousarray(turned)

    def stored_box(self, box: tuple[int, int, int, int], width_px: int, height_px: int) -> tuple[int, int, int, int]:
        """Where a box (x0, y0, x1, y1) of the upright picture of the given size lies in the stored one."""
        x0, y0, x1, y1 = box
        if self.mirror_x:
            x0, x1 = width_px - x1, width_px - x0
        if self.mirror_y:
            y0, y1 = height_px - y1, height_px - y0
        return (y0, x0, y1, x1) if self.transpose else (x0, y0, x1, y1)


class RgbConverter:
    """Conversion to RGB by swscale, whose tables are kept from frame to frame.

    The frame's own colour matrix and range are followed; where none is declared, BT.601 with limited range, as swscale does.
    """

    def __init__(self) -> None:
        self._scaler = VideoReformatter()
        self._cropper = VideoReformatter()
        self._orientations: dict[int, Orientation] = {}

    def orientation(self, frame: av.VideoFrame) -> Orientation:
        """How the frame becomes upright: looked up once for each rotation that the film's frames state.

        PyAV ties a frame whose side data was read into a reference cycle: its pixels, and the decoder's whole pool of
        them, would stay until the garbage collector comes by. A tiny copy, which has the same side data, is read instead.
        """
        if frame.rotation not in self._orientations:
            tiny = self._scaler.reformat(frame, width=16, height=16, format="gray", threads=1)
            self._orientations[frame.rotation] = Orientation.of_frame(tiny)
        return self._orientations[frame.rotation]

    def scaled(self, frame: av.VideoFrame, width_px: int, height_px: int) -> Rgb:
        """The whole frame at another size; uint8 [height_px, width_px, 3]."""
        rgb = self._scaler.reformat(
            frame, width=width_px, height=height_px, format="rgb24", interpolation=Interpolation.AREA, threads=1
        )
        return _rgb_array(rgb)

    def region(self, frame: av.VideoFrame, x0: int, y0: int, x1: int, y1: int) -> Rgb:
        """The stored pixels [x0, x1) x [y0, y1); uint8 [y1 - y0, x1 - x0, 3]."""
        left, top = (max(0, (edge // _CHROMA_ALIGN_PX - 1) * _CHROMA_ALIGN_PX) for edge in (x0, y0))
        # Even sides keep to swscale's direct conversion, which a whole picture of even sides takes too.
        right = min(frame.width, (x1 // _CHROMA_ALIGN_PX + 2) * _CHROMA_ALIGN_PX)
        bottom = min(frame.height, (y1 // _CHROMA_ALIGN_PX + 2) * _CHROMA_ALIGN_PX)
        part = _cut(frame, left, top, right, bottom)
        if part is None:
            part, left, top = frame, 0, 0
        rgb = self._cropper.reformat(part, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1)
        return _rgb_array(rgb)[y0 - top : y1 - top, x0 - left : x1 - left]


class DecodedPicture:
    """A `Picture` over a decoded frame, which it holds in the decoder's own pixel format."""

    def __init__(self, frame: av.VideoFrame, converter: RgbConverter) -> None:
        self._frame, self._converter = frame, converter
        self._orientation = converter.orientation(frame)
        self.width_px, self.height_px = self._orientation.size_px(frame.width, frame.height)

    @property
    def num_bytes(self) -> int:
        """Memory the decoded frame holds."""
        return sum(plane.buffer_size for plane in self._frame.planes)

    def scaled(self, width_px: int, height_px: int) -> Rgb:
        """As `Picture.scaled`."""
        stored = self._converter.scaled(self._frame, *self._orientation.size_px(width_px, height_px))
        return self._orientation.upright(stored)

    def region(self, x0: int, y0: int, x1: int, y1: int) -> Rgb:
        """As `Picture.region`."""
        box = self._orientation.stored_box((x0, y0, x1, y1), self.width_px, self.height_px)
        return self._orientation.upright(self._converter.region(self._frame, *box))


def _rgb_array(frame: av.VideoFrame) -> Rgb:
    plane = frame.planes[0]
    rows = _rows(plane)
    return rows[: frame.height, : 3 * frame.width].reshape(frame.height, frame.width, 3)  # [H, W, 3]


def _rows(plane: VideoPlane) -> Rgb:
    """The plane's memory, not a copy: uint8 [H, bytes per row, padding included]."""
    memory: Rgb = np.frombuffer(memoryview(plane), np.uint8)
    return memory.reshape(-1, plane.line_size)


def _cut(frame: av.VideoFrame, x0: int, y0: int, x1: int, y1: int) -> av.VideoFrame | None:
    """A copy of a region of a planar frame in its own format; None for formats that are not made of whole planes."""
    layout = frame.format
    if not layout.is_planar or layout.is_bit_stream or layout.has_palette:
        return None
    part = av.VideoFrame(x1 - x0, y1 - y0, layout.name)
    part.colorspace, part.color_range = frame.colorspace, frame.color_range
    for index, (source, target) in enumerate(zip(frame.planes, part.planes, strict=True)):
        components = [component for component in layout.components if component.plane == index]
        pixel_bytes = sum((component.bits + 7) // 8 for component in components)
        # A plane of chroma is smaller by a power of two; the region starts on a multiple of every such power.
        shrink_x, shrink_y = (
            round(layout.width / components[0].width),
            round(layout.height / components[0].height),
        )
        left, top = x0 // shrink_x * pixel_bytes, y0 // shrink_y
        width_bytes = target.width * pixel_bytes
        rows = _rows(source)[top : top + target.height]
        _rows(target)[: target.height, :width_bytes] = rows[:, left : left + width_bytes]
    return part
