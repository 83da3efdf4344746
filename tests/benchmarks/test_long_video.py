"""One short film through a real server, and the floors."""

from pathlib import Path

import pytest

from benchmarks.floor import decode_floor, product_floor
from benchmarks.long_video import main
from benchmarks.record import read_record
from fv2es import EmbeddedServer


@pytest.mark.server
def test_measures_a_film(server: EmbeddedServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "record.json"
    arguments = ["--heights", "180", "--minutes", "0.2", "--folder", str(tmp_path), "--output", str(output)]
    arguments += ["--also", "180:h264:0.2"]  # the same again: measured once
    assert main([*arguments, "--server", server.address]) == 0, capfd.readouterr().err
    record = read_record(output)
    (film,), (measured,) = record["materials"], record["measurements"]
    assert record["kind"] == "long_video"
    assert measured["material"] == film["name"] == "astronaut-180p30-h264-12s"
    assert (measured["video_s"], measured["scored_s"]) == (12, pytest.approx(12))
    assert (measured["utterances"], measured["utterances_lost"]) == (3, 0)
    assert measured["first_utterance_s"] <= measured["wall_s"] <= measured["process_wall_s"]
    assert (measured["emotion_requests"], measured["acoustic_rows"]) == (2, 32)
    assert 10 <= measured["visual_rows"] <= 25  # of 25 frames, those with a face
    assert measured["faces_compute_s"] > 0
    nets = ("acoustic", "visual", "text", "fusion", "speech")
    processes = ("gate", "tritonserver", "faces", "mel", "tokenizer", "manifest", *nets)
    by_process_s = [measured[f"{each}_cpu_s"] for each in processes]
    assert min(by_process_s) >= 0
    assert sum(by_process_s) == pytest.approx(measured["server_cpu_s"])
    assert measured["server_cpu_s"] >= measured["faces_cpu_s"] > 0
    assert 20e6 < measured["client_peak_bytes"] < 500e6
    assert measured["client_peak_bytes"] + measured["server_peak_bytes"] >= measured["peak_bytes"]
    assert max(measured["memory_bytes"]) == measured["peak_bytes"]
    assert measured["logits_sha256"] != ""


@pytest.mark.server
def test_says_that_a_server_is_elsewhere(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without /proc there is neither processor time nor memory of the server, and nothing pretends that there is."""
    monkeypatch.setattr("benchmarks.long_video.LOCAL", ())
    output = tmp_path / "record.json"
    arguments = ["--heights", "180", "--minutes", "0.2", "--folder", str(tmp_path), "--output", str(output)]
    assert main([*arguments, "--server", server.address]) == 0
    (measured,) = read_record(output)["measurements"]
    assert measured["server_is_here"] is False
    assert measured["client_cpu_s"] > 0
    assert not {"cpu_s", "peak_bytes", "faces_cpu_s", "server_cpu_s"} & measured.keys()


def test_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--codecs", "mpeg1", "--folder", str(tmp_path), "--output", str(tmp_path / "x.json")]) == 2
    assert "mpeg1" in capsys.readouterr().err


def test_nobody_answers(nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--heights", "64", "--minutes", "0.1", "--folder", str(tmp_path), "--output", str(tmp_path / "x.json")]
    assert main([*arguments, "--server", nobody]) == 1
    assert nobody in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


def test_floors(astronaut: Path) -> None:
    decoded, product = decode_floor(astronaut, 12.0), product_floor(28.0)
    assert 0 < float(decoded["floor_decode_cpu_s_per_s"]) < 1
    assert float(product["floor_product_gflop_per_s"]) > 1
    assert product["floor_product_wall_s_per_s"] == pytest.approx(28.0 / float(product["floor_product_gflop_per_s"]))
