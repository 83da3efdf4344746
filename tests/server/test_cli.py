"""The command as people and scripts use it."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fv2es import EmbeddedServer
from fv2es.cli import BAD_USAGE, DONE, FAILED, SOME_LOST, main
from fv2es.console import UNTRAINED
from fv2es.embedded import SHARED_MEMORY

pytestmark = pytest.mark.server


def fv2es(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fv2es.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, **options)


def test_timeline_in_a_pipe(server: EmbeddedServer, astronaut: Path, astronaut_srt: Path):
    run = fv2es("analyze", astronaut, "--transcript", astronaut_srt, "--server", server.address)
    assert run.returncode == DONE
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert lines[0].startswith(f"{astronaut}  0:12.0")
    assert UNTRAINED not in run.stdout
    assert lines[1].startswith("  0:00.30-0:04.60  happiness ")
    assert lines[1].endswith("[text visual acoustic; faces 9/9]  I am so happy that this flight went well.")
    assert "\x1b" not in run.stdout
    assert any(line.startswith("  overall: ") for line in lines)


def test_files_of_several_sources(server: EmbeddedServer, astronaut: Path, tmp_path: Path):
    again = tmp_path / "again.mp4"
    again.write_bytes(astronaut.read_bytes())
    for name in ("out.json", "out.csv"):
        run = fv2es("analyze", astronaut, again, "--no-speech", "--server", server.address, "--output", tmp_path / name)
        assert run.returncode == DONE, run.stdout + run.stderr
    one, two = json.loads((tmp_path / "out.json").read_text())
    assert one["utterances"] == two["utterances"]
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [float(each["start_s"]) for each in rows] == [0, 5, 10] * 2
    assert float(rows[0]["happiness"]) == pytest.approx(one["utterances"][0]["probabilities"]["happiness"], abs=1e-6)
    assert [each["text_present"] for each in rows] == ["0"] * 6
    assert sorted(each.name for each in tmp_path.iterdir()) == ["again.mp4", "out.csv", "out.json"]


def test_bad_file_does_not_stop_the_others(server: EmbeddedServer, astronaut: Path, tmp_path: Path):
    bad, output = tmp_path / "bad file.mp4", tmp_path / "out.json"
    bad.write_text("no film")
    run = fv2es("analyze", bad, "--server", server.address, tmp_path / "gone.mp4", "--output", output, astronaut)
    assert run.returncode == SOME_LOST
    assert f"error: {bad}: " in run.stderr
    assert f"error: {tmp_path / 'gone.mp4'}: " in run.stderr
    assert json.loads(output.read_text())["source"]["path"] == str(astronaut)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.mp4", "--output", "out.docx"], "must end in one of .json, .csv"),
        (["a.mp4", "--output", "no/such/out.json"], "no such folder"),
        (["a.mp4", "--output", "out.csv", "--output", "no/such/out.json"], "no such folder"),
        (["a.mp4", "--output", "/proc/out.json"], "no file can be made there"),
        (["a.mp4", "b.mp4", "--output", "out.srt"], "belongs to one source, but 2 are given"),
        (["a.mp4", "--output", "out.csv", "--output", "./out.csv"], "is given as --output twice"),
        (["a.mp4", "--transcript", "new.srt", "--output", "./new.srt"], "is read by this very command"),
        (["a.mp4", "--output", "out.json", "--key-frames"], "add --output FILE.html"),
        (["a.mp4", "b.mp4", "--transcript", "a.srt"], "belongs to one source"),
        (["a.mp4", "--server", "nowhere"], "must be HOST:PORT"),
        (["a.mp4", "--window", "0"], "window_s=0"),
        (["a.mp4", "--language", "english"], "language='english' must be a code"),
    ],
)
def test_bad_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["analyze", *arguments]) == BAD_USAGE
    assert message in " ".join(capsys.readouterr().err.split())


def test_no_server_fails(unused_port: int, astronaut: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["analyze", str(astronaut), "--server", f"127.0.0.1:{unused_port}"]) == FAILED
    assert f"127.0.0.1:{unused_port}" in capsys.readouterr().err


def test_embedded_analysis_leaves_nothing(astronaut: Path):
    command = [sys.executable, "-m", "fv2es.cli", "analyze", str(astronaut)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        output = run.stdout.read()
    assert run.returncode == DONE
    assert "overall" in output
    marks = f"fv2es-{run.pid}-"
    assert not [each for each in Path("/proc").glob("[0-9]*/cmdline") if marks in _text(each)]
    assert not list(SHARED_MEMORY.glob(f"{marks}*"))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has ended meanwhile
        return ""


def test_serve_until_told_to_stop(repository: Path):
    command = [sys.executable, "-m", "fv2es.cli", "serve", "--grpc-port=0", "--http-port=0", "--metrics-port=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as serve:
        assert "Triton is ready: gRPC 127.0.0.1:" in serve.stderr.readline()
        serve.send_signal(signal.SIGTERM)
        assert "stopping" in serve.stderr.read()
    assert serve.returncode == DONE


def test_doctor(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor"]) == DONE
    report = capsys.readouterr().out
    for subject in ("Python", "decoders", "embedded Triton", "weights", "shared memory", "NVIDIA GPU"):
        assert subject in report
    assert "missing" not in report
