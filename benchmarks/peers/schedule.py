"""Peers one after the other on each film, in turns (A B A B), each run in a process of its own."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.material import Material, sha256_of
from benchmarks.peers.answer import STEPS, Answer
from benchmarks.peers.compare import differences
from benchmarks.peers.errors import PeerFailed, TooLittleMemory
from benchmarks.peers.media import check_memory, shortened
from benchmarks.peers.plan import Span, planned, write_plan
from benchmarks.peers.processes import memory_bytes, server_tree
from benchmarks.record import Value
from fv2es.source import probe

PEERS: Final = ("original", "fastapi", "onnx-loop", "face-only", "floor", "fv2es")
WHOLE_IN_MEMORY: Final = frozenset({"original", "fastapi"})
"""Peers that keep all pictures of a film."""
WHOLE_MODEL: Final = frozenset({"original", "fastapi", "onnx-loop"})
"""Peers whose numbers must be those of fv2es."""
USES_TORCH: Final = frozenset({"original", "fastapi", "floor"})
ROOT: Final = Path(__file__).parents[2]
FACE_PYTHON: Final = ROOT / "build" / "face-only" / "bin" / "python"

RATIOS: Final = {
    "wall_s_per_s": "wall_ratio_to_fv2es",
    "cpu_s_per_s": "cpu_ratio_to_fv2es",
    "peak_memory_bytes": "peak_memory_ratio_to_fv2es",
}
"""Names of ratios by the figure that they are of."""
_WATCH_S: Final = 0.25
_LEAST_SHORT_S: Final = 4.0

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What is measured, and how often."""

    peers: tuple[str, ...]
    repository: Path
    num_repetitions: int = 3
    num_threads: int = 2
    """Of PyTorch, in peers that use it; the others take what the machine has."""
    server: str | None = None
    """Of fv2es; None: an embedded one for each run."""
    available_bytes: int | None = None
    """Memory for peers that keep a film's pictures; None: what the machine has."""
    face_python: Path = FACE_PYTHON
    """Of the environment in which `fer` is installed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """A film, or the beginning of one, with its utterances."""

    path: Path
    transcript: Path | None
    spans: tuple[Span, ...]
    plan: Path
    duration_s: float
    material: Material


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of one peer."""

    peer: str
    clip: Clip
    repetition: int
    load_s: float
    wall_s: float
    cpu_s: float
    peak_bytes: int
    answer: Answer

    def row(self) -> dict[str, Value]:
        """As flat figures."""
        per_s = 1 / self.clip.duration_s
        figures: dict[str, Value] = {
            "row": "run",
            "material": self.clip.material.name,
            "peer": self.peer,
            "repetition": self.repetition,
            "duration_s": self.clip.duration_s,
            "load_s": self.load_s,
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "wall_s_per_s": self.wall_s * per_s,
            "cpu_s_per_s": self.cpu_s * per_s,
            "peak_memory_bytes": self.peak_bytes,
            "num_utterances": len(self.answer.utterances),
            "notes": list(self.answer.notes),
        }
        for name in STEPS:
            if name in self.answer.steps:
                step = self.answer.steps[name]
                figures[f"{name}_wall_s_per_s"] = None if step.wall_s is None else step.wall_s * per_s
                figures[f"{name}_cpu_s_per_s"] = None if step.cpu_s is None else step.cpu_s * per_s
        return figures


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """All that was measured."""

    materials: tuple[Material, ...]
    rows: tuple[Mapping[str, Value], ...]
    """`row` says of which kind: run, failure, median, agreement, note."""

    def of(self, kind: str) -> list[Mapping[str, Value]]:
        """Rows of one kind."""
        return [row for row in self.rows if row["row"] == kind]


def measure(films: Sequence[Path], transcript: Path | None, settings: Settings, report: Report) -> Outcome:
    """Measure all peers on all films.

    Args:
        films: media files.
        transcript: of the only film; None: utterances are windows.
        settings: which peers, how often.
        report: told what is going on.

    Raises:
        SourceError, TranscriptError: a film or the transcript can't be used.
    """
    materials: dict[str, Material] = {}
    rows: list[Mapping[str, Value]] = []
    with tempfile.TemporaryDirectory(prefix="fv2es-peers-") as name:
        folder = Path(name)
        clips = [_clip(film, transcript, folder) for film in films]
        for clip in clips:
            found = _film(clip, settings, folder, report)
            rows += found.rows
            materials |= {each.name: each for each in (clip.material, *found.materials)}
    return Outcome(materials=tuple(materials.values()), rows=tuple(rows))


