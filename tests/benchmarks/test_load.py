"""The load command's arithmetic on written events, and a short run of Locust against a real server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.load.cli import main
from benchmarks.load.outcome import Step, outcome, read_events, server_shares, steps_of
from benchmarks.record import read_record


def event(kind: str, at_s: float, **facts: Any) -> dict[str, Any]:
    return {"event": kind, "at_s": at_s, **facts}


STEP = Step(level=2, start_s=100.0, end_s=140.0)
"""Measured from 110 on."""


def test_throughput_counts_what_came_in_the_measured_part():
    events = [
        event("utterance", at_s, film="a", length_s=10.0, error=error)
        for at_s, error in ((105, None), (110, None), (139, None), (140, None), (120, "DeadlineExceeded"))
    ]
    found = outcome(STEP, events, open_loop=True)
    assert found["video_s_per_s"] == pytest.approx(20 / 30)
    assert found["utterances"] == 2


def film(name: str, due_s: float, done_s: float | None, error: str | None = None) -> Iterator[dict[str, Any]]:
    """Lines of one film: due, first utterance after half of its time, done."""
    yield event("due", due_s, film=name, scheduled_s=due_s)
    if done_s is not None:
        took_s = done_s - due_s
        yield event("first", due_s + took_s / 2, film=name, response_s=took_s / 2, error=None)
        yield event("film", done_s, film=name, response_s=took_s, error=error)


def test_times_are_of_films_that_were_due_however_late_they_came():
    events = [
        *film("before", 105, 120),
        *(line for index in range(100) for line in film(f"good {index}", 110 + index * 0.1, 111 + index * 1.1)),
        *film("late", 139, 500),
        *film("failed", 120, 130, "ServerUnreachable"),
        *film("never", 125, None),
        *film("after", 140, 141),
    ]
    found = outcome(STEP, events, open_loop=True)
    assert (found["films"], found["films_done"]) == (103, 101)
    assert found["film_p50_s"] == pytest.approx(51)
    assert found["film_p99_s"] == pytest.approx(100)
    assert found["first_utterance_p50_s"] == pytest.approx(25.25)
    assert dict(zip(found["error_classes"], found["error_counts"], strict=True)) == {
        "ServerUnreachable": 1,
        "Unfinished": 1,
    }


def test_times_of_a_closed_loop_are_of_films_that_ended_in_the_measured_part():
    events = [
        *film("early", 100, 109),
        *film("long", 90, 111),
        *film("failed", 112, 120, "ModelUnavailable"),
        *film("late", 130, 140),
    ]
    found = outcome(STEP, events, open_loop=False)
    assert (found["films"], found["films_done"]) == (2, 1)
    assert found["film_p99_s"] == pytest.approx(21)
    assert (found["error_classes"], found["error_counts"]) == (["ModelUnavailable"], [1])


def test_nothing_gives_no_percentiles():
    found = outcome(STEP, [], open_loop=False)
    assert found["film_p99_s"] is None
    assert found["video_s_per_s"] == 0
    assert found["error_classes"] == []


def test_utterances_that_were_lost_are_told_by_class():
    events = [*film("a", 120, 130), event("utterance", 125, film="a", length_s=1.0, error="ServerOverloaded")]
    found = outcome(STEP, events, open_loop=True)
    assert (found["lost_classes"], found["lost_counts"]) == (["ServerOverloaded"], [1])


def test_steps_follow_each_other():
    steps = steps_of([event("start", 7.0)], [1, 2], 60)
    assert [(each.level, each.start_s, each.end_s) for each in steps] == [(1, 7, 67), (2, 67, 127)]
    assert steps[0].measured_from_s == 22


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "start", "at_s": 1.0}\n{"event": "due", "at')
    assert read_events(path) == [event("start", 1.0)]


def test_shares_of_models_are_means_between_two_readings():
    second = 10**9
    found = server_shares(
        {"faces": (10, 5 * second, 20 * second)},
        {"faces": (14, 7 * second, 40 * second), "mel": (2, 0, second), "speech": (0, 0, 0)},
    )
    assert found["models"] == ["faces", "mel"]
    assert found["model_requests"] == [4, 2]
    assert found["model_queue_mean_s"] == [0.5, 0]
    assert found["model_work_mean_s"] == [5, 0.5]


@pytest.mark.parametrize("steps", ["x", "0", "1,-2"])
def test_steps_must_be_numbers_above_zero(steps: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["--clients", steps])
    assert caught.value.code == 2
    assert repr(steps) in capsys.readouterr().err


@pytest.mark.server
@pytest.mark.parametrize(("loop", "level"), [("--clients", "clients"), ("--films-per-minute", "films_per_minute")])
def test_locust_loads_a_server(loop: str, level: str, server, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    steps = {"--clients": "1,3", "--films-per-minute": "30,60"}[loop]
    output = tmp_path / "load"
    film = ["--height", "180", "--length", "2"]
    assert main([loop, steps, "--step-seconds", "8", *film, "--server", server.address, "--output", str(output)]) == 0
    record = read_record(output.with_suffix(".json"))
    *by_step, whole = record["measurements"]
    assert [each[level] for each in by_step] == [float(each) for each in steps.split(",")]
    for each in by_step:
        assert each["error_classes"] == each["lost_classes"] == []
        assert each["films_done"] == each["films"] > 0
        assert each["video_s_per_s"] > 0
        assert 0 < each["first_utterance_p50_s"] <= each["film_p50_s"]
        assert each["server_processors"] > 0
    assert {"faces", "acoustic", "fusion"} <= set(whole["models"])
    assert whole["server_peak_bytes"] > 100e6
    assert "video-s/s" in capsys.readouterr().out
    assert "first utterance" in output.with_suffix(".html").read_text()
    times = (tmp_path / "load_stats.csv").read_text().splitlines()
    assert len(times) == 4  # a heading, films, first utterances, both
    assert json.loads(output.with_suffix(".json").read_text())["kind"] == "load"
