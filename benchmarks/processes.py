"""What processes on this machine use: processor time and memory, from /proc. Linux alone."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SERVER = "tritonserver"
"""Name given to the server's own process; those of models have the model's."""
GATE = "gate"
"""Of the process that stands before an embedded server."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Of some processes together, bytes."""

    pss_bytes: int
    """Proportional set size: pages that several processes share are divided among them."""
    unmapped_bytes: int
    """Of shared memory regions that they hold open: what is allocated beyond the pages that their PSS counts."""
    anonymous_bytes: int
    """Of these, pages of no file: heaps and stacks."""

    @property
    def total_bytes(self) -> int:
        """All that would be free without these processes."""
        return self.pss_bytes + self.unmapped_bytes

    def since(self, pids: Iterable[int]) -> int:
        """All that the same processes hold now: anonymous pages anew, the rest, which changes little, as it was. It takes 10 us a process."""
        return self.total_bytes - self.anonymous_bytes + sum(anonymous_bytes(pid) for pid in pids)


def listener(port: int) -> int | None:
    """The process of this machine that listens on a TCP port; None: there is none, or it is another user's."""
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(each.readlink()) in sockets for each in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:  # ended meanwhile, or another user's
            continue
    return None


def family(pid: int) -> dict[int, str]:
    """A Triton's process and its children by process id: `SERVER`, or the model that a worker of the Python backend serves.

    The process may also be the gate before an embedded Triton, which is then part of it.
    """
    found = {pid: SERVER}
    try:
        own = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        own = []
    if b"fv2es.gate" in own:
        before = next(each for each in own if each.startswith(b"--triton="))
        triton = listener(int(before.rpartition(b":")[2]))
        return {pid: GATE} | (family(triton) if triton is not None else {})
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in map(int, children.read_text(encoding="ascii").split()):
                arguments = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                scripts = [Path(os.fsdecode(each)) for each in arguments if each.endswith(b"/model.py")]
                found[child] = scripts[0].parents[1].name if scripts else SERVER
        except OSError:
            continue
    return found


def cpu_s(pid: int) -> float:
    """Processor time of a process and its threads so far, in steps of 0.01 s; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S  # user and system time: fields 14 and 15 of proc(5)


def memory(pids: Iterable[int]) -> Memory:
    """What these processes hold now; those that are gone count nothing."""
    pss = shared = anonymous = 0
    regions: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
            sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
            pss += sizes["Pss"]
            shared += sizes.get("Pss_Shmem", 0)
            anonymous += sizes["Anonymous"]  # of the same look: meanwhile it may be another
            for region in _regions(pid):
                status = region.stat()
                regions[status.st_dev, status.st_ino] = status.st_blocks * 512
        except (OSError, KeyError, IndexError):
            continue
    return Memory(pss_bytes=pss, unmapped_bytes=max(0, sum(regions.values()) - shared), anonymous_bytes=anonymous)


def anonymous_bytes(pid: int) -> int:
    """Pages of no file that a process holds, as the kernel counts them along: within some hundred kB; 0 once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * PAGE_BYTES  # resident, and what of it belongs to files or shared memory


def _regions(pid: int) -> set[Path]:
    """Files of /dev/shm that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if " /dev/shm/" in line}
    return {Path(each) for each in paths if not each.endswith(" (deleted)")}


def thinned(series: Sequence[tuple[float, int]], most: int) -> list[tuple[float, int]]:
    """At most `most` points of a series over time: of each stretch the largest value, so that no peak is lost."""
    step = max(1, -(-len(series) // most))
    return [max(series[start : start + step], key=lambda point: point[1]) for start in range(0, len(series), step)]
