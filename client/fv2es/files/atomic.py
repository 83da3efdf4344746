"""Files that are there whole or not at all."""

import os
import secrets
import stat
import tempfile
from collections.abc import Collection
from pathlib import Path

from fv2es.errors import UsageError


def check_writable(path: Path, endings: Collection[str]) -> None:
    """Refuse a file that could not be written, before work is done for it.

    Args:
        path: the file.
        endings: of names that are allowed, such as ".json".

    Raises:
        UsageError: the ending is unknown, or the folder is missing or can't be written to.
    """
    if path.suffix.lower() not in endings:
        raise UsageError(f"{path}: the name must end in one of {', '.join(endings)}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a regular file; name one")
    folder = _real(path).parent
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; make it first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"{folder}: no file can be made there ({error.strerror}); name a folder that can be written to"
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file; an old one is replaced only by a whole new one, which keeps its permissions. A link stays a link.

    Raises:
        OSError: the disk is full, or the like; an old file is untouched, and nothing else is left behind.
    """
    target = _real(path)
    unfinished = target.with_name(
        f".fv2es-{secrets.token_hex(8)}.part"
    )  # short: the name itself may be as long as allowed
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
        with os.fdopen(descriptor, "wb") as file:
            if target.exists():
                os.fchmod(descriptor, stat.S_IMODE(target.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _real(path: Path) -> Path:
    """What a link points to."""
    return Path(os.path.realpath(path))
