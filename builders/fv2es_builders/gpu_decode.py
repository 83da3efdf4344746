"""How fast a device decodes a film: the part of `gpu_check` that is about NVDEC.

It runs the graph of the served model `decode` (`fv2es_pipelines.decode_graph`).
"""

import ctypes
import importlib
import importlib.util
import io
import time
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import av
import numpy as np
from av.video.stream import VideoStream

from fv2es_pipelines.clip import open_clip
from fv2es_pipelines.constants import FRAME_STEP_S

if TYPE_CHECKING:
    from numpy.typing import NDArray

Device = Literal["cpu", "gpu"]

FILMS_PX: Final = ((640, 360), (1920, 1080))
"""Sizes of the films that are decoded."""

NUM_PICTURES: Final = 250
"""Of each: 10 s."""

_DECODER: Final = "libnvcuvid.so.1"
_GRAPH: Final = ("fv2es_pipelines.decode_graph", "fv2es_pipelines.frame_index")
_CODECS: Final = {"cpu": "libvpx-vp9", "gpu": "libx264"}
"""One that DALI decodes on the device."""
_RATE_HZ: Final = 25


def decoder_missing() -> str | None:
    """Why the GPU's decoder can't be measured; None: it can."""
    if any(importlib.util.find_spec(name) is None for name in _GRAPH):
        return "this version has no graph for the decoder"
    try:
        ctypes.CDLL(_DECODER)
    except OSError:
        return f"{_DECODER} can't be loaded; a container needs NVIDIA_DRIVER_CAPABILITIES to name `video`"
    return None


def film(device: Device, *, width_px: int, height_px: int, num_pictures: int) -> bytes:
    """A film of moving stripes with a key picture each second, in a codec that DALI decodes on the device."""
    out = io.BytesIO()
    rows, columns = np.mgrid[:height_px, :width_px]
    with av.open(out, "w", format="matroska", options={"fflags": "bitexact"}) as writer:
        options = {"preset": "ultrafast"} if device == "gpu" else {"deadline": "realtime", "cpu-used": "8"}
        stream = cast(VideoStream, writer.add_stream(_CODECS[device], rate=_RATE_HZ, options=options))
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        stream.gop_size = _RATE_HZ
        for number in range(num_pictures):
            grey = ((rows + 2 * columns + 8 * number) // 4 % 256).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="gray").reformat(format="yuv420p")
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode(None))
    return out.getvalue()


def decode_speed(data: bytes, *, device: Device, num_runs: int = 5) -> dict[str, Any]:
    """How fast DALI decodes a film at two pictures a second, as the served model `decode` does.

    Args:
        data: the film.
        device: where.
        num_runs: after one to warm up.

    Returns:
        Plain data: size, seconds of film, pictures, median time of a run in ms, film seconds per second, and the mean difference
        from PyAV's pictures in levels of 255.
    """
    decode_graph, frame_index = (importlib.import_module(name) for name in _GRAPH)
    with av.open(io.BytesIO(data), "r") as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    height_px, width_px = shown[0].shape[:2]
    length_s = len(shown) / _RATE_HZ
    with open_clip(data) as clip:
        video = frame_index.device_video(clip, np.arange(0, length_s, FRAME_STEP_S), device=device)
    numbers = np.array([each.number for each in video.pictures], dtype=np.int32)
    pipeline = decode_graph.decode_pipeline(device, device_id=0 if device == "gpu" else None, threads=4)
    runner = decode_graph.GraphRunner(pipeline)

    def decode(width: int, height: int) -> "NDArray[Any]":
        size = np.array([height, width], dtype=np.int32)
        pictures: NDArray[Any] = runner(VIDEO=[video.data], FRAMES=[numbers], SIZE=[size])[0]
        return pictures  # [J, height, width, 3]

    full = decode(width_px, height_px)
    differences = [
        np.abs(picture.astype(int) - shown[round(wanted.pts_s * _RATE_HZ)]).mean()
        for picture, wanted in zip(full, video.pictures, strict=True)
    ]
    size_px = frame_index.decode_size(width_px, height_px)
    decode(*size_px)
    times = []
    for _ in range(num_runs):
        started = time.perf_counter()
        decode(*size_px)
        times.append(time.perf_counter() - started)
    return {
        "width_px": width_px,
        "height_px": height_px,
        "film_s": length_s,
        "num_pictures": len(numbers),
        "median_ms": float(np.median(times)) * 1e3,
        "film_s_per_s": length_s / float(np.median(times)),
        "mean_difference": float(np.mean(differences)),
    }
