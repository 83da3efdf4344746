import struct

import av
import numpy as np
import pytest
from clips import write_film

from fv2es_pipelines.picture import DecodedPicture, RgbConverter


def corners(number):
    """Upright as stored: red at top left, green at top right, blue at bottom left, white at bottom right."""
    image = np.zeros((48, 80, 3), np.uint8)
    image[:24, :40], image[:24, 40:] = (220, 20, 20), (20, 220, 20)
    image[24:, :40], image[24:, 40:] = (20, 20, 220), (230, 230, 230)
    return image


def first_picture(path):
    with av.open(path) as container:
        return DecodedPicture(next(container.decode(video=0)), RgbConverter())


def write_corners(path, **film):
    return write_film(path, [0.0, 0.04], size=(80, 48), draw=corners, **film)


def seen_corners(rgb):
    height, width, _ = rgb.shape
    points = [rgb[y, x].astype(int) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return ["w" if point.min() > 150 else "rgb"[point.argmax()] for point in points]


@pytest.mark.parametrize(
    ("rotation_deg", "size", "upright"),
    [
        (0, (80, 48), ["r", "g", "b", "w"]),
        (90, (48, 80), ["g", "w", "r", "b"]),  # counter-clockwise: the right edge comes to the top
        (-90, (48, 80), ["b", "r", "w", "g"]),
        (180, (80, 48), ["w", "b", "g", "r"]),
    ],
)
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_pictures_are_turned_upright(tmp_path, ending, rotation_deg, size, upright):
    picture = first_picture(write_corners(tmp_path / f"turned.{ending}", rotation_deg=rotation_deg))
    assert (picture.width_px, picture.height_px) == size
    whole = picture.scaled(*size)
    assert whole.shape == (size[1], size[0], 3)
    assert seen_corners(whole) == upright
    assert seen_corners(picture.scaled(size[0] // 2, size[1] // 2)) == upright
    x0, y0, x1, y1 = 4, 6, size[0] - 7, size[1] - 3
    region = picture.region(x0, y0, x1, y1).astype(int)
    assert region.shape == (y1 - y0, x1 - x0, 3)
    np.testing.assert_array_equal(region, picture.region(0, 0, *size)[y0:y1, x0:x1])
    assert np.abs(region - whole[y0:y1, x0:x1]).mean() < 2  # colours are interpolated differently at the borders


def test_mirrored_pictures_are_turned_upright(tmp_path):
    path = tmp_path / "mirrored.mp4"
    with av.open(path, "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "veryfast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.set_display_rotation(0, hflip=True)
        frame = av.VideoFrame.from_ndarray(corners(0), "rgb24").reformat(format="yuv420p")
        output.mux([*stream.encode(frame), *stream.encode(None)])
    picture = first_picture(path)
    assert seen_corners(picture.scaled(80, 48)) == ["g", "r", "w", "b"]


def with_exif(orientation):
    """Gives a JPEG an EXIF block that states an orientation (1 to 8); PyAV has no name for such side data."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    block = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)

    def change(_, data):
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]

    return change


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, ["r", "g", "b", "w"]), (3, ["w", "b", "g", "r"]), (6, ["b", "r", "w", "g"]), (8, ["g", "w", "r", "b"])],
)
def test_pictures_with_side_data_of_unknown_kind_are_turned_upright(tmp_path, orientation, upright):
    path = write_corners(
        tmp_path / "exif.nut", codec="mjpeg", pixel_format="yuvj420p", ticks_hz=25, change=with_exif(orientation)
    )
    with av.open(path) as container, pytest.raises(ValueError, match="not a valid Type"):
        next(container.decode(video=0)).side_data  # noqa: B018 - reading it is what fails
    picture = first_picture(path)
    assert seen_corners(picture.scaled(picture.width_px, picture.height_px)) == upright


def waves(number):
    """Smooth and coloured: at odd sizes swscale interpolates colours in another way than at even ones."""
    y, x = np.mgrid[:63, :97]
    channels = [128 + 90 * np.sin(x / 17 + y / 23 + shift) for shift in (0, 2, 4)]
    return np.stack(channels, axis=-1).astype(np.uint8)  # [63, 97, 3]


@pytest.mark.parametrize(
    ("codec", "pixel_format"),
    [
        ("libx264", "yuv420p"),
        ("libx264", "yuv444p"),
        ("libvpx-vp9", "yuv420p"),
        ("ffv1", "yuv422p10le"),
        ("ffv1", "gray"),
        ("ffv1", "bgr0"),
        ("rawvideo", "nv12"),
        ("rawvideo", "yuyv422"),
        ("png", "rgba"),
    ],
)
def test_a_region_is_that_part_of_the_whole_in_every_pixel_format(tmp_path, codec, pixel_format):
    size = (96, 62) if codec == "libx264" or pixel_format in ("nv12", "yuyv422") else (97, 63)
    path = write_film(
        tmp_path / "odd.nut",
        [0.0],
        codec=codec,
        pixel_format=pixel_format,
        size=size,
        draw=lambda number: np.ascontiguousarray(waves(number)[: size[1], : size[0]]),
    )
    picture = first_picture(path)
    assert (picture.width_px, picture.height_px) == size
    whole = picture.region(0, 0, *size)
    for box in ((0, 0, 10, 10), (40, 20, 97, 63), (33, 31, 34, 32), (17, 3, 80, 61)):
        x0, y0, x1, y1 = box[0], box[1], min(box[2], size[0]), min(box[3], size[1])
        difference = np.abs(picture.region(x0, y0, x1, y1).astype(int) - whole[y0:y1, x0:x1])
        if size == (96, 62):
            assert difference.max() == 0
        assert difference.max() <= 10
        assert difference.mean() < 2.5 or difference.size < 100


@pytest.mark.parametrize(
    ("colorspace", "color_range", "kr", "kb", "low", "luma", "chroma"),
    [
        (1, 1, 0.2126, 0.0722, 16, 219, 224),  # BT.709
        (5, 1, 0.299, 0.114, 16, 219, 224),  # BT.601
        (2, 0, 0.299, 0.114, 16, 219, 224),  # undeclared: BT.601, limited range
        (1, 2, 0.2126, 0.0722, 0, 255, 255),  # full range
    ],
)
def test_declared_colours_are_followed(colorspace, color_range, kr, kb, low, luma, chroma):
    values = (120, 100, 160)
    frame = av.VideoFrame(96, 64, "yuv420p")
    for plane, value in zip(frame.planes, values, strict=True):
        np.frombuffer(memoryview(plane), np.uint8)[:] = value
    frame.colorspace, frame.color_range = colorspace, color_range
    y, pb, pr = (values[0] - low) / luma, (values[1] - 128) / chroma, (values[2] - 128) / chroma
    red, blue = y + 2 * (1 - kr) * pr, y + 2 * (1 - kb) * pb
    expected = 255 * np.array([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue])
    picture = DecodedPicture(frame, RgbConverter())
    for rgb in (picture.scaled(48, 32), picture.region(10, 10, 40, 40)):
        assert np.abs(rgb[5, 5] - expected).max() <= 2.5  # swscale's 8-bit arithmetic
