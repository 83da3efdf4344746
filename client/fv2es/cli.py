"""The command `fv2es`."""

import argparse
import contextlib
import importlib.metadata
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fv2es import batch as batches
from fv2es.analysis import ClientRule
from fv2es.batch import Batch, BatchRule, check_batch
from fv2es.client import Client
from fv2es.console import PatientConsole, progress_bar, show_chart, show_outcome, show_result, summary
from fv2es.doctor import examine
from fv2es.embedded import EmbeddedServer
from fv2es.errors import Fv2esError, ServerError, UsageError
from fv2es.files import FORMATS, check_output, write_results
from fv2es.plain import printable
from fv2es.result import Result
from fv2es.sources import Source, find_sources
from fv2es.speech import SpeechRule
from fv2es.track import TrackRule
from fv2es.utterances import UtteranceRule

DONE, FAILED, BAD_USAGE, SOME_LOST = 0, 1, 2, 3
"""Exit statuses."""

BUILDER_COMMANDS = {
    "build": "turn weights into verified engines in a model repository (needs fv2es[build])",
    "plans": "build a gpu repository's TensorRT plans on the GPU that will serve it",
}
"""Commands that live in the package of the builders, which this one does not import."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in BUILDER_COMMANDS:
        return _run_builder(arguments[0], arguments[1:])
    parser, commands = _parsers()
    if arguments and arguments[0] in commands:
        # Not through the subparser itself: that takes no sources after an option that follows sources.
        options = commands[arguments[0]].parse_intermixed_args(_without_separator(arguments[1:]))
    else:
        options = parser.parse_args(arguments)
    errors = PatientConsole(stderr=True)
    try:
        status: int = options.run(options, errors)
    except UsageError as error:
        _say_error(errors, error)
        return BAD_USAGE
    except (Fv2esError, OSError) as error:
        _say_error(errors, error)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return status


def _without_separator(arguments: list[str]) -> list[str]:
    """Names after `--` made such that they can't be options, since parse_intermixed_args takes no sources after it."""
    if "--" not in arguments:
        return arguments
    at = arguments.index("--")
    return arguments[:at] + [f"./{each}" if each.startswith("-") else each for each in arguments[at + 1 :]]


