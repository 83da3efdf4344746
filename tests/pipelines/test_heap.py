"""Where the C library puts a worker's blocks. Each case is a process of its own: what it is told can't be taken back."""

import json
import subprocess
import sys

import pytest

MIB = 2**20
PROBE = """
import ctypes, json, sys
from fv2es_pipelines import adapter

class MallocInfo(ctypes.Structure):  # struct mallinfo2 of malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

library = ctypes.CDLL(None)
library.mallinfo2.restype = MallocInfo
library.malloc.restype = ctypes.c_void_p
for name in sys.argv[1].split():
    assert getattr(adapter, name)()
mapped = []
for size in json.loads(sys.argv[2]):
    before = library.mallinfo2().hblks
    assert library.malloc(ctypes.c_size_t(size))
    mapped.append(library.mallinfo2().hblks > before)
print(json.dumps(mapped))
"""
SIZES = [1 * MIB, 8 * MIB, 31 * MIB, 54 * MIB]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("", [True, True, True, True]),
        ("settle_heap", [False, False, False, True]),
        ("keep_one_heap", [False, False, False, False]),
        ("keep_one_heap settle_heap", [False, False, False, False]),
    ],
)
def test_blocks_come_from_the_heap_as_far_as_a_worker_asks_for_it(told: str, expected: list[bool]):
    ran = subprocess.run(
        [sys.executable, "-c", PROBE, told, json.dumps(SIZES)],
        check=True,
        capture_output=True,
        text=True,
        env={"MALLOC_MMAP_THRESHOLD_": "16384"},  # as the embedded server sets it
    )
    assert json.loads(ran.stdout) == expected
