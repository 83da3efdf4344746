"""The DALI graph that decodes chosen pictures and makes them smaller: one code for both devices."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from fv2es_pipelines.dali_pipeline import empty_pipeline
from fv2es_pipelines.frame_index import Device, decode_size

__all__ = ["GraphRunner", "decode_pipeline", "decode_size"]


class GraphRunner:
    """A DALI pipeline with one output, run in this process. One call at a time."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Build a pipeline whose inputs are external sources."""
        self._pipeline = pipeline
        self._pipeline.build()

    def __call__(self, **inputs: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """The output of each sample.

        Args:
            inputs: the samples of each external source by its name; as many of each, no more than the pipeline's batch.
        """
        for name, samples in inputs.items():
            self._pipeline.feed_input(name, list(samples))
        (output,) = self._pipeline.run()
        on_host = output.as_cpu()
        return [np.array(on_host.at(index)) for index in range(len(on_host))]


def decode_pipeline(device: Device, *, device_id: int | None = None, threads: int = 1) -> Pipeline:
    """VIDEO, FRAMES, SIZE -> pictures, one clip at a time: a broken one fails alone.

    VIDEO uint8 [bytes], a video file; FRAMES int32 [J], numbers of pictures in the order shown; SIZE int32 [2], height and
    width to give them; output uint8 [J, height, width, 3], red first, colours by BT.601 whatever the file states.

    Args:
        device: where pictures are decoded and resized.
        device_id: number of the GPU; None: none is needed to write the graph to a file.
        threads: DALI's CPU threads.
    """
    pipeline = empty_pipeline(max_batch=1, device_id=device_id, threads=threads)
    with pipeline:
        video = fn.external_source(name="VIDEO", device="cpu", dtype=types.UINT8, ndim=1)
        frames = fn.external_source(name="FRAMES", device="cpu", dtype=types.INT32, ndim=1)
        size = fn.external_source(name="SIZE", device="cpu", dtype=types.INT32, ndim=1)
        pictures = fn.decoders.video(video, device="mixed" if device == "gpu" else "cpu", frames=frames)
        # A triangle as wide as the reduction: DALI has no area average.
        smaller = fn.resize(
            pictures, size=fn.cast(size, dtype=types.FLOAT), interp_type=types.INTERP_TRIANGULAR, antialias=True
        )
        pipeline.set_outputs(smaller)  # [J, height, width, 3]
    return pipeline
