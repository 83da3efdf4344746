"""What hangs and what works, judged from outside: real processes, looked at as if more time had passed than has."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from fv2es import pulse
from fv2es.pulse import STILL_S, STOPPED_S, Pulse, _thread_states

SAY = "import os, sys, time; from fv2es.pulse import say_busy\n"
READY = "print(flush=True)\n"
BLOCKED = f"{SAY}say_busy(1)\n{READY}sys.stdin.read()"
IDLE = f"{SAY}say_busy(None)\n{READY}sys.stdin.read()"
UNMARKED = f"{READY}import sys; sys.stdin.read()"
SPINS = f"{SAY}say_busy(1)\n{READY}\nwhile True: pass"
FROM_ONE_TO_THE_NEXT = f"""{SAY}
{READY}
for number, _ in enumerate(sys.stdin):
    say_busy(number)
    {READY}
"""


@contextlib.contextmanager
def process(program: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout.readline() == "\n"
            yield running
        finally:
            running.kill()
            running.stdin.close()


@pytest.fixture
def pulse_of() -> Iterator[Callable[..., tuple[Pulse, list[subprocess.Popen[str]]]]]:
    """A pulse of a server, a gate and a worker that run these programs, and the processes."""
    with contextlib.ExitStack() as stack:

        def make(server: str, gate: str, worker: str) -> tuple[Pulse, list[subprocess.Popen[str]]]:
            running = [stack.enter_context(process(each)) for each in (server, gate, worker)]
            first, second, third = (each.pid for each in running)
            return Pulse(server=first, gate=second, workers={third: "faces"}), running

        yield make


def looks(watched: Pulse, length_s: float, each_s: float = 1.0) -> str | None:
    """The first thing that is said in so many looks."""
    return next(filter(None, (watched.look(each_s) for _ in range(round(length_s / each_s)))), None)


def asleep(running: list[subprocess.Popen[str]]) -> None:
    """Until all of them wait for something; a busy machine lets them come to that late."""
    while any(state != "S" for each in running for state in _thread_states(each.pid)):
        os.sched_yield()


def test_a_worker_that_is_blocked_hangs(pulse_of):
    watched, running = pulse_of(IDLE, BLOCKED, BLOCKED)
    asleep(running)
    assert looks(watched, STILL_S - 1) is None
    said = looks(watched, 3)
    assert (
        said
        == f"the worker of model `faces` (process {running[2].pid}) has done nothing for 30 s with a request under way"
    )


def test_nobody_hangs_where_nothing_is_under_way(pulse_of):
    watched, _ = pulse_of(IDLE, IDLE, IDLE)
    assert looks(watched, 10 * STILL_S) is None


def test_workers_that_say_nothing_of_themselves_are_not_judged(pulse_of):
    """Models of other repositories."""
    watched, _ = pulse_of(UNMARKED, IDLE, UNMARKED)
    assert looks(watched, 10 * STILL_S) is None


def test_one_request_after_the_other_is_no_hanging_whatever_the_processor_time(pulse_of):
    watched, (_, _, worker) = pulse_of(IDLE, IDLE, FROM_ONE_TO_THE_NEXT)
    for _ in range(10):
        worker.stdin.write("\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == "\n"
        assert looks(watched, STILL_S - 1) is None


def test_a_worker_that_computes_does_not_hang_before_its_processor_time_is_out(
    pulse_of, monkeypatch: pytest.MonkeyPatch
):
    watched, _ = pulse_of(IDLE, BLOCKED, SPINS)
    assert looks(watched, 10 * STILL_S) is None  # whether it got the processor meanwhile or only waits for it
    monkeypatch.setattr(pulse, "MOST_CPU_S", 0.5)
    said = None
    while said is None:
        said = watched.look(0.0)
    assert "s of processor time for one request" in said


def test_a_triton_that_gives_a_request_to_nobody_hangs(pulse_of):
    watched, running = pulse_of(IDLE, BLOCKED, IDLE)
    asleep(running)
    assert looks(watched, STILL_S - 1) is None
    said = looks(watched, 3)
    assert said == f"tritonserver (process {running[0].pid}) has done nothing for 30 s with a request under way"


def test_a_triton_that_waits_for_the_processor_does_not_hang(pulse_of):
    watched, _ = pulse_of(SPINS, BLOCKED, IDLE)
    assert (
        looks(watched, 10 * STILL_S) is None
    )  # it could get next to nothing of the five minutes that are said to pass


def test_a_triton_that_only_spins_hangs(pulse_of, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pulse, "STILL_S", 0.5)
    watched, running = pulse_of(SPINS, BLOCKED, IDLE)
    said, looked_s = None, time.monotonic()
    while said is None:
        said = watched.look((now_s := time.monotonic()) - looked_s)
        looked_s = now_s
    assert f"tritonserver (process {running[0].pid}) has done nothing" in said


@pytest.mark.parametrize("index", range(3))
def test_a_stopped_process_hangs_whatever_it_does(pulse_of, index: int):
    watched, running = pulse_of(IDLE, IDLE, IDLE)
    assert looks(watched, STILL_S) is None
    os.kill(running[index].pid, signal.SIGSTOP)
    os.waitid(os.P_PID, running[index].pid, os.WSTOPPED | os.WNOWAIT)
    assert watched.look(STOPPED_S / 2) is None
    said = watched.look(STOPPED_S / 2)
    assert f"(process {running[index].pid}) has been stopped for 2 s" in said


def test_one_that_was_stopped_and_goes_on_does_not_hang(pulse_of):
    watched, (_, _, worker) = pulse_of(IDLE, IDLE, IDLE)
    for _ in range(3):
        os.kill(worker.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOWAIT)
        assert watched.look(STOPPED_S / 2) is None
        os.kill(worker.pid, signal.SIGCONT)
        os.waitid(os.P_PID, worker.pid, os.WCONTINUED | os.WNOWAIT)
        assert watched.look(STOPPED_S / 2) is None


def test_processes_that_ended_are_left_to_others(pulse_of):
    watched, running = pulse_of(IDLE, IDLE, IDLE)
    for each in running:
        each.kill()
        each.wait()
    assert looks(watched, 10 * STILL_S) is None


def test_a_gate_says_whether_a_clip_was_answered(pulse_of):
    answered = f"{SAY}say_busy(123_456_789, has_answered=True)\n{READY}sys.stdin.read()"
    _, (answered_once, never, _) = pulse_of(answered, BLOCKED, IDLE)
    assert pulse.has_answered(answered_once.pid)
    assert not pulse.has_answered(never.pid)
    answered_once.kill()
    answered_once.wait()
    assert not pulse.has_answered(answered_once.pid)
