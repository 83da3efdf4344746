"""From records to tables and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from benchmarks.material import Material
from benchmarks.record import read_record, write_record
from benchmarks.report import BEGIN, END, RESULTS, main, records_in, with_table
from benchmarks.tables import NOT_MEASURED, film_name, films, ratios, readme_table

ROOT = Path(__file__).resolve().parents[2]
FILM = Material(
    path=Path("film-1080p30-h264-60s-0123abcd.mp4"),
    sha256="ab" * 32,
    duration_s=60.0,
    width_px=1920,
    height_px=1080,
    codec="h264",
    frames_per_s=30.0,
    num_bytes=45_000_000,
)
LARGE = replace(FILM, path=Path("film-2160p30-h264-60s-0123abcd.mp4"), width_px=3840, height_px=2160)
LONG = replace(FILM, path=Path("film-1080p30-h264-3600s-0123abcd.mp4"), duration_s=3600.0)


def streamed(film: Material, turn: int, cpu_s_per_s: float, peak_bytes: int) -> dict:
    """A measurement of `long_video`, of which the detector takes two thirds."""
    cpu_s = cpu_s_per_s * film.duration_s
    minutes = np.linspace(0, film.duration_s * 0.3, 40)
    return {
        "material": film.name,
        "turn": turn,
        "video_s": film.duration_s,
        "model": "fv2es-mosei",
        "model_sha256": "cd" * 32,
        "precision": "fp32",
        "triton": "2.51.0",
        "server_is_here": True,
        "wall_s": cpu_s / 1.6,
        "first_utterance_s": 3.5 + turn,
        "utterances": 12,
        "utterances_lost": 0,
        "client_cpu_s": 0.02 * cpu_s,
        "client_start_cpu_s": 0.2,
        "faces_cpu_s": 0.6 * cpu_s,
        "acoustic_cpu_s": 0.3 * cpu_s,
        "text_cpu_s": 0.05 * cpu_s,
        "manifest_cpu_s": 0.03 * cpu_s,
        "server_cpu_s": 0.98 * cpu_s,
        "cpu_s": cpu_s,
        "faces_queue_s": 1.0,
        "faces_compute_s": 10.0,
        "client_peak_bytes": 90_000_000,
        "client_memory_at_s": minutes.tolist(),
        "client_memory_bytes": [int(80e6 + 1e7 * np.sin(each)) for each in minutes],
        "peak_bytes": peak_bytes,
        "memory_at_s": minutes.tolist(),
        "memory_bytes": [int(peak_bytes * (1 - 0.4 * np.exp(-each))) for each in minutes],
        "floor_decode_wall_s_per_s": 0.04,
        "floor_decode_cpu_s_per_s": 0.08,
        "floor_product_wall_s_per_s": 0.06,
        "floor_product_cpu_s_per_s": 0.12,
    }


def peer(name: str, cpu_s_per_s: float) -> dict:
    steps = {"decode": 0.3, "faces": 0.4, "acoustic": 0.2}
    return {
        "row": "median",
        "material": FILM.name,
        "peer": name,
        "wall_s_per_s": cpu_s_per_s / 2,
        "cpu_s_per_s": cpu_s_per_s,
        "peak_memory_bytes": 2e9,
        **{f"{step}_cpu_s_per_s": share * cpu_s_per_s for step, share in steps.items()},
    }


def step(clients: int, video_s_per_s: float) -> dict:
    times = {f"{what}_{each}_s": 10.0 * clients + index for what in ("film", "first_utterance") for index, each in enumerate(("p50", "p90", "p95", "p99"))}  # fmt: skip
    return {
        "scope": "step",
        "clients": clients,
        "video_s_per_s": video_s_per_s,
        "films": 4,
        "films_done": 3,
        "error_classes": ["ServerOverloaded"],
        "error_counts": [1],
        "lost_classes": [],
        "lost_counts": [],
        **times,
    }


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with a record of each kind."""

    def write(name: str, materials: Sequence[Material], measurements: Sequence[Mapping]) -> None:
        write_record(tmp_path / f"{name}.json", kind=name, settings={}, materials=materials, measurements=measurements)

    turns = [(FILM, 0.30, 1_400_000_000), (LARGE, 0.45, 1_500_000_000), (LONG, 0.30, 1_435_000_000)]
    measured = [streamed(film, turn, cpu * (1 + turn / 10), peak) for turn in range(3) for film, cpu, peak in turns]
    write("long_video", [FILM, LARGE, LONG], measured)
    write("peers", [FILM], [peer("original", 2.1), peer("fv2es", 0.3), {"row": "note", "material": "", "message": "x"}])
    write("load", [FILM], [step(8, 4.4), step(1, 4.0), {"scope": "run", "models": ["faces"]}])
    return tmp_path


