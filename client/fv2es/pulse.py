"""Whether the processes of the embedded server get on with their work, as seen from outside.

A process that ended is seen at once; one that hangs looks alive. So the workers of the models and the gate say in their process's name
(`/proc/PID/comm`, as in `ps` and `top`) which piece of work they have begun, `busy 17`, and `idle` when it is done. The rules here go by the
processor time that is used, never by the clock alone: on a busy machine a healthy clip may take as long as it likes.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

BUSY = "busy "
"""Begins the name of a process that works; a number follows that is another one for each piece of work. As in `fv2es_pipelines.adapter`."""
ANSWERED = "+"
"""Ends the gate's name once Triton has answered a clip well."""
STOPPED_S = 2.0
"""A process that is stopped (SIGSTOP) for so long counts as hanging."""
STILL_S = 30.0
"""So is a worker that works on one and the same request and neither uses the processor nor waits for it, see docs/decisions.md for what healthy ones show; and a Triton that gives a request
to no worker for so long."""
MOST_CPU_S = 600.0
"""So is a worker that used so much processor time for one request."""
STARVED_SHARE = 0.05
"""Of the processor. A Triton that wants it and gets less is not judged."""
NOISE_S = 0.05
"""Processor time that says nothing: idle processes use up to 1 ms in a second."""

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def say_busy(number: int | None, *, has_answered: bool = False) -> None:
    """Put into this process's name which piece of work is under way; None: none. Where the system has no such names, nothing is said."""
    name = "idle" if number is None else f"{BUSY}{number % 10**9}"  # with the mark the 15 bytes that there are
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name + ANSWERED * has_answered, encoding="ascii")


def has_answered(gate: int) -> bool:
    """Whether a clip was answered well through this gate, by its process id; False where it has ended."""
    try:
        return Path(f"/proc/{gate}/comm").read_text(encoding="utf-8", errors="replace").strip().endswith(ANSWERED)
    except OSError:
        return False


@dataclass(kw_only=True, slots=True)
class _Watched:
    """What is known of a process."""

    pid: int
    what: str
    state: str = ""
    """Of its main thread, as in proc(5)."""
    name: str = ""
    cpu_s: float = 0.0
    named_cpu_s: float = 0.0
    """Processor time when it got its name."""
    still_cpu_s: float = 0.0
    """Processor time when it was last seen at work."""
    named_s: float = 0.0
    """For how long it has had its name."""
    still_s: float = 0.0
    """For how long it has used no processor time but noise."""
    stopped_s: float = 0.0

    @property
    def is_busy(self) -> bool:
        return self.name.startswith(BUSY)

    def look(self, passed_s: float) -> None:
        """Take in how it is now; nothing changes where it has ended."""
        try:
            name = Path(f"/proc/{self.pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        fields = stat.rpartition(")")[2].split()
        self.state, self.cpu_s = fields[0], (int(fields[11]) + int(fields[12])) * _TICK_S  # fields 3, 14 and 15
        self.stopped_s = self.stopped_s + passed_s if self.state == "T" else 0.0
        if name == self.name:
            self.named_s += passed_s
        else:
            self.name, self.named_s, self.named_cpu_s = name, 0.0, self.cpu_s
        if self.cpu_s - self.still_cpu_s > NOISE_S:
            self.stir()
        else:
            self.still_s += passed_s

    def stir(self) -> None:
        """It was seen at work."""
        self.still_s, self.still_cpu_s = 0.0, self.cpu_s

    def wants_processor(self) -> bool:
        """Whether one of its threads could run if it were let, or waits for a disk."""
        return any(state in "RD" for state in _thread_states(self.pid))


class Pulse:
    """Looks at a server's processes now and then.

    Args:
        server: process id of Triton.
        gate: of the gate before it.
        workers: models by process id.
    """

    def __init__(self, *, server: int, gate: int, workers: Mapping[int, str]) -> None:
        self._server = _Watched(pid=server, what="tritonserver")
        self._gate = _Watched(pid=gate, what="the gate before tritonserver")
        self._workers = [_Watched(pid=pid, what=f"the worker of model `{name}`") for pid, name in workers.items()]
        self._idle_s = 0.0
        """For how long a request has been under way while nobody worked on it."""
        self._idle_cpu_s = 0.0
        """Triton's processor time when that began."""

    def look(self, passed_s: float) -> str | None:
        """What hangs, in words; None where nothing does.

        Args:
            passed_s: since the last look. It should not hold time in which this process did not run itself: the others may not have either.
        """
        processes = [self._server, self._gate, *self._workers]
        for each in processes:
            each.look(passed_s)
        for each in processes:
            if each.stopped_s >= STOPPED_S:
                return f"{each.what} (process {each.pid}) has been stopped for {each.stopped_s:.0f} s"
        for each in filter(lambda worker: worker.is_busy, self._workers):
            if (used_s := each.cpu_s - each.named_cpu_s) >= MOST_CPU_S:
                return f"{each.what} (process {each.pid}) has used {used_s:.0f} s of processor time for one request"
            if (still_s := min(each.named_s, each.still_s)) >= STILL_S:
                if not each.wants_processor():
                    return f"{each.what} (process {each.pid}) has done nothing for {still_s:.0f} s with a request under way"
                each.stir()
        return self._look_at_server(passed_s)

    def _look_at_server(self, passed_s: float) -> str | None:
        """Whether a request is under way that Triton gives to none of its workers."""
        at_work = any(each.is_busy or each.still_s == 0 for each in self._workers)
        if at_work or not self._gate.is_busy or self._gate.named_s == 0:
            self._idle_s, self._idle_cpu_s = 0.0, self._server.cpu_s
            return None
        self._idle_s += passed_s
        if self._idle_s < STILL_S or any(each.wants_processor() for each in self._workers):
            return None
        # Health checks keep it from being quite still; one that hardly gets the processor that it wants is healthy.
        used_share = (self._server.cpu_s - self._idle_cpu_s) / self._idle_s
        if used_share < STARVED_SHARE and self._server.wants_processor():
            return None
        return f"tritonserver (process {self._server.pid}) has done nothing for {self._idle_s:.0f} s with a request under way"


def _thread_states(pid: int) -> Iterator[str]:
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            yield path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
