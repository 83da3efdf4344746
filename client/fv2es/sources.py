"""What to analyse: files, folders, patterns and lists, made into one list of files without repetition."""

import glob
import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fv2es.errors import UsageError
from fv2es.plain import printable

_VIDEO_ENDINGS = (
    ".3gp",
    ".avi",
    ".flv",
    ".m2ts",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".mxf",
    ".ogv",
)
_SOUND_ENDINGS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma")
MEDIA_ENDINGS = frozenset((*_VIDEO_ENDINGS, *_SOUND_ENDINGS, ".ts", ".webm", ".wmv"))
"""Of files that are looked for in folders. A file that is named is tried whatever its ending."""

_MOST_NAME_BYTES = 200
"""Of a result's name without its ending; file systems take 255 bytes in all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file to analyse."""

    path: str
    """As given or found."""
    name: str
    """Its path below the folder that was searched; of a file that was named itself, the last part alone."""


def find_sources(given: Sequence[str], lists: Sequence[str] = ()) -> list[Source]:
    """The files, in the order in which they are named, those of a folder or pattern sorted; each file once.

    A file that is named and missing is in the list: that it can't be used is found when its turn comes. So is a folder that
    can't be read, and one without media where there are other sources.

    Args:
        given: files, folders (searched with all that is below, hidden files and folders left out), patterns for `glob`.
        lists: files that name files or folders, one a line; "-" is the standard input.

    Raises:
        UsageError: nothing was found at all, or a list can't be read.
    """
    empty: list[str] = []
    found = [source for each in given for source in _expanded(each, empty, patterns=True)]
    for each in lists:
        found += [source for entry in _entries(each) for source in _expanded(entry, empty, patterns=False)]
    if not found:
        looked = ", ".join(
            [f"no media in {printable(each)}" for each in empty]
            + [f"no name in the list {printable(each)}" for each in lists]
        )
        looked = looked or "no file, folder, pattern or --list was given"
        raise UsageError(
            f"no sources: {looked}; patterns are those of a shell, folders are searched for files that end in {' '.join(sorted(MEDIA_ENDINGS))}"
        )
    found += [Source(path=each, name=_last_part(each)) for each in empty]
    once: dict[str, Source] = {}
    for source in found:
        once.setdefault(os.path.realpath(source.path), source)
    return list(once.values())


def _entries(path: str) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(
            f"the list {printable(path)} can't be read ({error.strerror}); name a file with one path a line"
        ) from error
    return [os.fsdecode(line.removesuffix(b"\r")) for line in data.split(b"\n") if line.strip()]


def _expanded(given: str, empty: list[str], *, patterns: bool) -> Iterator[Source]:
    """The files of one argument; without any, it is added to `empty`."""
    if patterns and glob.has_magic(given) and not os.path.lexists(given):
        paths = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - patterns may be absolute
    else:
        paths = [given]
    files = [source for each in paths for source in _files(each)]
    if not files:
        empty.append(given)
    yield from files


def _files(path: str) -> Iterator[Source]:
    if not Path(path).is_dir():
        yield Source(path=path, name=_last_part(path))
        return
    closed: list[OSError] = []
    for folder, folders, names in os.walk(path, onerror=closed.append):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in MEDIA_ENDINGS:
                whole = os.path.join(folder, name)  # noqa: PTH118 - keeps the path as given
                yield Source(path=whole, name=os.path.relpath(whole, path))
    for error in closed:
        yield Source(path=str(error.filename), name=_last_part(str(error.filename)))


def _last_part(path: str) -> str:
    return Path(path).name or "source"


def result_names(sources: Sequence[Source], *, taken: Iterable[str] = ()) -> list[str]:
    """A name for each source's result, without its ending and relative to the folder of results; all different.

    It is the source's own name. Sources of one name get a part of the hash of their place, all of them, so that the order
    in which they are given does not matter; so do names that are too long. Case does not tell names apart.

    Args:
        sources: one file each.
        taken: names that are no result's.
    """
    groups: defaultdict[str, int] = defaultdict(int, {each.casefold(): 1 for each in taken})
    for each in sources:
        groups[each.name.casefold()] += 1
    return [_with_hash(each) if groups[each.name.casefold()] > 1 else _short(each) for each in sources]


def _short(source: Source) -> str:
    return source.name if len(os.fsencode(Path(source.name).name)) <= _MOST_NAME_BYTES else _with_hash(source)


def _with_hash(source: Source) -> str:
    place = hashlib.sha256(os.fsencode(os.path.realpath(source.path))).hexdigest()[:12]
    folder, name = os.path.split(source.name)
    start = os.fsencode(name)[:_MOST_NAME_BYTES].decode(errors="ignore")
    return str(Path(folder) / f"{start}-{place}")


def changed(path: str) -> Callable[[], bool]:
    """A question that says, later, whether the file has been written to, replaced or removed since now.

    Raises:
        OSError: there is no such file now.
    """

    def state() -> tuple[int, int, int]:
        facts = Path(path).stat()
        return facts.st_ino, facts.st_size, facts.st_mtime_ns

    before = state()

    def is_changed() -> bool:
        try:
            return state() != before
        except OSError:
            return True

    return is_changed
