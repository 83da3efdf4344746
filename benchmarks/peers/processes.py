"""What a process and those it started use, by the kernel's account."""

import contextlib
import os
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, with that of its ended children; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS_PER_S


def memory_bytes(pid: int) -> int:
    """Memory of a process and all that it started: of one alone the most so far, of several now, what they share counted once."""
    pids = tree(pid)
    name, key = ("status", "VmHWM:") if len(pids) == 1 else ("smaps_rollup", "Pss:")
    total = 0
    for each in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/{name}").read_text().splitlines():
                if line.startswith(key):
                    total += int(line.split()[1]) * 1024
    return total


def workers(pid: int) -> dict[str, int]:
    """Process ids of a Triton's Python workers by the model that they serve, among those that a process started."""
    found = {}
    for each in tree(pid):
        with contextlib.suppress(OSError):
            arguments = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
            scripts = [Path(os.fsdecode(part)) for part in arguments if part.endswith(b"/model.py")]
            if scripts:
                found[scripts[0].parents[1].name] = each
    return found
