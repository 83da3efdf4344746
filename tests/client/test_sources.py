"""Which files a command line means."""

import io
import os
import sys
from pathlib import Path

import pytest

from fv2es.errors import UsageError
from fv2es.sources import Source, changed, find_sources, result_names

NOT_UTF8 = os.fsdecode(b"caf\xe9.mp4")


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `films` below the working directory."""
    for name in (
        "b.mp4",
        "a.MKV",
        "notes.txt",
        ".hidden.mp4",
        "sub/b.mp4",
        ".cache/c.mp4",
        "sub/-x 'ü\".wav",
        NOT_UTF8,
    ):
        path = tmp_path / "films" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "films"


def paths(*given: str, lists: tuple[str, ...] = ()) -> list[str]:
    return [each.path for each in find_sources(given, lists)]


@pytest.mark.usefixtures("films")
def test_folders_are_searched_for_media():
    found = find_sources(["films"])
    names = ["a.MKV", "b.mp4", NOT_UTF8, "sub/-x 'ü\".wav", "sub/b.mp4"]
    assert [each.name for each in found] == names
    assert [each.path for each in found] == [f"films/{each}" for each in names]


@pytest.mark.usefixtures("films")
def test_patterns():
    assert paths("films/**/b.*") == ["films/b.mp4", "films/sub/b.mp4"]
    assert paths("f*s/s*") == ["films/sub/-x 'ü\".wav", "films/sub/b.mp4"]
    Path("a[1].mp4").touch()
    assert paths("a[1].mp4") == ["a[1].mp4"]


@pytest.mark.usefixtures("films")
def test_a_file_named_twice_is_done_once():
    Path("link.mp4").symlink_to("films/b.mp4")
    assert paths("films/sub/b.mp4", "link.mp4", "films/b.mp4", "films/../films/sub", "films/sub/*.mp4") == [
        "films/sub/b.mp4",
        "link.mp4",
        "films/../films/sub/-x 'ü\".wav",
    ]


@pytest.mark.usefixtures("films")
def test_lists(monkeypatch: pytest.MonkeyPatch):
    text = b"films/b.mp4\r\n\nfilms/caf\xe9.mp4\nfilms/*.mp4\nfilms/sub"
    Path("list").write_bytes(text)
    expected = ["films/b.mp4", f"films/{NOT_UTF8}", "films/*.mp4", "films/sub/-x 'ü\".wav", "films/sub/b.mp4"]
    assert paths(lists=("list",)) == expected  # a pattern in a list is a name
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert paths(lists=("-",)) == expected
    with pytest.raises(UsageError, match=r"the list gone can't be read \(No such file"):
        paths(lists=("gone",))


@pytest.mark.usefixtures("films")
def test_what_is_missing_is_named_and_stops_nothing():
    assert paths("gone.mp4", "empty", "no*thing", "films/b.mp4") == ["gone.mp4", "films/b.mp4", "empty", "no*thing"]
    Path("blank").write_text("\n \n")
    with pytest.raises(
        UsageError, match=r"no sources: no media in empty, no media in no\*thing, no name in the list blank; .*\.mp4"
    ):
        paths("empty", "no*thing", lists=("blank",))
    with pytest.raises(UsageError, match="no sources: no file, folder, pattern or --list was given"):
        paths()


def test_results_have_names_of_their_own(tmp_path: Path):
    long = "ü" * 120 + ".mp4"
    given = [("x/a.mp4", "a.mp4"), ("y/A.mp4", "A.mp4"), ("y/b.mp4", "sub/b.mp4"), ("z", "fv2es-run"), (long, long)]
    sources = [Source(path=str(tmp_path / path), name=name) for path, name in given]
    names = result_names(sources, taken=["fv2es-run"])
    assert names[2] == "sub/b.mp4"
    assert [each.rpartition("-")[0] for each in names] == ["a.mp4", "A.mp4", "", "fv2es-run", "ü" * 100]
    assert len({each.casefold() for each in names}) == len(names)
    assert result_names(sources[::-1], taken=["fv2es-run"]) == names[::-1]


def test_a_change_is_seen(tmp_path: Path):
    film = tmp_path / "a.mp4"
    film.write_bytes(b"one")
    is_changed = changed(str(film))
    assert not is_changed()
    film.write_bytes(b"longer")
    assert is_changed()
    film.unlink()
    assert is_changed()
