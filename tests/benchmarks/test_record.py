"""Records of measurements."""

import json
from pathlib import Path

import pytest

from benchmarks.material import Material, material
from benchmarks.record import RecordError, read_record, write_record


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return material(height_px=64, duration_s=2, frames_per_s=10, folder=tmp_path_factory.mktemp("material"))


def test_is_read_as_it_was_written(film: Material, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "record.json"
    measured = [{"material": film.name, "wall_s": 1.5, "memory_bytes": [1, 2, 3], "lost": None, "held": True}]
    write_record(path, kind="long_video", settings={"minutes": [1]}, materials=[film], measurements=measured)
    record = read_record(path)
    assert record["measurements"] == measured
    assert record["materials"][0]["sha256"] == film.sha256
    assert record["materials"][0]["name"] == film.name
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["memory_bytes"] > 2**28
    assert {"fv2es", "python", "av", "numpy", "ffmpeg"} <= record["versions"].keys()
    assert str(Path.cwd()) not in path.read_text()  # nothing of this machine's folders
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "not finite"), ({"a": 1}, "lists of them"), ([1.0, float("inf")], "not finite")],
)
def test_refuses_what_is_not_flat(value: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=message):
        write_record(tmp_path / "x.json", kind="x", settings={}, materials=[], measurements=[{"y": value}])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"schema_version": 2, "kind": "x"})])
def test_refuses_other_files(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=r"x\.json"):
        read_record(path)