def _film(clip: Clip, settings: Settings, folder: Path, report: Report) -> Outcome:
    """Everything about one film."""
    rows: list[Mapping[str, Value]] = []
    turns = [(peer, clip) for peer in settings.peers]
    try:
        if WHOLE_IN_MEMORY.intersection(settings.peers):
            check_memory(clip.path, settings.available_bytes)
    except TooLittleMemory as error:
        short = _short(clip, error, folder)
        done = "left out" if short is None else f"measured, beside fv2es, on its first {short.duration_s:.1f} s"
        for peer in settings.peers:
            if peer in WHOLE_IN_MEMORY:
                turns.remove((peer, clip))
                rows.append(_said("note", clip, peer, f"{error}; {done}"))
        if short is not None:
            turns += [(peer, short) for peer in settings.peers if peer in {*WHOLE_IN_MEMORY, "fv2es"}]
    runs: list[Run] = []
    for repetition in range(settings.num_repetitions):
        for peer, own in tuple(turns):
            report(f"{own.material.name}: {peer}, {repetition + 1} of {settings.num_repetitions}")
            try:
                runs.append(_run(peer, own, repetition, settings, folder))
            except PeerFailed as error:
                turns.remove((peer, own))
                rows.append(_said("failure", own, peer, str(error)))
    rows += [run.row() for run in runs]
    clips = {own.material.name: own for _, own in ((None, clip), *turns)}
    for name in clips:
        own_runs = [run for run in runs if run.clip.material.name == name]
        rows += _medians([run.row() for run in own_runs])
        rows += _agreements(own_runs, settings, folder, report)
    return Outcome(materials=tuple(each.material for each in clips.values()), rows=tuple(rows))


def _clip(film: Path, transcript: Path | None, folder: Path) -> Clip:
    spans = planned(film, transcript)
    material = _material(film)
    plan = folder / f"{material.sha256}.json"
    write_plan(plan, spans)
    return Clip(
        path=film, transcript=transcript, spans=spans, plan=plan, duration_s=material.duration_s, material=material
    )


def _material(film: Path) -> Material:
    """What `benchmarks.material` has written beside a film that it made; of another film what it is found to be."""
    try:
        return Material(**json.loads(film.with_suffix(".json").read_text(encoding="utf-8")) | {"path": film})
    except (OSError, ValueError, TypeError):
        info, sha256 = probe(film), sha256_of(film)
    video = info.video
    return Material(
        path=film.with_stem(f"{film.stem}-{sha256[:8]}"),  # films are named by what comes before the last hyphen
        sha256=sha256,
        duration_s=round(info.duration_s, 2),
        width_px=video.width if video else 0,
        height_px=video.height if video else 0,
        codec=video.codec if video else "",
        frames_per_s=round(video.average_fps or 0.0, 3) if video else 0.0,
        num_bytes=info.size_bytes,
    )


def _short(clip: Clip, error: TooLittleMemory, folder: Path) -> Clip | None:
    """The beginning that fits, None where that is next to nothing."""
    if error.fitting_s < _LEAST_SHORT_S:
        return None
    target = folder / f"{clip.path.stem}-first-{error.fitting_s:.0f}s{clip.path.suffix}"
    if not target.is_file():
        shortened(clip.path, target, until_s=error.fitting_s)
    return _clip(target, clip.transcript, folder)


def _said(kind: str, clip: Clip, peer: str, message: str) -> dict[str, Value]:
    return {"row": kind, "material": clip.material.name, "peer": peer, "message": message}


