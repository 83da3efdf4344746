"""Writing into a folder that others may want to write to, on a disk that may be full."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fv2es_builders.errors import DiskFull, OutputBusy

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """The only build in a folder, which is made; no file is left behind.

    Raises:
        OutputBusy: there is another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputBusy(folder) from error
        yield
    finally:
        os.close(handle)


@contextmanager
def no_space_said(*folders: Path) -> Iterator[None]:
    """Turn the system's error of a full disk into one that names the folder with the least room.

    Raises:
        DiskFull: instead of that error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        rooms = {folder: shutil.disk_usage(folder).free for folder in folders if folder.is_dir()}
        fullest = min(rooms, key=rooms.__getitem__)
        raise DiskFull(fullest, free_bytes=rooms[fullest]) from error