def _say_error(console: Console, error: Exception | str) -> None:
    console.print(Text.assemble(("error: ", "bold red"), printable(str(error))), soft_wrap=True)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the command line, and those of the commands by name."""
    parser = argparse.ArgumentParser(prog="fv2es", description="Emotion timelines from video.")
    parser.add_argument("--version", action="version", version=f"fv2es {importlib.metadata.version('fv2es')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    analyze = commands.add_parser("analyze", help="print the emotion timeline of media files")
    analyze.add_argument("sources", nargs="*", metavar="SOURCE", help="media file, folder, or pattern in quotes")
    analyze.add_argument(
        "--list",
        action="append",
        default=[],
        dest="lists",
        metavar="FILE",
        help="file that names sources, one a line; - is the standard input",
    )
    analyze.add_argument(
        "--output",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help=f"also write a result file; may be given several times: {', '.join(FORMATS)}",
    )
    analyze.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="write a JSON file for each source there as soon as it is done, and a journal with which to go on",
    )
    analyze.add_argument(
        "--format",
        action="append",
        default=[],
        dest="formats",
        metavar="FORM",
        help="with --output-dir: also this form of file; may be given several times",
    )
    analyze.add_argument(
        "--resume", action="store_true", help="with --output-dir: go on with an earlier run, redo nothing that is done"
    )
    analyze.add_argument("--key-frames", action="store_true", help="show pictures of the source in the .html report")
    analyze.add_argument("--chart", action="store_true", help="print a chart over time as well")
    analyze.add_argument(
        "--transcript",
        type=Path,
        metavar="FILE",
        help="SRT, WebVTT, start<TAB>end<TAB>text in seconds, or JSON of Whisper or WhisperX",
    )
    analyze.add_argument(
        "--server",
        metavar="HOST:PORT",
        default=os.environ.get("FV2ES_SERVER"),
        help="a running Triton's gRPC (default: $FV2ES_SERVER, or an embedded one, started and stopped)",
    )
    analyze.add_argument("--repository", type=Path, metavar="DIR", help="model repository for the embedded Triton")
    analyze.add_argument(
        "--window",
        type=float,
        default=UtteranceRule().window_s,
        metavar="SECONDS",
        help="length of an utterance without words (default: %(default)g)",
    )
    analyze.add_argument(
        "--no-speech",
        action="store_true",
        help="recognise no speech: without transcript or subtitles, utterances are fixed windows",
    )
    analyze.add_argument("--no-subtitles", action="store_true", help="leave subtitles inside the file alone")
    analyze.add_argument(
        "--language",
        metavar="CODE",
        default="",
        help="language that is spoken, such as en (default: found out where the speech model knows several)",
    )
    analyze.add_argument(
        "--step",
        type=float,
        metavar="SECONDS",
        help="a finer track within utterances: windows of 2 s, or of SECONDS where that is more, every SECONDS",
    )
    analyze.add_argument(
        "--timeout",
        type=float,
        default=ClientRule().timeout_s,
        metavar="SECONDS",
        help="how long a clip is sent again while the server is too busy for it (default: %(default)g)",
    )
    analyze.set_defaults(run=_analyze)

    serve = commands.add_parser("serve", help="run the embedded Triton in the foreground, on loopback")
    serve.add_argument(
        "--repository", type=Path, metavar="DIR", help="model repository (default: the one that came along)"
    )
    for name, port in (("grpc", 8001), ("http", 8000), ("metrics", 8002)):
        serve.add_argument(
            f"--{name}-port", type=int, default=port, metavar="PORT", help="default: %(default)s; 0: any free one"
        )
    serve.set_defaults(run=_serve)

    plot = commands.add_parser("plot", help="draw a result's timeline (needs fv2es[plot])")
    plot.add_argument("result", type=Path, metavar="RESULT.json", help="what `fv2es analyze --output` wrote")
    plot.add_argument("--output", type=Path, metavar="FILE", help=".png or .svg (default: RESULT.png)")
    plot.set_defaults(run=_plot)

    doctor = commands.add_parser("doctor", help="say what this machine has, and what is missing")
    doctor.set_defaults(run=_doctor)

    for name, text in BUILDER_COMMANDS.items():
        commands.add_parser(name, help=text)
    return parser, {"analyze": analyze, "serve": serve, "plot": plot, "doctor": doctor}


def _analyze(options: argparse.Namespace, errors: Console) -> int:
    sources = find_sources(options.sources, options.lists)
    options.sources = [each.path for each in sources]
    if options.output_dir is None and (options.resume or options.formats):
        raise UsageError("--resume and --format belong to --output-dir DIR; add it, or leave them out")
    if options.output_dir is not None and options.output:
        raise UsageError(
            "--output FILE and --output-dir DIR exclude each other; choose one, --format adds forms to the latter"
        )
    batch_rule = _batch_rule(options, sources)
    if batch_rule is None:
        _check_outputs(options)
    if options.transcript and len(options.sources) > 1:
        raise UsageError(
            f"--transcript belongs to one source, but {len(options.sources)} are given; run them one by one"
        )
    rule = UtteranceRule(
        window_s=options.window,
        max_length_s=max(options.window, UtteranceRule().max_length_s),
        min_tail_s=min(0.5, options.window),
    )
    speech_rule = SpeechRule(
        recognise=not options.no_speech, subtitles=not options.no_subtitles, language=options.language
    )
    client_rule = ClientRule(timeout_s=options.timeout)
    track_rule = None
    if options.step is not None:
        track_rule = TrackRule(step_s=options.step, window_s=max(options.step, TrackRule().window_s))
    with contextlib.ExitStack() as stack:
        if options.server:
            address = options.server
        else:
            with errors.status("starting the embedded Triton") if errors.is_terminal else contextlib.nullcontext():
                server = EmbeddedServer(
                    options.repository,
                    on_event=lambda line: errors.print(f"server: {line}", style="yellow", soft_wrap=True),
                )
                stack.callback(server.stop)
                address = server.start().address
        client = stack.enter_context(
            Client(address, rule=client_rule, utterance_rule=rule, speech_rule=speech_rule, track_rule=track_rule)
        )
        if batch_rule is not None:
            return _analyze_batch(Batch(client, batch_rule, sources, transcript=options.transcript), options, errors)
        results: list[Result] = []
        console = PatientConsole()
        try:
            status = _analyze_all(options, client, console, errors, results)
        except ServerError:
            _write_outputs(options, results, errors)
            raise
    all_written = _write_outputs(options, results, errors)
    if status == FAILED or not all_written or not results:
        return FAILED
    if console.was_left and not options.output:
        return 128 + signal.SIGPIPE
    return SOME_LOST if any(each.lost for each in results) else status


def _batch_rule(options: argparse.Namespace, sources: Sequence[Source]) -> BatchRule | None:
    """Where results of many sources go; None without `--output-dir`. Refuses, before any work, what can't be written."""
    if options.output_dir is None:
        return None
    rule = BatchRule(
        folder=options.output_dir,
        formats=tuple(f".{each.lower().removeprefix('.')}" for each in options.formats),
        resume=options.resume,
        key_frames=options.key_frames,
    )
    check_batch(rule, sources, options.transcript)
    return rule


