"""Weights to a repository that Triton can serve: graphs, their precision, proof, and all files into their places."""

import dataclasses
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fv2es_builders import assets
from fv2es_builders.cache import Cache
from fv2es_builders.errors import BuildUsageError, DiskFull, OutputBusy
from fv2es_builders.graphs import GraphFacts, ModelSource, Report, make_graphs
from fv2es_builders.manifest import MANIFEST_PATH, facts_sha256, manifest_json, read_current, write_manifest
from fv2es_builders.precision import Precision, Profile
from fv2es_builders.presets import Preset
from fv2es_builders.render import render_repository

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """What to build, and where."""

    preset: Preset
    output: Path
    """The repository; weights are put beside the configuration that lies there."""
    cache: Path
    """Folder of what was built before, see `fv2es_builders.cache`."""
    seed: int = 0
    """Of untrained weights, where no checkpoint is given; >= 0."""
    checkpoint: Path | None = None
    """Trained weights, see `fv2es_builders.importing.model_from_checkpoint`."""
    tokenizer: Path | None = None
    """See `fv2es_builders.assets.tokenizer_file`; None: the one that the preset's package carries."""
    profile: Profile = "cpu"
    precision: Precision = "fp32"
    server_version: str | None = None
    """Triton that will serve the `gpu` profile; None: see `fv2es_builders.render`."""
    calibration: tuple[Path, ...] = ()
    """Films from which INT8 takes its ranges, besides the built-in input."""

    def __post_init__(self) -> None:
        if self.output.exists() and not self.output.is_dir():
            raise BuildUsageError(f"output {self.output} is a file; name a folder")
        if self.checkpoint is not None and self.seed:
            raise BuildUsageError(f"seed {self.seed} is of untrained weights, but a checkpoint is given; leave one out")

    def engine_facts(self) -> dict[str, Any]:
        """What engines depend on besides the graphs that they are made of."""
        return {
            "profile": self.profile,
            "precision": self.precision,
            "calibration": [assets.file_sha256(path) for path in self.calibration],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """What a build did."""

    manifest: Mapping[str, Any]
    made: tuple[str, ...]
    """Stages that were done now; none where everything was up to date."""
    seconds: Mapping[str, float]
    """How long each graph took when it was made, by its name."""


def build(request: BuildRequest, report: Report = lambda _line: None) -> BuildResult:
    """Build a repository, or do nothing where it is up to date.

    All files are made and proven in the cache, copied beside their places, then moved; the manifest goes away first and comes back
    last. So a build that is interrupted leaves either what was there before, or a repository without a manifest.

    Args:
        request: what and where.
        report: told what is going on.

    Raises:
        AssetError, CheckpointError: weights or a tokenizer are missing or can't be used.
        DiskFull: no room.
        OutputBusy: another build writes to the same folder.
        ParityError: a file does not reproduce what it was made from; it stays in the cache for replay until the next build.
    """
    with _no_space_said(request.output, request.cache):
        source = ModelSource(
            preset=request.preset,
            tokenizer=assets.tokenizer_file(request.preset.text, request.tokenizer),
            seed=request.seed,
            checkpoint=request.checkpoint,
        )
        with _locked(request.output):
            return _build(request, source, report)


def _build(request: BuildRequest, source: ModelSource, report: Report) -> BuildResult:
    graphs_key = source.key()
    engines_key = facts_sha256({"graphs": graphs_key, **request.engine_facts()})
    inputs = facts_sha256({"engines": engines_key, "server_version": request.server_version})
    current = read_current(request.output, inputs)
    if current is not None:
        report("up to date")
        return BuildResult(manifest=current, made=(), seconds={})
    cache = Cache(request.cache)
    graphs = cache.entry(graphs_key, lambda folder: dataclasses.asdict(make_graphs(source, folder, report)))
    facts = GraphFacts(**graphs.facts)
    entries = {"graphs": graphs}
    if request.precision != "fp32":
        entries["engines"] = cache.entry(
            engines_key, lambda folder: make_engines(request, graphs.paths(), folder, report)
        )
    for stage, entry in entries.items():
        if not entry.made_now:
            report(f"{stage}: taken from the cache")
    files, digests = {}, {}
    for entry in entries.values():  # an engine in its final precision stands for the float32 one
        files |= entry.paths()
        digests |= entry.files
    manifest = manifest_json(
        facts,
        profile=request.profile,
        precision=request.precision,
        server_version=request.server_version,
        engines=entries["engines"].facts if "engines" in entries else {},
        inputs=inputs,
        files=digests,
    )
    report("moving files into place")
    place(files, manifest, request.output, render=lambda folder: render_repository(folder))
    seconds = dict(facts.seconds) if graphs.made_now else {}
    return BuildResult(
        manifest=manifest, made=tuple(name for name, entry in entries.items() if entry.made_now), seconds=seconds
    )


def place(
    files: Mapping[str, Path], manifest: Mapping[str, Any], output: Path, *, render: Callable[[Path], object]
) -> None:
    """Put finished files into a repository, so that it has a manifest only while all of its files belong together.

    Args:
        files: by their path in the repository; they are copied.
        manifest: of these files.
        output: the repository; files of the same names are replaced, others stay.
        render: writes configurations and adapters into the repository.
    """
    # Triton takes any other folder of a repository for a model, but does not look into a model's version folder.
    staging = output / Path(MANIFEST_PATH).parent / ".build"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        for name, path in files.items():
            copy = staging / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        (output / MANIFEST_PATH).unlink(missing_ok=True)
        render(output)
        for name in files:
            target = output / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (staging / name).replace(target)
        write_manifest(output, manifest)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The only build in a folder, which is made; no file is left behind."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputBusy(folder) from error
        yield
    finally:
        os.close(handle)


@contextmanager
def _no_space_said(*folders: Path) -> Iterator[None]:
    """Turn the system's error of a full disk into one that names the folder with the least room."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        rooms = {folder: shutil.disk_usage(folder).free for folder in folders if folder.is_dir()}
        fullest = min(rooms, key=rooms.__getitem__)
        raise DiskFull(fullest, free_bytes=rooms[fullest]) from error
