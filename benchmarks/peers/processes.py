"""What a process and all that it started use."""

import contextlib
from pathlib import Path

from benchmarks.processes import SERVER, family, memory


def tree(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text(encoding="ascii").split())
    return found


def memory_bytes(pid: int) -> int:
    """Memory of a process and all that it started: of one alone the most so far, of several now, what they share counted once."""
    pids = tree(pid)
    if len(pids) > 1:
        return memory(pids).total_bytes
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def workers(pid: int) -> dict[str, int]:
    """Process ids of a Triton's Python workers by the model that they serve, where a process started that Triton."""
    return {model: worker for each in tree(pid) for worker, model in family(each).items() if model != SERVER}
