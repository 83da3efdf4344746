"""Who decodes and who recognises speech waits for a core: on two cores, never more than two at once."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fv2es import Client, ClipRule, EmbeddedServer, UtteranceRule

pytestmark = pytest.mark.server

NUM_CORES, NUM_CLIENTS = 2, 4


@pytest.fixture(scope="module")
def small_server(repository: Path) -> Iterator[EmbeddedServer]:
    """A server that was started with two cores."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:NUM_CORES])
    try:
        with EmbeddedServer(repository) as server:
            yield server
    finally:
        os.sched_setaffinity(0, cores)


def at_work(workers: list[int]) -> int:
    """How many work at one moment: those whose name says the same piece of work before and after it."""
    looks = [[Path(f"/proc/{each}/comm").read_text() for each in workers] for _ in range(2)]
    return sum(before == after and before.startswith("busy") for before, after in zip(*looks, strict=True))


def test_no_more_work_at_once_than_there_are_cores(small_server: EmbeddedServer, astronaut: Path):
    workers = [pid for pid, model in small_server._workers.items() if model in ("faces", "speech")]
    assert len(workers) == NUM_CORES + 1
    rules = {"clip_rule": ClipRule(target_length_s=1.0), "utterance_rule": UtteranceRule(window_s=1.0)}
    with Client(small_server.address, **rules) as client, ThreadPoolExecutor(NUM_CLIENTS) as pool:
        results = [pool.submit(client.analyze, astronaut) for _ in range(NUM_CLIENTS)]
        seen = {at_work(workers)}
        while not all(each.done() for each in results):
            seen.add(at_work(workers))
    assert not any(each.result().lost for each in results)
    assert max(seen) == NUM_CORES
