"""The command `python -m benchmarks.peers FILM...`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.command import say, status_of
from benchmarks.peers.answer import STEPS
from benchmarks.peers.errors import PeerMissing
from benchmarks.peers.schedule import FACE_PYTHON, PEERS, Outcome, Settings, measure
from benchmarks.peers.weights import read_manifest
from benchmarks.record import Value, write_record
from fv2es.embedded import default_repository
from fv2es.errors import UsageError
from fv2es.files import check_writable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: what follows the module's name on the command line; None: taken from the process.

    Returns:
        0 done, 1 the work failed, 2 bad usage, 3 done but some peers failed (named), 130 interrupted.
    """
    options = _parser().parse_args(argv)
    return status_of(lambda errors: bool(_run(options, errors).of("failure")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="Measure fv2es and what a user would do instead, side by side on the same films, utterances and weights.",
    )
    parser.add_argument("films", type=Path, nargs="+", metavar="FILM")
    parser.add_argument(
        "--peers",
        metavar="LIST",
        help=f"in the order to run them (default: {','.join(PEERS)}; face-only where it is installed)",
    )
    parser.add_argument("--repository", type=Path, default=default_repository(), metavar="DIR", help="whose weights")
    parser.add_argument(
        "--transcript", type=Path, metavar="FILE", help="of the only film; else utterances are windows of 5 s"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each peer, in turns (default: 3)")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="of PyTorch (default: 2)")
    parser.add_argument(
        "--server", metavar="HOST:PORT", help="of fv2es, with the same weights (default: an embedded one)"
    )
    parser.add_argument(
        "--face-python", type=Path, default=FACE_PYTHON, metavar="FILE", help="Python of the environment with fer"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the record, JSON")
    return parser


def _run(options: argparse.Namespace, errors: Console) -> Outcome:
    settings = _settings(options, errors)
    if options.output:
        check_writable(options.output, (".json",))
    manifest = read_manifest(settings.repository)
    outcome = measure(options.films, options.transcript, settings, lambda line: say(errors, "now", line))
    if options.output:
        write_record(
            options.output,
            kind="peers",
            settings={
                "peers": list(settings.peers),
                "num_repetitions": settings.num_repetitions,
                "num_threads": settings.num_threads,
                "embedded": settings.server is None,
                "transcript": options.transcript and options.transcript.name,
                "model": {key: manifest[key] for key in ("name", "sha256", "precision", "trained")},
            },
            materials=outcome.materials,
            measurements=outcome.rows,
        )
    for each in (*outcome.of("note"), *outcome.of("failure")):
        say(errors, str(each["row"]), f"{each['material']}: {each['peer']}: {each['message']}")
    output = Console(width=200)
    output.print(costs(outcome.of("median")), agreements(outcome.of("agreement")))
    return outcome


def _settings(options: argparse.Namespace, errors: Console) -> Settings:
    peers = _peers(options, errors)
    if unknown := [each for each in peers if each not in PEERS]:
        raise UsageError(f"--peers {','.join(unknown)}: no such peer; choose among {', '.join(PEERS)}")
    if len(set(peers)) < len(peers):
        raise UsageError(f"--peers {options.peers}: name each peer once")
    if options.transcript is not None and len(options.films) > 1:
        raise UsageError(
            f"--transcript belongs to one film, and {len(options.films)} are given; measure them one by one"
        )
    for name in ("repeat", "threads"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} {getattr(options, name)} must be at least 1")
    return Settings(
        peers=peers,
        repository=options.repository.resolve(),
        num_repetitions=options.repeat,
        num_threads=options.threads,
        server=options.server,
        face_python=options.face_python.absolute(),
    )


def _peers(options: argparse.Namespace, errors: Console) -> tuple[str, ...]:
    """Those that were named, or all that are installed."""
    peers = PEERS if options.peers is None else tuple(options.peers.split(","))
    if "face-only" not in peers or options.face_python.is_file():
        return peers
    missing = PeerMissing(
        "face-only",
        missing=f"an environment with the package fer ({options.face_python} is not there)",
        remedy="make it as benchmarks/README.md says, or leave face-only out of --peers",
    )
    if options.peers is not None:
        raise missing
    say(errors, "note", f"{missing}; it is left out now")
    return tuple(each for each in peers if each != "face-only")


def costs(medians: Sequence[Mapping[str, Value]]) -> Table:
    """What each peer takes for a second of film."""
    table = Table(title="processor seconds for a second of film; wall in the first column")
    for name in ("film", "peer", "wall", "cpu", "x fv2es", *STEPS, "MB"):
        table.add_column(name, justify="left" if name in ("film", "peer") else "right")
    for row in medians:
        steps = [_number(row.get(f"{name}_cpu_s_per_s"), 3) for name in STEPS]
        peak = row["peak_memory_bytes"]
        table.add_row(
            str(row["material"]),
            str(row["peer"]),
            _number(row["wall_s_per_s"], 3),
            _number(row["cpu_s_per_s"], 3),
            _number(row.get("cpu_ratio_to_fv2es"), 1),
            *steps,
            _number(peak / 1e6 if isinstance(peak, int | float) else None, 0),
        )
    return table


def agreements(rows: Sequence[Mapping[str, Value]]) -> Table:
    """How far each peer's numbers are from those of fv2es."""
    table = Table(title="largest difference from fv2es")
    for name in (
        "film",
        "peer",
        "utterances",
        "probability",
        "text",
        "visual",
        "acoustic",
        "other faces",
        "least overlap",
    ):
        table.add_column(name, justify="left" if name in ("film", "peer") else "right")
    for row in rows:
        table.add_row(
            str(row["material"]),
            str(row["peer"]),
            str(row["num_compared"]),
            *(
                _number(row[f"max_difference_{name}"], 6)
                for name in ("probability", "text_logit", "visual_logit", "acoustic_logit")
            ),
            str(row["num_other_faces"]),
            _number(row["least_face_overlap"], 3),
        )
    return table


def _number(value: Value, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "-"
