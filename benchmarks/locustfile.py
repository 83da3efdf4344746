"""Locust users that analyse films through the SDK. Usually started by `python -m benchmarks.load`.

Alone, also in Locust's own web page without `--headless`:

    PYTHONPATH=. locust -f benchmarks/locustfile.py --headless --server 127.0.0.1:8001 --film FILM --steps 1,2,4 --event-log events.jsonl

Closed loop: each user begins a film when its last one is done. Open loop (`--open-loop`): films begin by chance at a mean rate,
whether or not others are done, and their times count from when they should have begun, so that waiting is not hidden.
"""

import atexit
import json
import os
import random
import secrets
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, TextIO

import gevent
import grpc.experimental.gevent
import locust.stats
from gevent.pool import Group
from locust import LoadTestShape, User, events, task

from fv2es import Client, ClientRule, Fv2esError, SpeechRule
from fv2es.errors import UtterancesLost
from fv2es.result import LostUtterance

grpc.experimental.gevent.init_gevent()  # for this process alone: the SDK knows nothing of gevent
locust.stats.bucket_response_time = round  # Locust keeps two digits, which would make every percentile a round number


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: ArgumentParser) -> None:
    """What to ask, whom, and how often."""
    parser.add_argument("--server", required=True, help="HOST:PORT of the server's gRPC")
    parser.add_argument("--film", type=Path, required=True, help="what each user analyses")
    parser.add_argument(
        "--event-log", type=Path, required=True, help="file to write: one JSON object for each utterance and film"
    )
    parser.add_argument(
        "--steps", default="1", help="numbers of users, or of films a minute, one after the other: 1,2,4,8"
    )
    parser.add_argument("--step-seconds", type=float, default=60.0, help="length of each step")
    parser.add_argument("--open-loop", action="store_true", help="--steps are mean rates of films a minute")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals")
    parser.add_argument(
        "--timeout",
        type=float,
        default=300.0,
        help="seconds for which a clip is sent again that the server is too busy for",
    )
    parser.add_argument("--speech", action="store_true", help="recognise speech, which comes before scoring")


def steps_of(options: Any) -> list[float]:
    """Users, or films a minute, of each step."""
    return [float(each) for each in options.steps.split(",")]


class Log:
    """The events of a run, one JSON object a line; times are seconds on the clock of `time.monotonic`, which all processes share."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, event: str, **facts: Any) -> None:
        """Add a line at once: users may be stopped at any time."""
        self._file.write(json.dumps({"event": event, "at_s": time.monotonic(), **facts}) + "\n")
        self._file.flush()


class Films:
    """Analyses one film again and again, and tells Locust and the log."""

    def __init__(self, environment: Any) -> None:
        options = environment.parsed_options
        self._request = environment.events.request
        self._film, self._log = options.film, Log(options.event_log)
        self._server, self._rule = options.server, ClientRule(timeout_s=options.timeout)
        self._speech_rule = SpeechRule(recognise=options.speech)

    def analyse(self, scheduled_s: float) -> None:
        """One film, over a connection of its own; its time counts from `scheduled_s`, on the clock of `time.monotonic`."""
        name = secrets.token_hex(8)
        self._log.write("due", film=name, scheduled_s=scheduled_s)
        num_done = num_lost = 0
        error: Fv2esError | None = None
        try:
            with Client(self._server, rule=self._rule, speech_rule=self._speech_rule) as client:
                for item in client.stream(self._film):
                    if not num_done:
                        self._report("first", name, scheduled_s, None)
                    lost = item.error if isinstance(item, LostUtterance) else None
                    num_done, num_lost = num_done + 1, num_lost + (lost is not None)
                    self._log.write("utterance", film=name, length_s=item.end_s - item.start_s, error=lost)
            if num_lost:
                error = UtterancesLost(str(self._film), [])
        except Fv2esError as failure:
            error = failure
        self._report("film", name, scheduled_s, error)

    def _report(self, event: str, film: str, scheduled_s: float, error: Fv2esError | None) -> None:
        response_s = time.monotonic() - scheduled_s
        self._log.write(event, film=film, response_s=response_s, error=type(error).__name__ if error else None)
        self._request.fire(
            request_type="gRPC",
            name={"first": "first utterance", "film": "film"}[event],
            response_time=1000 * response_s,
            response_length=0,
            exception=error,
            context={},
        )


class FilmUser(User):  # type: ignore[misc]  # Locust is untyped here
    """Closed loop: one film after the other. Open loop: the one user from whom all arrivals come."""

    def on_start(self) -> None:
        """Locust begins with this user."""
        self._films = Films(self.environment)

    @task  # type: ignore[untyped-decorator]
    def films(self) -> None:
        """A film; or in the open loop, all of them."""
        options = self.environment.parsed_options
        if not options.open_loop:
            self._films.analyse(time.monotonic())
            return
        arrivals(self._films, steps_of(options), options.step_seconds, random.Random(options.seed))  # noqa: S311 - no secret
        self.environment.runner.quit()


def arrivals(films: Films, per_minute: list[float], step_s: float, chance: random.Random) -> None:
    """Begin films as a Poisson process, at each mean rate for a step; ends when all are done."""
    begun = Group()
    due_s = time.monotonic()
    for rate in per_minute:
        until_s = due_s + step_s
        while (due_s := due_s + chance.expovariate(rate / 60)) < until_s:
            gevent.sleep(max(0.0, due_s - time.monotonic()))
            begun.spawn(films.analyse, due_s)
        due_s = until_s
    begun.join()


class Steps(LoadTestShape):  # type: ignore[misc]
    """As many users as `--steps` says, each for `--step-seconds`; the open loop needs one user, who says when it is over."""

    def tick(self) -> tuple[int, float] | None:
        """Users now and how many to start in a second; None: the end."""
        options = self.runner.environment.parsed_options
        if options.open_loop:
            return 1, 1.0
        users = [int(each) for each in steps_of(options)]
        step = int(self.get_run_time() // options.step_seconds)
        if step >= len(users):
            return None
        return users[step], 100.0


@events.test_start.add_listener  # type: ignore[untyped-decorator]
def say_when(environment: Any, **_: Any) -> None:
    """The first line of the log: when the first step began."""
    Log(environment.parsed_options.event_log).write("start")


@events.test_stop.add_listener  # type: ignore[untyped-decorator]
def let_csv_be_written(**_: Any) -> None:
    """Locust writes its CSV files now and then, and not at the end: the last films would be missing."""
    gevent.sleep(locust.stats.CSV_STATS_INTERVAL_SEC + 0.5)


@events.quit.add_listener  # type: ignore[untyped-decorator]
def end_for_certain(exit_code: int, **_: Any) -> None:
    """Without this a connection that Python frees in its last moments waits for ever for the loop of gevent, which has ended."""
    atexit.register(_end, exit_code)


def _end(exit_code: int) -> None:
    """What Python does at its end, up to freeing what is left."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
