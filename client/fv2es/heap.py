"""The memory that the C library keeps."""

import ctypes


def trim_heap() -> None:
    """Give the system back what was freed and is kept for later use; it takes milliseconds. Nothing happens where the C library knows no such call.

    Clips of megabytes come and go, and smaller blocks between them keep glibc from giving their room back by itself.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone
    if trim is not None:
        trim(ctypes.c_size_t(0))
