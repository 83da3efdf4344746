"""Proof that a server works: Triton 2.51 calls itself ready while the worker of a model is dead, so ask it for work."""

import functools
import io
import time
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import tritonclient.grpc as triton

from fv2es.errors import Fv2esError
from fv2es.headers import SMALL_REQUEST
from fv2es.wire import CHANNEL_ARGUMENTS, decode_response, encode_request, error_from_status, infer_inputs

PROBE_TIMEOUT_S = 30.0


@functools.cache
def probe_clip() -> bytes:
    """A clip of half a second, a grey picture and a hum, about 10 KB: the smallest that goes through every model."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as clip:
        video = clip.add_stream("mjpeg", rate=2)
        video.width, video.height, video.pix_fmt = 64, 64, "yuvj420p"
        audio = clip.add_stream("pcm_s16le", rate=16_000, layout="mono")
        picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, np.uint8), format="rgb24")
        picture.pts, picture.time_base = 0, Fraction(1, 2)
        clip.mux(video.encode(picture))
        clip.mux(video.encode(None))
        wave = (1000 * np.sin(np.arange(8000) * 0.1)).astype(np.int16)[None]  # [1, 8000]
        hum = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
        hum.pts, hum.sample_rate, hum.time_base = 0, 16_000, Fraction(1, 16_000)
        clip.mux(audio.encode(hum))
        clip.mux(audio.encode(None))
    return target.getvalue()


def probe(client: triton.InferenceServerClient, address: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> None:
    """Send a tiny clip through the whole ensemble.

    Raises:
        ServerError: of the class that says what is wrong.
    """
    inputs = infer_inputs(encode_request(probe_clip(), [(0.0, 0.5)], ["ready"]))
    try:
        answer = client.infer("emotion", inputs, client_timeout=timeout_s, headers=SMALL_REQUEST)
    except triton.InferenceServerException as error:
        raise error_from_status(error.status(), error.message(), address=address, timeout_s=timeout_s) from error
    decode_response(answer, address=address)


def prove_ready(address: str, *, deadline_s: float) -> Iterator[Fv2esError]:
    """Try until an inference succeeds; yields the error of each vain try, so that the caller decides how long to go on.

    Args:
        address: HOST:PORT.
        deadline_s: on the clock of `time.monotonic`; no try starts a wait beyond it.
    """
    with triton.InferenceServerClient(address, channel_args=CHANNEL_ARGUMENTS) as client:
        while True:
            try:
                probe(client, address, timeout_s=max(0.5, min(PROBE_TIMEOUT_S, deadline_s - time.monotonic())))
            except Fv2esError as error:
                yield error
            else:
                return
