"""Files that are there whole or not at all."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fv2es.errors import UsageError
from fv2es.files import FORMATS, check_output, check_writable, write_whole

FULL_DISK = """
import resource, sys
from pathlib import Path
from fv2es.files import write_whole

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # as a disk that is full after 4 KiB
try:
    write_whole(Path(sys.argv[1]), b"x" * 100_000)
except OSError as error:
    print(error.strerror)
"""


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    run = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=60)
    assert run.stdout == "File too large\n", run.stderr
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_takes_the_umask_and_an_old_one_keeps_its_mode(tmp_path: Path):
    old = os.umask(0o027)
    try:
        write_whole(tmp_path / "new", b"1")
    finally:
        os.umask(old)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new").chmod(0o604)
    write_whole(tmp_path / "new", b"2")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o604
    assert (tmp_path / "new").read_bytes() == b"2"


def test_a_link_stays_a_link(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "real.json", tmp_path / "link.json"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_whole(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert sorted(each.name for each in (tmp_path / "folder").iterdir()) == ["real.json"]


@pytest.mark.parametrize(
    "name",
    [
        "-x.json",
        "a 'b' \"c\".json",
        "ä 😀.json",
        "x" * 250 + ".json",
        os.fsdecode(b"caf\xe9.json"),
        "A.JSON",
        "a\nb.json",
    ],
)
def test_any_name_that_the_disk_takes(tmp_path: Path, name: str):
    check_output(tmp_path / name)
    write_whole(tmp_path / name, b"{}")
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_unknown_endings_name_the_known_ones(tmp_path: Path):
    known = re.escape(", ".join(FORMATS))
    for name in ("a.docx", "a", ".json", "a.json.gz"):
        with pytest.raises(UsageError, match=f"must end in one of {known}$"):
            check_output(tmp_path / name)


def test_places_where_nothing_can_be_written(tmp_path: Path):
    with pytest.raises(UsageError, match="no such folder; make it first"):
        check_output(tmp_path / "no" / "a.json")
    with pytest.raises(
        UsageError, match="/proc: no file can be made there"
    ):  # also for root, who passes every os.access
        check_output(Path("/proc/a.json"))
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UsageError, match="is a folder; name a file in it"):
        check_output(tmp_path / "a.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UsageError, match="is not a regular file"):
        check_writable(tmp_path / "pipe.json", [".json"])
    (tmp_path / "dangling.json").symlink_to(tmp_path / "gone" / "b.json")
    with pytest.raises(UsageError, match="no such folder"):
        check_output(tmp_path / "dangling.json")