def _analyze_batch(batch: Batch, options: argparse.Namespace, errors: Console) -> int:
    console = PatientConsole()
    try:
        for outcome in batch.run(lambda name: progress_bar(errors, name)):
            if outcome.error:
                _say_error(errors, outcome.error)
            else:
                show_outcome(outcome, console)
                if options.chart and outcome.result:
                    show_chart(outcome.result, console)
    finally:
        if batch.outcomes:
            errors.print(Text(summary(batch.outcomes)), soft_wrap=True)
    states = {each.state for each in batch.outcomes}
    if states == {batches.FAILED}:
        return FAILED
    lost = any(each.result and each.result.lost for each in batch.outcomes)
    return SOME_LOST if lost or batches.FAILED in states else DONE


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse, before any work, result files that could not be written or would overwrite what is read."""
    if options.key_frames and not any(path.suffix.lower() == ".html" for path in options.output):
        raise UsageError("--key-frames shows pictures in a report; add --output FILE.html")
    read = {os.path.realpath(path) for path in (*options.sources, *filter(None, [options.transcript]))}
    written: set[str] = set()
    for path in options.output:
        check_output(path, num_sources=len(options.sources))
        real = os.path.realpath(path)
        if real in read:
            raise UsageError(f"{path} is read by this very command and would be overwritten; name another file")
        if real in written:
            raise UsageError(f"{path} is given as --output twice; name each file once")
        written.add(real)


def _write_outputs(options: argparse.Namespace, results: Sequence[Result], errors: Console) -> bool:
    """Write every result file that can be written; where one can't, the results are kept elsewhere. False if one failed."""
    if not results:
        return True
    written = []
    for path in options.output:
        try:
            write_results(path, results, key_frames=options.key_frames and path.suffix.lower() == ".html")
        except (Fv2esError, OSError) as error:
            _say_error(errors, f"{path} was not written: {error}")
        else:
            written.append(path)
            errors.print(Text(f"written: {printable(path)}"), soft_wrap=True)
    if len(written) == len(options.output):
        return True
    if not any(path.suffix.lower() == ".json" for path in written):
        try:
            kept = Path(tempfile.mkdtemp(prefix="fv2es-")) / "results.json"
            write_results(kept, results)
        except OSError as error:
            _say_error(errors, f"nor could the results be kept in {tempfile.gettempdir()}: {error}")
        else:
            errors.print(Text(f"the results are kept in {kept}"), soft_wrap=True)
    return False


def _analyze_all(
    options: argparse.Namespace, client: Client, console: PatientConsole, errors: Console, results: list[Result]
) -> int:
    """Append the results of all sources; SOME_LOST if one could not be analysed, FAILED if one could not be printed.

    One bad file does not stop the others; a server that can't be used does. A reader who leaves ends the work only where no
    result file waits for it.
    """
    status = DONE
    for source in options.sources:
        if console.was_left and not options.output:
            break
        try:
            with progress_bar(errors, Path(source).name) as on_progress:
                result = client.analyze(source, transcript=options.transcript, on_progress=on_progress)
        except (ServerError, UsageError):
            raise
        except Fv2esError as error:
            status = status or SOME_LOST
            _say_error(errors, error)
        else:
            results.append(result)
            try:
                show_result(result, console)
                if options.chart:
                    show_chart(result, console)
            except OSError as error:
                status = FAILED
                console.leave()
                _say_error(errors, f"the timeline can't be printed: {error}")
    return status


def _plot(options: argparse.Namespace, errors: Console) -> int:
    from fv2es.plot import plot

    target = options.output or options.result.with_suffix(".png")
    for note in plot(options.result, target):
        errors.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    errors.print(Text(f"written: {printable(target)}"), soft_wrap=True)
    return DONE


def _serve(options: argparse.Namespace, errors: Console) -> int:
    server = EmbeddedServer(
        options.repository,
        grpc_port=options.grpc_port,
        http_port=options.http_port,
        metrics_port=options.metrics_port,
        on_event=lambda line: errors.print(line, style="yellow", soft_wrap=True),
    )

    def on_signal(number: int, _: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, on_signal)
    try:
        server.start()
        errors.print(
            f"Triton is ready: gRPC 127.0.0.1:{server.grpc_port}, HTTP 127.0.0.1:{server.http_port}, "
            f"metrics http://127.0.0.1:{server.metrics_port}/metrics\nmodels of {server.repository}; log {server.log_path}; "
            "end with Ctrl-C",
            soft_wrap=True,
            highlight=False,
        )
        server.wait()
    except KeyboardInterrupt:
        errors.print("stopping; requests under way may end")
    finally:
        server.stop(drain=True)
    return DONE


def _doctor(options: argparse.Namespace, errors: Console) -> int:
    del options, errors
    console = Console()
    findings = list(examine())
    for each in findings:
        mark = ("ok", "green") if each.good else ("missing", "bold red") if each.needed else ("without", "dim")
        console.print(Text.assemble((f"{mark[0]:8}", mark[1]), f"{each.subject:20} {each.detail}"), soft_wrap=True)
        if not each.good and each.remedy:
            console.print(Text(f"{'':8}{'':20} mend it with: {each.remedy}", style="yellow"), soft_wrap=True)
    return DONE if all(each.good or not each.needed for each in findings) else FAILED


def _run_builder(command: str, arguments: Sequence[str]) -> int:
    for entry in importlib.metadata.entry_points(group="fv2es.commands", name=command):
        try:
            run = entry.load()
        except ModuleNotFoundError as error:
            print(
                f"error: `fv2es {command}` needs the package {error.name}; run: pip install 'fv2es[build]'",
                file=sys.stderr,
            )
            return FAILED
        return int(run(arguments))
    print("error: this installation has no builders; run: pip install 'fv2es[build]'", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    raise SystemExit(main())
