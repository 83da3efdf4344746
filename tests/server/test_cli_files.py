"""Result files of the command, where the way there is not smooth."""

import functools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import html5lib
import jsonschema
import pytest

import fv2es
from fv2es import Client, ClientRule, EmbeddedServer, cli
from fv2es.cli import DONE, FAILED

pytestmark = pytest.mark.server

ROOT = Path(__file__).resolve().parents[2]
READER_LEFT = 141
"""128 + SIGPIPE, as of a program that the signal ended."""


def fv2es_command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fv2es.cli", "analyze", *map(str, arguments)]


def run(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(fv2es_command(*arguments), capture_output=True, text=True, timeout=110, **options)


def form(value: object) -> object:
    """Keys and types, without values; lists by their first item."""
    if isinstance(value, dict):
        return {key: form(each) for key, each in value.items()}
    if isinstance(value, list):
        return [form(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_a_result_has_the_form_of_the_one_that_tests_use(server: EmbeddedServer, astronaut: Path, astronaut_srt: Path):
    with Client(server.address) as client:
        new = json.loads(json.dumps(client.analyze(astronaut, transcript=astronaut_srt).to_dict()))
    kept = json.loads((ROOT / "tests" / "client" / "results" / "astronaut.json").read_text())
    assert form(new) == form(kept)
    assert len(new["utterances"]) == len(kept["utterances"])
    schema = json.loads((ROOT / "client" / "fv2es" / "schema" / "result-1.json").read_text())
    jsonschema.validate(new, schema)


def test_all_forms_at_once(server: EmbeddedServer, astronaut: Path, astronaut_srt: Path, tmp_path: Path):
    names = [f"out.{each}" for each in ("json", "csv", "parquet", "srt", "vtt", "eaf", "rttm", "html")]
    outputs = [f"--output={tmp_path / name}" for name in names]
    done = run(astronaut, "--transcript", astronaut_srt, "--server", server.address, *outputs, "--key-frames")
    assert done.returncode == DONE, done.stderr
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(names)
    (result,) = fv2es.read_results(tmp_path / "out.json")
    assert len(result.utterances) == 3
    page = html5lib.parse((tmp_path / "out.html").read_text(), namespaceHTMLElements=False)
    assert len(list(page.iter("img"))) == 3


@pytest.mark.parametrize("with_output", [True, False])
def test_a_reader_who_leaves_loses_no_result(
    server: EmbeddedServer, astronaut: Path, tmp_path: Path, with_output: bool
):
    again = tmp_path / "again.mp4"
    again.write_bytes(astronaut.read_bytes())
    reader, writer = os.pipe()
    os.close(reader)
    output = [f"--output={tmp_path / 'out.json'}"] if with_output else []
    try:
        command = fv2es_command(astronaut, again, "--chart", "--server", server.address, *output)
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=110)
    finally:
        os.close(writer)
    assert done.returncode == (DONE if with_output else READER_LEFT)
    if with_output:
        assert done.stderr == f"written: {tmp_path / 'out.json'}\n"
        assert len(fv2es.read_results(tmp_path / "out.json")) == 2
    else:
        assert done.stderr == ""


def test_a_full_disk_at_standard_output_loses_no_result(server: EmbeddedServer, astronaut: Path, tmp_path: Path):
    with Path("/dev/full").open("w") as full:
        command = fv2es_command(astronaut, "--server", server.address, "--output", tmp_path / "out.json")
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=110)
    assert done.returncode == FAILED
    assert done.stderr.startswith("error: the timeline can't be printed: [Errno 28]")
    assert len(fv2es.read_results(tmp_path / "out.json")) == 1


def test_a_server_that_is_lost_costs_only_what_is_not_done(
    astronaut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    again = tmp_path / "again.mp4"
    again.write_bytes(astronaut.read_bytes())
    monkeypatch.setattr(cli, "ClientRule", functools.partial(ClientRule, recovery_s=0.5))  # less patience
    with EmbeddedServer() as own:

        def show_and_stop(*_: object) -> None:
            own.stop()

        monkeypatch.setattr(cli, "show_result", show_and_stop)  # so after the first source
        status = cli.main(
            ["analyze", str(astronaut), str(again), "--server", own.address, "--output", str(tmp_path / "out.json")]
        )
    assert status == FAILED
    said = capsys.readouterr().err
    assert "written: " in said
    assert "error: 127.0.0.1:" in said
    assert len(fv2es.read_results(tmp_path / "out.json")) == 1


def small_files_only() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))


def test_a_full_disk_costs_the_files_that_do_not_fit(server: EmbeddedServer, astronaut: Path, tmp_path: Path):
    (tmp_path / "out.json").write_text("old")
    outputs = [f"--output={tmp_path / name}" for name in ("out.json", "out.csv")]
    done = run(astronaut, "--no-speech", "--server", server.address, *outputs, preexec_fn=small_files_only)
    assert done.returncode == FAILED
    assert f"error: {tmp_path / 'out.json'} was not written: [Errno 27] File too large" in done.stderr
    assert "nor could the results be kept in" in done.stderr
    assert (tmp_path / "out.json").read_text() == "old"
    assert (tmp_path / "out.csv").read_text().count("\n") == 4
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.csv", "out.json"]


NAMES: list[tuple[str, Callable[[str], list[str]]]] = [
    ("-film 'a' \"b\".mp4", lambda name: ["--", name]),
    ("-film.mp4", lambda name: [f"./{name}"]),
    ("film \x1b[31m\nü 今 😀.mp4", lambda name: [name]),
    (os.fsdecode(b"caf\xe9.mp4"), lambda name: [name]),
]


@pytest.mark.parametrize(("name", "given"), NAMES)
def test_any_file_name(
    server: EmbeddedServer, astronaut: Path, tmp_path: Path, name: str, given: Callable[[str], list[str]]
):
    (tmp_path / name).write_bytes(astronaut.read_bytes())
    outputs = [f"--output=-{name[:4]}.{ending}" for ending in ("json", "csv", "rttm", "eaf", "html")]
    done = run("--no-speech", "--server", server.address, *outputs, "--key-frames", *given(name), cwd=tmp_path)
    assert done.returncode == DONE, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    (result,) = fv2es.read_results(tmp_path / f"-{name[:4]}.json")
    assert (tmp_path / fv2es.files.as_json.source_path(result)).samefile(tmp_path / name)
    page = html5lib.parse((tmp_path / f"-{name[:4]}.html").read_text(), namespaceHTMLElements=False)
    assert len(list(page.iter("img"))) == 3  # so the file was found again
    with Path(tmp_path / f"-{name[:4]}.rttm").open() as lines:
        assert all(len(line.split()) == 10 for line in lines)


def test_the_chart_in_a_pipe(server: EmbeddedServer, astronaut: Path):
    done = run(astronaut, "--chart", "--server", server.address, env=os.environ | {"COLUMNS": "60"})
    assert done.returncode == DONE
    assert "\x1b" not in done.stdout
    rows = done.stdout.splitlines()[-9:]
    assert rows[0].startswith("  anger     ")
    assert max(map(len, rows)) == 60
    assert "0:05" in rows[-1]
