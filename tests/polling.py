"""How a test waits for what happens elsewhere."""

import time
from collections.abc import Callable


def until(condition: Callable[[], object], timeout_s: float) -> bool:
    """Poll, so that a test waits no longer than it must; false where the condition did not come in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True
