"""What the embedded server's processes hold in shared memory, by name: it stays when they are killed."""

import contextlib
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - that is where POSIX shared memory is


def sweep(prefix: str) -> list[str]:
    """Free the regions whose names begin so; returns the names. What is mapped stays until the last process that maps it ends."""
    names = []
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            region.unlink()
            names.append(region.name)
    return names