def test_ratios_are_taken_side_by_side(records: Path) -> None:
    found = {each.what: each.above / each.below for record in records_in([records]) for each in ratios(record)}
    assert found == pytest.approx(
        {
            "original : fv2es, 60 s of 1080p30 H.264": 7.0,
            "fv2es : bare decoding and one bare matrix product, 60 s of 1080p30 H.264": 0.33 / 0.20,
            "fv2es : bare decoding and one bare matrix product, 60 s of 2160p30 H.264": 0.495 / 0.20,
            "fv2es : bare decoding and one bare matrix product, 60 min of 1080p30 H.264": 0.33 / 0.20,
            "60 s of 2160p30 H.264 : 1080p": 1.5,
            "peak memory of client and server, 60 min of 1080p30 H.264 : 60 s": 1.025,
            "throughput with 8 clients : 1 client": 1.1,
        }
    )


def test_turns_become_their_median_and_peaks_their_largest(records: Path) -> None:
    first = films(read_record(records / "long_video.json"))[0]
    assert (first["film"], first["turns"], first["first_utterance_s"]) == ("60 s of 1080p30 H.264", 3, 4.5)
    assert first["cpu_s_per_s"] == pytest.approx(0.33)
    assert first["stages_cpu_s_per_s"] == pytest.approx(
        {"client": 0.0066, "faces": 0.198, "acoustic": 0.099, "text": 0.0165, "manifest": 0.0099}
    )


def test_recognition_is_a_measurement_of_its_own(records: Path) -> None:
    """A newer run with recognition does not take the place of one without in the README."""
    kept = read_record(records / "long_video.json")
    newer = {**kept, "date": "2999-01-01T00:00:00+00:00", "settings": {"words": "speech"}}
    lines = readme_table([kept, newer]).splitlines()
    plain, heard = (
        sum(line.startswith(f"| {name} |") for line in lines)
        for name in ("fv2es-mosei", "fv2es-mosei, speech recognised")
    )
    assert plain == heard > 0


def test_one_command_makes_all(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    output = tmp_path / "report"
    assert main([str(records), "--output", str(output), "--readme", str(readme)]) == 0, capsys.readouterr().err
    report = (output / "report.md").read_text()
    for needed in (
        "AMD" if "AMD" in report else "cores of",
        "ab" * 32,
        "onnxruntime",
        "x7.00",
        "| 4.5 s | 0 |",
        "1 ServerOverloaded",
    ):
        assert needed in report
    pictures = sorted(output.glob("*.png"))
    assert [each.stem.rpartition("-")[2] for each in pictures] == ["steps", "memory", "sizes", "stages", "cost"]
    for each in pictures:
        pixels = image.imread(each)  # [height, width, 4]
        assert min(pixels.shape[:2]) > 250
        assert pixels.std() > 0.01
        assert f"]({each.name})" in report
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| weights | side by side")
    assert text.endswith(f"{END}\nafter\n")
    assert "x7.00" in text
    assert "old" not in text


def test_a_server_elsewhere_has_no_made_up_figures(tmp_path: Path) -> None:
    there = streamed(FILM, 0, 0.3, 10**9) | {"server_is_here": False}
    for key in ("cpu_s", "peak_bytes", "memory_at_s", "memory_bytes", "faces_cpu_s", "acoustic_cpu_s", "server_cpu_s"):
        del there[key]
    write_record(tmp_path / "x.json", kind="long_video", settings={}, materials=[FILM], measurements=[there])
    assert main([str(tmp_path), "--output", str(tmp_path / "report")]) == 0
    report = (tmp_path / "report" / "report.md").read_text()
    assert "The server ran elsewhere" in report
    assert "| 60 s of 1080p30 H.264 | 0.188 | - | - | - (client 0.09 GB) | 3.5 s | 0 |" in report
    assert ratios(read_record(tmp_path / "x.json")) == []


def test_the_readme_is_made_from_what_is_committed() -> None:
    """After new records: make bench-report."""
    text = (ROOT / "README.md").read_text()
    assert with_table(text, readme_table(records_in([RESULTS]))) == text


@pytest.mark.parametrize("text", ["nothing", f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_markers_have_to_be_there(text: str, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    assert main([str(records), "--output", str(tmp_path / "report"), "--readme", str(readme)]) == 1
    assert "benchmarks: begin" in capsys.readouterr().err
    assert readme.read_text() == text


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "missing"), "--output", str(tmp_path)]) == 2
    assert "make bench" in capsys.readouterr().err
    (tmp_path / "x.json").write_text("{}")
    assert main([str(tmp_path), "--output", str(tmp_path)]) == 1
    assert "not a record" in capsys.readouterr().err


def test_without_records() -> None:
    assert readme_table([]) == NOT_MEASURED


def test_names_of_films() -> None:
    assert (
        film_name({"duration_s": 3600.0, "height_px": 2160, "frames_per_s": 30.0, "codec": "hevc"})
        == "60 min of 2160p30 HEVC"
    )
