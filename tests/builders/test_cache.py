"""What was built is found again while it is whole, and nothing half-made is."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fv2es_builders.cache import IN_USE_S, Cache, default_cache_folder
from fv2es_builders.errors import BuildError


def maker(content: bytes = b"graph"):
    calls = []

    def make(folder: Path) -> dict:
        calls.append(folder)
        (folder / "a" / "1").mkdir(parents=True)
        (folder / "a" / "1" / "model.onnx").write_bytes(content)
        return {"answer": 42}

    return make, calls


def test_made_once(tmp_path):
    make, calls = maker()
    first = Cache(tmp_path).entry("k", make)
    again = Cache(tmp_path).entry("k", make)
    assert len(calls) == 1
    assert (first.made_now, again.made_now) == (True, False)
    assert first.facts == again.facts == {"answer": 42}
    assert first.files == again.files
    assert first.paths() == again.paths() == {"a/1/model.onnx": tmp_path / "k" / "a/1/model.onnx"}
    assert again.paths()["a/1/model.onnx"].read_bytes() == b"graph"


@pytest.mark.parametrize("damage", ["changed", "gone", "listing gone", "listing unreadable"])
def test_damaged_entry_is_made_anew(tmp_path, damage):
    make, calls = maker()
    entry = Cache(tmp_path).entry("k", make)
    path = entry.paths()["a/1/model.onnx"]
    listing = entry.folder / "entry.json"
    {
        "changed": lambda: path.write_bytes(b"grapH"),
        "gone": path.unlink,
        "listing gone": listing.unlink,
        "listing unreadable": lambda: listing.write_text("{"),
    }[damage]()
    assert Cache(tmp_path).entry("k", make).made_now
    assert len(calls) == 2
    assert path.read_bytes() == b"graph"


def test_failure_leaves_nothing_but_what_parity_refused(tmp_path):
    def fail(error: BaseException):
        def make(folder: Path) -> dict:
            (folder / "model.onnx").write_bytes(b"half")
            raise error

        return make

    for error in (OSError("no space"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            Cache(tmp_path).entry("k", fail(error))
        assert not list(tmp_path.iterdir())
    with pytest.raises(BuildError):
        Cache(tmp_path).entry("k", fail(BuildError("refused")))
    assert [path.read_bytes() for path in tmp_path.rglob("model.onnx")] == [b"half"]
    make, _ = maker()
    assert Cache(tmp_path).entry("k", make).made_now
    assert not list(tmp_path.glob("*.part*"))


def test_left_overs_of_a_killed_build_go_and_those_of_a_running_one_stay(tmp_path):
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    for owner in (int(killed.stdout), os.getppid()):
        (tmp_path / f"k.part{owner}").mkdir()
    make, _ = maker()
    Cache(tmp_path).entry("k", make)
    assert {path.name for path in tmp_path.iterdir()} == {"k", f"k.part{os.getppid()}"}


def test_another_build_was_faster(tmp_path):
    """What it made is used; ours goes."""
    make, _ = maker()

    def overtaken(folder: Path) -> dict:
        Cache(tmp_path / "elsewhere").entry("k", make)
        (tmp_path / "elsewhere" / "k").rename(tmp_path / "k")
        return make(folder)

    entry = Cache(tmp_path).entry("k", overtaken)
    assert entry.paths()["a/1/model.onnx"].read_bytes() == b"graph"
    assert json.loads((tmp_path / "k" / "entry.json").read_text())["facts"] == {"answer": 42}
    assert not list(tmp_path.glob("*.part*"))


def test_least_recently_used_go_first(tmp_path):
    make, _ = maker(b"x" * 1000)
    cache = Cache(tmp_path, max_bytes=3000)
    for age, key in enumerate(["new", "old", "oldest"], start=1):
        Cache(tmp_path).entry(key, make)
        past_s = time.time() - age * 2 * IN_USE_S
        os.utime(tmp_path / key, (past_s, past_s))
    cache.entry("oldest", make)  # now it is the newest
    cache.entry("another", make)
    assert {path.name for path in tmp_path.iterdir()} == {"oldest", "another"}
    cache.entry("third", make)  # too much, but all were used just now
    assert {path.name for path in tmp_path.iterdir()} == {"oldest", "another", "third"}


def test_default_folder():
    assert default_cache_folder({"FV2ES_CACHE": "/own", "XDG_CACHE_HOME": "/user"}) == Path("/own")
    assert default_cache_folder({"XDG_CACHE_HOME": "/user"}) == Path("/user/fv2es/builds")
    assert default_cache_folder({}) == Path.home() / ".cache" / "fv2es" / "builds"
