"""How much work a stretch of code gives to FFmpeg and to ONNX Runtime, counted at their doors, whoever calls."""

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import av
import numpy as np
import onnxruntime
import pytest
from av.audio.codeccontext import AudioCodecContext
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter
from flops import flop_of

CONVERSIONS = ("reformat", "to_ndarray", "to_rgb", "to_image")
UNCOUNTED = ("run_with_iobinding", "run_with_ort_values", "run_async", "run_with_ortvaluevector")


Shapes = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Of each input of a net: name, type, axes."""


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Counts what is done inside, in this thread and in threads that begin inside; sessions that exist already are counted too.

    | key | counts |
    |---|---|
    | `video_packets` | video packets that a decoder was given |
    | `video_packets_shown` | of these, such as the decoder must not leave out, whether or not other pictures need them |
    | `sound_packets` | packets of sound that a decoder was given |
    | `pictures_converted` | pictures, or parts of them, that went through FFmpeg's scaler |
    | `NET_runs`, `NET_rows`, `NET_elements` | of each ONNX file: runs, rows (of the input whose name is first) and numbers in all inputs |
    | `NET_flop` | of the engines alone, see `flop_of` |
    """
    counts: Counter[str] = Counter()
    runs: Counter[tuple[Path, Shapes]] = Counter()
    lock = threading.Lock()

    def run(session: Any, output_names: Any, input_feed: dict[str, np.ndarray], *rest: Any, **named: Any) -> Any:
        shapes = tuple((key, value.dtype.str, value.shape) for key, value in sorted(input_feed.items()))
        with lock:
            runs[Path(session._model_path), shapes] += 1
        return whole_run(session, output_names, input_feed, *rest, **named)

    def uncounted(*_: Any, **__: Any) -> Any:
        raise AssertionError(f"one of {UNCOUNTED} was called; count it in {__file__}")

    whole_run, before = onnxruntime.InferenceSession.run, sys.getprofile()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime.InferenceSession, "run", run)
        for name in UNCOUNTED:
            if hasattr(onnxruntime.InferenceSession, name):
                patch.setattr(onnxruntime.InferenceSession, name, uncounted)
        _now.append(counts)
        threading.setprofile(_profile)
        sys.setprofile(_profile)
        try:
            yield counts
        finally:
            sys.setprofile(before)
            threading.setprofile(None)  # type: ignore[arg-type]
            _now.clear()
    for (path, shapes), times in runs.items():
        name = path.parents[1].name if path.stem == "model" else path.stem
        counts[f"{name}_runs"] += times
        counts[f"{name}_rows"] += times * (shapes[0][2] or (1,))[0]
        counts[f"{name}_elements"] += times * sum(int(np.prod(shape)) for _, _, shape in shapes)
        if path.stem == "model":
            counts[f"{name}_flop"] += times * _flop(path, shapes)


@contextmanager
def starting() -> Iterator[None]:
    """Threads that begin inside are seen by a later `counting`, too: for what has threads of its own."""
    threading.setprofile(_profile)
    try:
        yield
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]


_now: list[Counter[str]] = []
"""What is being counted, none or one: threads live longer than a count."""


def _profile(_: FrameType, event: str, what: Any) -> None:
    """Called by Python for each call of a C function: count those of FFmpeg's decoders and scaler."""
    if event != "c_call" or not _now:
        return
    counts, owner = _now[0], getattr(what, "__self__", None)
    if what.__name__ == "decode":
        if isinstance(owner, VideoCodecContext):
            counts["video_packets"] += 1
            counts["video_packets_shown"] += str(owner.skip_frame).endswith("DEFAULT")
        elif isinstance(owner, AudioCodecContext):
            counts["sound_packets"] += 1
        elif isinstance(owner, av.Packet):
            is_video = owner.stream.type == "video"
            counts["video_packets" if is_video else "sound_packets"] += 1
            counts["video_packets_shown"] += is_video
        elif isinstance(owner, InputContainer):
            raise AssertionError(f"a container was decoded as a whole, packets uncounted; count them in {__file__}")
    elif what.__name__ in CONVERSIONS and isinstance(owner, av.VideoFrame | VideoReformatter):
        counts["pictures_converted"] += 1


@cache
def _flop(path: Path, shapes: Shapes) -> int:
    """Of one run on zeros of these shapes."""
    return flop_of(path, {name: np.zeros(shape, np.dtype(kind)) for name, kind, shape in shapes})
