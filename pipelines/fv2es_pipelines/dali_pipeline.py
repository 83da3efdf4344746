"""The frame of every DALI graph here: one run when asked, nothing ahead of it."""

from nvidia.dali.pipeline import Pipeline


def empty_pipeline(*, max_batch: int, device_id: int | None, threads: int) -> Pipeline:
    """A DALI pipeline without operators.

    Args:
        max_batch: most samples in a run.
        device_id: number of the GPU; None: the CPU, or a graph that is only written to a file.
        threads: DALI's CPU threads.
    """
    return Pipeline(
        batch_size=max_batch,
        num_threads=threads,
        device_id=device_id,
        prefetch_queue_depth=1,
        exec_async=False,
        exec_pipelined=False,
    )
