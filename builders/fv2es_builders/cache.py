"""What was built and proven once is kept: folders of files under the hash of everything that they depend on."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fv2es_builders.assets import file_sha256
from fv2es_builders.errors import BuildError

DEFAULT_MAX_BYTES: Final = 8 << 30
"""Of all kept files: more than ten builds of the paper's size. The least recently used go first."""

IN_USE_S: Final = 3600.0
"""An entry that was used this short ago stays in any case: a build may be reading it."""

_LISTING: Final = "entry.json"
_PART: Final = ".part"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Files that belong together, and what was found out while they were made."""

    folder: Path
    files: Mapping[str, str]
    """sha256 of each file by its path below `folder`."""
    facts: Mapping[str, Any]
    """Plain data."""
    made_now: bool
    """False: it was there already."""

    def paths(self) -> dict[str, Path]:
        """The files by their path below `folder`."""
        return {name: self.folder / name for name in self.files}


class Cache:
    """A folder of entries. Builds that run at the same time may share it; what is damaged is made anew."""

    def __init__(self, folder: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def entry(self, key: str, make: Callable[[Path], Mapping[str, Any]]) -> Entry:
        """The entry of a key, made if it is not there whole.

        Args:
            key: hash of everything that the files depend on.
            make: writes the files into the folder that it is given and returns the facts.

        Raises:
            BuildError: what `make` raises; what it wrote stays there for replay until the next try.
        """
        found = self._read(key)
        if found is not None:
            os.utime(found.folder)
            return found
        part = self.folder / f"{key}{_PART}{os.getpid()}"
        for left_over in self.folder.glob(f"{key}{_PART}*"):
            if not _is_running(left_over) or left_over == part:
                shutil.rmtree(left_over, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            facts = make(part)
            files = {
                str(path.relative_to(part)): file_sha256(path) for path in sorted(part.rglob("*")) if path.is_file()
            }
            (part / _LISTING).write_text(json.dumps({"files": files, "facts": facts}), encoding="utf-8")
            self._publish(part, key)
        except BuildError:
            raise
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        self._evict(keep=key)
        return Entry(folder=self.folder / key, files=files, facts=facts, made_now=True)

    def _read(self, key: str) -> Entry | None:
        folder = self.folder / key
        try:
            listing = json.loads((folder / _LISTING).read_text(encoding="utf-8"))
            files: dict[str, str] = listing["files"]
            intact = all(file_sha256(folder / name) == digest for name, digest in files.items())
        except (OSError, ValueError, KeyError):
            return None
        return Entry(folder=folder, files=files, facts=listing["facts"], made_now=False) if intact else None

    def _publish(self, part: Path, key: str) -> None:
        target = self.folder / key
        while True:
            try:
                part.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
                if self._read(key) is not None:  # another build made it meanwhile
                    shutil.rmtree(part)
                    return
                shutil.rmtree(target)  # damaged
            else:
                return

    def _evict(self, *, keep: str) -> None:
        """Remove the entries that were not used for the longest time while all together are too large."""
        entries = [path for path in self.folder.iterdir() if path.is_dir() and _PART not in path.name]
        sizes = {path: sum(each.stat().st_size for each in path.rglob("*")) for path in entries}
        total = sum(sizes.values())
        for path in sorted(entries, key=lambda each: each.stat().st_mtime):
            if total <= self.max_bytes or path.stat().st_mtime > time.time() - IN_USE_S:
                return
            if path.name != keep:
                shutil.rmtree(path, ignore_errors=True)
                total -= sizes[path]


def _is_running(part: Path) -> bool:
    """Whether the build that writes to this folder is still at work."""
    owner = part.name.rpartition(_PART)[2]
    return owner.isdigit() and Path(f"/proc/{owner}").exists()


def default_cache_folder(environment: Mapping[str, str]) -> Path:
    """Where builds are kept: FV2ES_CACHE, else the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    if own := environment.get("FV2ES_CACHE"):
        return Path(own)
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fv2es" / "builds"
