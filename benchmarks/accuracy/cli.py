"""The command `python -m benchmarks.accuracy {visual|acoustic|text} DATA`."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from benchmarks.accuracy.data import Labelled, read_comments, read_faces, read_speech
from benchmarks.accuracy.measure import OnRows, measure
from benchmarks.accuracy.plot import ENDINGS, write_plot
from benchmarks.accuracy.served import Served
from benchmarks.command import say, status_of
from fv2es import EmbeddedServer
from fv2es.console import UNTRAINED
from fv2es.errors import UsageError
from fv2es.files import check_writable, write_whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: what follows the module's name on the command line; None: taken from the process.

    Returns:
        0 done, 1 the work failed, 2 bad usage, 3 done with some rows lost (named), 130 interrupted.
    """
    options = _parser().parse_args(argv)
    return status_of(lambda errors: bool(_run(options, errors)["lost"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description="Run labelled data through the served models, and print scores as JSON.",
    )
    parser.add_argument("branch", choices=("visual", "acoustic", "text"))
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="visual: an .npz of FER2013; acoustic: the folder of EmoDB; text: a .tsv of GoEmotions with labels.txt beside it",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="a running Triton's gRPC (default: $FV2ES_SERVER, or an embedded one, started and stopped)",
    )
    where.add_argument("--repository", type=Path, metavar="DIR", help="model repository for the embedded Triton")
    parser.add_argument("--speakers", metavar="LIST", help="acoustic: only these, such as 03,08")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the JSON to a file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"draw the report: {' or '.join(ENDINGS)}")
    return parser


def _run(options: argparse.Namespace, errors: Console) -> dict[str, Any]:
    if options.output:
        check_writable(options.output, (".json",))
    if options.plot:
        check_writable(options.plot, ENDINGS)
    data = _read(options)
    with contextlib.ExitStack() as stack:
        address = _address(options, errors, stack)
        served = stack.enter_context(Served(address))
        with _progress_bar(errors, options.branch) as on_rows:
            report = measure(data, options.branch, served, on_rows=on_rows)
    text = json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    if options.output:
        write_whole(options.output, text.encode())
    if options.plot:
        write_plot(options.plot, report)
    sys.stdout.write(text)
    _say_doubts(report, errors)
    return report


def _read(options: argparse.Namespace) -> Labelled[Any]:
    if options.branch == "acoustic":
        return read_speech(options.data, speakers=options.speakers.split(",") if options.speakers is not None else ())
    if options.speakers is not None:
        raise UsageError(f"--speakers belongs to acoustic, not to {options.branch}; leave it out")
    return read_faces(options.data) if options.branch == "visual" else read_comments(options.data)


def _address(options: argparse.Namespace, errors: Console, stack: contextlib.ExitStack) -> str:
    """That of the named server, else of an embedded one, which the stack will stop."""
    named: str | None = options.server or (None if options.repository else os.environ.get("FV2ES_SERVER"))
    if named:
        return named
    server = EmbeddedServer(options.repository, on_event=lambda line: say(errors, "server", line))
    with errors.status("starting the embedded Triton") if errors.is_terminal else contextlib.nullcontext():
        stack.callback(server.stop)
        return server.start().address


@contextlib.contextmanager
def _progress_bar(console: Console, name: str) -> Iterator[OnRows]:
    """A bar on a terminal, nothing elsewhere; gives what is to be called with the progress."""
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _say_doubts(report: dict[str, Any], errors: Console) -> None:
    """What a reader of the figures must know, for people."""
    if not report["model"]["trained"]:
        errors.print(Text(UNTRAINED, style="bold white on red"), soft_wrap=True)
    elif not report["calibration"]["from_manifest"]:
        say(
            errors,
            "note",
            "the manifest has no calibration of this branch: rates and thresholds of 0.5 stand in, ECE suffers",
        )
    for each in report["data"]["left_out"]:
        say(errors, "note", f"{each['rows']} rows left out: {each['reason']}")
    for each in report["lost"]:
        say(errors, "lost", f"{each['row']}: {each['reason']}")
