"""What a process and all that it started use."""

import contextlib
from pathlib import Path

from benchmarks.processes import SERVER, family, listener, memory
from fv2es.address import checked_address


def tree(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text(encoding="ascii").split())
    return found


def server_tree(address: str | None) -> list[int]:
    """The processes of a server at HOST:PORT; none where it runs on another machine, or as another user."""
    if address is None:
        return []
    host, _, port = checked_address(address).rpartition(":")
    pid = listener(int(port)) if host in ("127.0.0.1", "localhost", "[::1]") else None
    return [] if pid is None else tree(pid)


def memory_bytes(pid: int, others: list[int]) -> int:
    """Memory of a process, all that it started, and others: of one alone the most so far, of several now, what they share counted once."""
    pids = sorted({*tree(pid), *others})
    if len(pids) > 1:
        return memory(pids).total_bytes
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def workers(pids: list[int]) -> dict[str, int]:
    """Process ids of a Triton's Python workers by the model that they serve, where the Triton is among the processes."""
    return {model: worker for each in pids for worker, model in family(each).items() if model != SERVER}