def _run(peer: str, clip: Clip, repetition: int, settings: Settings, folder: Path, extra: Sequence[str] = ()) -> Run:
    """Run a peer in a process of its own, and watch its memory.

    Raises:
        PeerFailed: it says or shows that it can't.
    """
    target = folder / "outcome.json"
    target.unlink(missing_ok=True)
    if peer == "face-only":
        script = Path(__file__).with_name("face_only.py")
        command = [str(settings.face_python), str(script), str(clip.path), str(clip.plan), str(target)]
    else:
        command = [sys.executable, "-m", "benchmarks.peers.worker", peer, str(clip.path), str(clip.plan), str(target)]
        command += ["--repository", str(settings.repository), "--threads", str(settings.num_threads), *extra]
        if clip.transcript is not None:
            command += ["--transcript", str(clip.transcript)]
        if settings.server is not None and peer == "fv2es":
            command += ["--server", settings.server]
    others = server_tree(settings.server) if peer == "fv2es" else []
    environment = {**os.environ, **(_torch_environment(settings) if peer in USES_TORCH else {})}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment) as process,
    ):
        peak_bytes = 0
        try:
            while True:
                try:
                    process.wait(_WATCH_S)
                except subprocess.TimeoutExpired:
                    peak_bytes = max(peak_bytes, memory_bytes(process.pid, others))
                else:
                    break
        except BaseException:
            process.kill()
            raise
        log.seek(0)
        tail = log.read()[-800:].decode(errors="replace").strip()
    if not target.is_file():
        raise PeerFailed(peer, f"its process ended with status {process.returncode}: {tail}")
    outcome: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    if "error" in outcome:
        raise PeerFailed(peer, f"{outcome['error']}: {outcome['message']}")
    return Run(
        peer=peer,
        clip=clip,
        repetition=repetition,
        load_s=outcome["load_s"],
        wall_s=outcome["wall_s"],
        cpu_s=outcome["cpu_s"],
        peak_bytes=peak_bytes,
        answer=Answer.from_dict(outcome["answer"]),
    )


def _torch_environment(settings: Settings) -> dict[str, str]:
    """Threads that wait asleep: spinning ones cost up to twenty times the processor time where other programs want the cores, too."""
    return {"OMP_NUM_THREADS": str(settings.num_threads), "OMP_WAIT_POLICY": "passive"}


def _medians(rows: Sequence[Mapping[str, Value]]) -> Iterator[dict[str, Value]]:
    """Of each peer's runs on one film the median of every figure, and how many times as much as fv2es it takes."""
    groups: dict[str, list[Mapping[str, Value]]] = {}
    for row in rows:
        groups.setdefault(str(row["peer"]), []).append(row)
    ours = _median(groups["fv2es"]) if "fv2es" in groups else None
    for peer, own in groups.items():
        figures = _median(own)
        median: dict[str, Value] = {"row": "median", "material": own[0]["material"], "peer": peer}
        median |= {"num_runs": len(own), **figures}
        if ours is not None:
            for key, name in RATIOS.items():
                median[name] = figures[key] / ours[key]
        yield median


def _median(rows: Sequence[Mapping[str, Value]]) -> dict[str, float]:
    figures = {}
    for key in rows[0]:
        values = [float(value) for row in rows if isinstance(value := row[key], int | float)]
        if key != "repetition" and len(values) == len(rows):
            figures[key] = statistics.median(values)
    return figures


def _agreements(runs: Sequence[Run], settings: Settings, folder: Path, report: Report) -> list[dict[str, Value]]:
    """How far peers with the whole model are from fv2es; with its faces in the place of their own, too."""
    ours = next((run for run in runs if run.peer == "fv2es"), None)
    if ours is None:
        return []
    last = {run.peer: run for run in runs if run.peer in WHOLE_MODEL}
    rows: list[dict[str, Value]] = [_agreement(run.peer, run, ours) for run in last.values()]
    if not last:
        return rows
    boxes = folder / "boxes.json"
    samples = [sample for each in ours.answer.utterances for sample in each.samples]
    boxes.write_text(json.dumps([(each.time_s, each.box_px) for each in samples]), encoding="utf-8")
    report(f"{ours.clip.material.name}: the faces of fv2es through the plain graphs")
    try:
        run = _run("same-faces", ours.clip, 0, settings, folder, ("--boxes", str(boxes)))
    except PeerFailed as error:
        return [*rows, _said("failure", ours.clip, "same-faces", str(error))]
    return [*rows, _agreement("onnx-loop with the faces of fv2es", run, ours)]


def _agreement(name: str, run: Run, ours: Run) -> dict[str, Value]:
    return {
        "row": "agreement",
        "material": run.clip.material.name,
        "peer": name,
        **differences(run.answer, ours.answer),
    }
