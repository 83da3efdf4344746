"""What processes use, against processes that use a known amount."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from benchmarks.processes import cpu_s, listener, memory, thinned

MEGABYTE = 1 << 20
Run = Callable[[str], int]


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs Python code in a process up to its first output, and gives its process id; the process is ended after the test."""
    children = []

    def start(code: str) -> int:
        child = subprocess.Popen([sys.executable, "-c", f"{code}\nprint(flush=True)\ninput()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        children.append(child)
        assert child.stdout is not None
        child.stdout.readline()
        return child.pid

    yield start
    for child in children:
        child.communicate(b"\n")


def test_memory_of_its_own(run: Run) -> None:
    small, large = run("kept = b''"), run(f"kept = b'x' * {100 * MEGABYTE}")
    difference = memory([large]).total_bytes - memory([small]).total_bytes
    assert difference == pytest.approx(100 * MEGABYTE, abs=3 * MEGABYTE)


def test_growth_since_a_look() -> None:
    """It is seen without looking at all pages again."""
    code = f"print(flush=True)\ninput()\nkept = b'x' * {100 * MEGABYTE}\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        before = memory([child.pid])
        assert before.since([child.pid]) == pytest.approx(before.total_bytes, abs=MEGABYTE)
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()
        assert before.since([child.pid]) - before.total_bytes == pytest.approx(100 * MEGABYTE, abs=3 * MEGABYTE)
        child.communicate(b"\n")
    assert before.since([child.pid]) == before.total_bytes - before.anonymous_bytes


def test_shared_memory_counts_once(run: Run) -> None:
    """Two processes that map one region, of which one has touched all and the other nothing; with what was allocated by writing."""
    name = f"/dev/shm/fv2es-test-{os.getpid()}"  # noqa: S108
    code = f"import mmap\nfile = open({name!r}, 'r+b')\nkept = mmap.mmap(file.fileno(), 0)"
    try:
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(b"x" * 40 * MEGABYTE)
        nothing = run("import mmap")
        touched, untouched = run(f"{code}\nkept[:]"), run(code)
        alone = memory([nothing]).total_bytes
        assert memory([untouched]).total_bytes - alone == pytest.approx(40 * MEGABYTE, abs=3 * MEGABYTE)
        both = memory([touched, untouched]).total_bytes - memory([nothing, run("import mmap")]).total_bytes
        assert both == pytest.approx(40 * MEGABYTE, abs=3 * MEGABYTE)
    finally:
        os.unlink(name)  # noqa: PTH108


def test_processor_time(run: Run) -> None:
    pid = run("import time\nwhile time.process_time() < 0.5: pass")
    assert cpu_s(pid) == pytest.approx(0.5, abs=0.1)


def test_the_dead_use_nothing() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert cpu_s(child.pid) == 0
    assert memory([child.pid]).total_bytes == 0


def test_finds_who_listens() -> None:
    with socket.socket() as ear:
        ear.bind(("127.0.0.1", 0))
        port = ear.getsockname()[1]
        assert listener(port) is None  # bound, but not listening
        ear.listen()
        assert listener(port) == os.getpid()


def test_thinning_keeps_peaks() -> None:
    series = [(float(index), 100 if index == 577 else index % 7) for index in range(1000)]
    thin = thinned(series, 120)
    assert 100 <= len(thin) <= 120
    assert (577.0, 100) in thin
    assert thin == sorted(thin)
    assert thinned(series[:50], 120) == series[:50]
