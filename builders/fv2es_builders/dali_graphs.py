"""DALI graphs as the files that Triton's DALI backend loads. No GPU is needed to make them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from fv2es_pipelines import specification
from fv2es_pipelines.frame_index import Device

if TYPE_CHECKING:
    from nvidia.dali.pipeline import Pipeline

THREADS: Final[Mapping[str, int]] = {"decode": 4, "mel": 1}
"""DALI's CPU threads for each graph: those that read packets for NVDEC, and those that hand over waves."""


def dali_pipeline_bytes(model: str, device: Device) -> bytes:
    """The content of `1/model.dali`: the graph of the served model `decode` or `mel`.

    The number of the GPU and the batch are left to the backend, which sets them from the configuration. The same call gives the
    same bytes, and no path of this machine is in them.

    Args:
        model: `decode` or `mel`.
        device: where the graph runs.

    Raises:
        KeyError: no graph has that name.
    """
    with _no_origins():
        pipeline = _pipeline(model, device)
        content: bytes = pipeline.serialize()
    return content


def _pipeline(model: str, device: Device) -> "Pipeline":
    # Imported late: it takes half a second, and the CPU's repository needs none of it.
    from fv2es_pipelines.decode_graph import decode_pipeline
    from fv2es_pipelines.mel import mel_pipeline

    threads = THREADS[model]
    if model == "decode":
        return decode_pipeline(device, threads=threads)
    rows = specification.model(model, "gpu").max_batch_size
    return mel_pipeline(device, max_batch=rows, threads=threads)


@contextmanager
def _no_origins() -> Iterator[None]:
    """DALI notes for each operator which lines of which files called for it, and writes that into the file unless told not to."""
    from nvidia.dali._utils import dali_trace

    enabled = dali_trace.is_tracing_enabled()
    dali_trace.set_tracing(enabled=False)
    try:
        yield
    finally:
        dali_trace.set_tracing(enabled=enabled)
