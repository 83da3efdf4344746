"""The end of a worker whose parent, a Triton, has ended without ending it."""

import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_BEAT_S: Final = 0.2
_BEATS_TO_TAKE_OVER: Final = 5
_TAKE_OVER_S: Final = 10.0
"""A Triton that has not taken a loaded worker over by then never will. It takes milliseconds."""


class ParentTie:
    """Ends this process soon after its parent, also while it is held in native code.

    Triton's worker program looks for its parent by itself, but wants Python's lock to end, and keeps that lock while it waits for Triton to take
    an answer, of `initialize` or `execute`: a killed Triton never takes it, and the worker waits for good. A thread of Python would wait for the same
    lock, so the kernel has to end the worker (PR_SET_PDEATHSIG). It does so when the parent's *thread* ends that began this process, and Triton
    loads models in threads that end; children go to its main thread then. So the tie is made when that is the parent; until then a thread of
    Python looks, and an alarm ends the process if nobody takes it over once it is loaded.
    """

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._loaded = threading.Event()

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        if not self._is_in_our_session():
            os._exit(1)
        threading.Thread(target=self._watch, name="fv2es-parent", daemon=True).start()

    def loaded(self) -> None:
        """To be called at the end of `initialize`: what follows is a wait for Triton with Python's lock held."""
        self.check()
        signal.setitimer(signal.ITIMER_REAL, _TAKE_OVER_S)
        self._loaded.set()

    def check(self) -> None:
        """End this process if its parent has ended. Nothing is cleaned up: that takes locks which a dead Triton may hold."""
        if os.getppid() != self._parent:
            os._exit(1)

    def _watch(self) -> None:
        is_tied, num_beats = False, 0
        while not is_tied or num_beats < _BEATS_TO_TAKE_OVER:
            time.sleep(_BEAT_S)
            if not is_tied and self._is_child_of_main_thread():
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # holds as long as this thread lives
                is_tied = True
            self.check()
            num_beats += self._loaded.is_set()
            if num_beats == _BEATS_TO_TAKE_OVER:
                signal.setitimer(signal.ITIMER_REAL, 0)
        threading.Event().wait()

    def _is_in_our_session(self) -> bool:
        """False where the process that began this one had ended before its number was asked for, and another adopted this one."""
        try:
            return os.getsid(self._parent) == os.getsid(0)
        except ProcessLookupError:
            return False

    def _is_child_of_main_thread(self) -> bool:
        try:
            children = Path(f"/proc/{self._parent}/task/{self._parent}/children").read_text(encoding="ascii")
        except OSError:  # it has ended, or the system has no such list
            return False
        return str(os.getpid()) in children.split()
