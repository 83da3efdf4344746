"""Weights to a repository that Triton can serve: graphs, their precision, proof, and all files into their places."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fv2es_builders import assets
from fv2es_builders.cache import Cache, Entry
from fv2es_builders.calibration import film_utterances
from fv2es_builders.engines import make_engines
from fv2es_builders.errors import BuildUsageError
from fv2es_builders.graphs import (
    ENGINES,
    SOURCE_NAME,
    TOKENIZER_PATH,
    GraphFacts,
    ModelSource,
    Report,
    graph_path,
)
from fv2es_builders.manifest import MANIFEST_PATH, facts_sha256, manifest_json, read_current, write_manifest
from fv2es_builders.output import exclusive, no_space_said
from fv2es_builders.precision import Precision, check_precision
from fv2es_builders.presets import Preset
from fv2es_builders.render import (
    DEFAULT_SERVER,
    RenderTarget,
    dotted,
    refuse_other_weights,
    render_repository,
    server_version_from,
)
from fv2es_builders.shipped import RepositorySource
from fv2es_builders.utterances import Utterance
from fv2es_pipelines.specification import Profile

if TYPE_CHECKING:
    from fv2es_builders.replaced import ReplacedSource

    Source = ModelSource | RepositorySource | ReplacedSource


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
    repository: Path | None = None
    """Instead of a checkpoint a repository that was built before, see `fv2es_builders.shipped.RepositorySource`."""
    branch: Path | None = None
    """Output of a training run, put in the place of that branch of `repository`, see `fv2es_builders.replaced.ReplacedSource`."""
    tokenizer: Path | None = None
    """See `fv2es_builders.assets.tokenizer_file`; None: the one that the preset's package carries."""
    profile: Profile = "cpu"
    precision: Precision = "fp32"
    server_version: str | None = None
    """Triton that will serve it, such as 2.75; None: see `fv2es_builders.render.DEFAULT_SERVER`."""
    calibration: tuple[Path, ...] = ()
    """Films from which INT8 takes its ranges, besides the built-in input."""

    def __post_init__(self) -> None:
        if self.output.exists() and not self.output.is_dir():
            raise BuildUsageError(f"output {self.output} is a file; name a folder")
        check_precision(self.precision, self.profile)
        _ = self.target  # an unusable version is said before anything is done
        if self.checkpoint is not None and self.seed:
            raise BuildUsageError(f"seed {self.seed} is of untrained weights, but a checkpoint is given; leave one out")
        if self.repository is not None:
            self._check_repository(self.repository)
        elif self.branch is not None:
            raise BuildUsageError(
                f"{self.branch} is put in the place of a repository's branch, and no repository is given; give one as checkpoint"
            )

    def _check_repository(self, repository: Path) -> None:
        if self.seed or self.checkpoint is not None or self.tokenizer is not None:
            raise BuildUsageError(
                f"{repository} brings its own weights and tokenizer; leave seed, checkpoint and tokenizer out"
            )
        if self.output.exists() and repository.exists() and self.output.samefile(repository):
            raise BuildUsageError(
                f"{repository} is where the weights come from, and would be lost; name another folder as output"
            )

    @property
    def source(self) -> "Source":
        """Weights and tokenizer.

        Raises:
            AssetError: the tokenizer is missing or can't be used.
        """
        if self.repository is not None:
            taken = RepositorySource(preset=self.preset, repository=self.repository)
            if self.branch is None:
                return taken
            from fv2es_builders.replaced import ReplacedSource  # needs PyTorch

            return ReplacedSource(base=taken, branch=self.branch)
        tokenizer = assets.tokenizer_file(self.preset.text, self.tokenizer)
        return ModelSource(preset=self.preset, tokenizer=tokenizer, seed=self.seed, checkpoint=self.checkpoint)

    @property
    def target(self) -> RenderTarget:
        """What the repository is rendered for.

        Raises:
            BuildUsageError: the version of the server is none, or too old.
        """
        version = server_version_from(self.server_version) if self.server_version else DEFAULT_SERVER[self.profile]
        num_labels = len(self.preset.labels) if self.profile == "gpu" else None
        return RenderTarget(profile=self.profile, server_version=version, num_labels=num_labels)

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
        MixedProfiles: weights for the other profile lie in the output.
        OutputBusy: another build writes to the same folder.
        ParityError: a file does not reproduce what it was made from; it stays in the cache for replay until the next build.
    """
    with no_space_said(request.output, request.cache):
        source = request.source
        with exclusive(request.output):
            return _build(request, source, report)


def _build(request: BuildRequest, source: "Source", report: Report) -> BuildResult:
    refuse_other_weights(request.output, request.profile)
    graphs_key = source.key()
    engines_key = facts_sha256({"graphs": graphs_key, **request.engine_facts()})
    inputs = facts_sha256({"engines": engines_key, "server_version": dotted(request.target.server_version)})
    current = read_current(request.output, inputs)
    if current is not None:
        report("up to date")
        return BuildResult(manifest=current, made=(), seconds={})
    cache = Cache(request.cache)
    graphs = cache.entry(graphs_key, lambda folder: dataclasses.asdict(source.make(folder, report)))
    facts = GraphFacts(**graphs.facts)
    entries = {"graphs": graphs}
    if request.precision != "fp32":
        entries["engines"] = cache.entry(engines_key, lambda folder: _engines(request, graphs, folder, report))
    for stage, entry in entries.items():
        if not entry.made_now:
            report(f"{stage}: taken from the cache")
    files: dict[str, Path] = {}
    digests: dict[str, str] = {}
    for entry in entries.values():  # an engine in its final precision takes the place of the float32 one
        for name, path in entry.paths().items():
            place_name = _served_name(name, request.profile)
            files[place_name], digests[place_name] = path, entry.files[name]
    manifest = manifest_json(
        facts,
        profile=request.profile,
        precision=request.precision,
        server_version=dotted(request.target.server_version),
        engines=entries["engines"].facts if "engines" in entries else {},
        inputs=inputs,
        files=digests,
    )
    report("moving files into place")
    place(files, manifest, request.output, render=lambda folder: render_repository(folder, request.target))
    seconds = dict(facts.seconds) if graphs.made_now else {}
    return BuildResult(
        manifest=manifest, made=tuple(name for name, entry in entries.items() if entry.made_now), seconds=seconds
    )


def _engines(request: BuildRequest, graphs: Entry, folder: Path, report: Report) -> dict[str, Any]:
    """Make the engines in their final precision in a folder; what is known of them."""
    paths = graphs.paths()
    films: list[Utterance] = []
    for film in request.calibration:
        report(f"looking at {film.name}")
        films += film_utterances(film, paths["faces/1/pnet.onnx"].parent)
    return make_engines(
        {model: paths[graph_path(model)] for model in ENGINES},
        paths[TOKENIZER_PATH],
        folder,
        precision=request.precision,
        profile=request.profile,
        calibration=films,
        report=report,
    )


def _served_name(name: str, profile: Profile) -> str:
    """Where a file of the cache lies in a repository: the graphs of engines are not served themselves on the gpu profile."""
    served_by_plan = profile == "gpu" and name in {graph_path(model) for model in ENGINES}
    return str(Path(name).with_name(SOURCE_NAME)) if served_by_plan else name


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
