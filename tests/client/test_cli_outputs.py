"""What the command does with results that can't be put where they belong."""

import argparse
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

import fv2es
from fv2es.cli import _write_outputs
from fv2es.result import Result


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def write(outputs: list[Path], result: Result) -> tuple[bool, str]:
    errors = Console(stderr=True, width=400)
    with errors.capture() as capture:
        done = _write_outputs(argparse.Namespace(output=outputs, key_frames=False), [result], errors)
    return done, capture.get()


def test_results_whose_folder_went_away_are_kept(real: Result, tmp_path: Path, elsewhere: Path):
    done, said = write([tmp_path / "gone" / "a.json", tmp_path / "a.csv"], real)
    assert not done
    assert f"a.json was not written: {tmp_path / 'gone'}: no such folder" in said
    assert f"written: {tmp_path / 'a.csv'}" in said
    (kept,) = elsewhere.rglob("*.json")
    assert f"the results are kept in {kept}" in said
    assert fv2es.read_results(kept) == (real,)
    assert kept.parent.stat().st_mode & 0o077 == 0  # for nobody else to read


def test_nothing_is_kept_twice(real: Result, tmp_path: Path, elsewhere: Path):
    done, said = write([tmp_path / "gone" / "a.csv", tmp_path / "a.json"], real)
    assert not done
    assert "the results are kept" not in said
    assert not list(elsewhere.iterdir())
    assert write([tmp_path / "a.json"], real) == (True, f"written: {tmp_path / 'a.json'}\n")
