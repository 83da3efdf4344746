"""A preset to a repository that Triton can serve: export, proof, and all files into their places."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fv2es_builders import assets
from fv2es_builders.errors import BuildUsageError, OutputBusy
from fv2es_builders.manifest import (
    MANIFEST_PATH,
    content_sha256,
    inputs_sha256,
    manifest_json,
    read_current,
    write_manifest,
)
from fv2es_builders.parity import ATOL, Figures, accept, case_from_module, onnx_runner
from fv2es_builders.presets import Preset

Report = Callable[[str], None]
"""Takes one line about what is being done now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """What to build, and where."""

    preset: Preset
    output: Path
    """The repository; weights are put beside the configuration that lies there."""
    seed: int = 0
    """Of the untrained weights; >= 0."""
    tokenizer: Path | None = None
    """Folder with a tokenizer.json; None: the one that the preset's package carries."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise BuildUsageError(f"seed {self.seed} must be >= 0; give another")
        if self.output.exists() and not self.output.is_dir():
            raise BuildUsageError(f"output {self.output} is a file; name a folder")


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltFile:
    """One file of the repository, admitted."""

    name: str
    path: Path
    duration_s: float
    figures: Figures


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """What a build did."""

    manifest: Mapping[str, Any]
    built: tuple[BuiltFile, ...]
    """The files that were made; none where everything was up to date."""


def build(request: BuildRequest, report: Report = lambda _line: None) -> BuildResult:
    """Build a repository's weights, or do nothing where they are up to date.

    All files are made and proven in a staging folder, then moved into place; the manifest goes away first and comes back last. So a
    build that is interrupted leaves either what was there before, or a repository without a manifest.

    Args:
        request: what and where.
        report: told what is going on.

    Raises:
        AssetError: weights or a tokenizer are missing.
        OutputBusy: another build writes to the same folder.
        ParityError: a file does not reproduce its modules; it stays in the staging folder for replay until the next build.
    """
    preset, output = request.preset, request.output
    tokenizer = assets.tokenizer_file(preset.text, request.tokenizer)
    taken = [tokenizer, *assets.weight_files(preset.text)]
    with _locked(output):
        inputs = inputs_sha256(preset, seed=request.seed, assets=taken)
        current = read_current(output, inputs)
        if current is not None:
            report("up to date")
            return BuildResult(manifest=current, built=())
        staging = output / Path(MANIFEST_PATH).parent / ".build"  # Triton does not look into a model's version folder
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        weights, built = _build_files(request, tokenizer, staging, report)
        files = {str(file.path.relative_to(staging)): file.path for file in built}
        files["tokenizer/1/tokenizer.json"] = _copied(tokenizer, staging / "tokenizer/1/tokenizer.json")
        manifest = manifest_json(
            preset,
            sha256=content_sha256(preset, weights=weights, tokenizer=tokenizer),
            seed=request.seed,
            inputs=inputs,
            files=files,
            figures={file.name: file.figures for file in built},
        )
        report("moving files into place")
        place(files, manifest, output)
        shutil.rmtree(staging)
    placed = tuple(
        BuiltFile(
            name=file.name,
            path=output / file.path.relative_to(staging),
            duration_s=file.duration_s,
            figures=file.figures,
        )
        for file in built
    )
    return BuildResult(manifest=manifest, built=placed)


def place(files: Mapping[str, Path], manifest: Mapping[str, Any], output: Path) -> None:
    """Move finished files into a repository, so that it has a manifest only while all of its files belong together.

    Args:
        files: by their path in the repository, on the same file system.
        manifest: of these files.
        output: the repository; files of the same names are replaced, others stay.
    """
    (output / MANIFEST_PATH).unlink(missing_ok=True)
    for name, path in files.items():
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    write_manifest(output, manifest)


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


def _copied(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def _build_files(request: BuildRequest, tokenizer: Path, staging: Path, report: Report) -> tuple[str, list[BuiltFile]]:
    """Export and prove all graphs; the hash of the model's weights and the files."""
    report("loading PyTorch")
    from fv2es_builders.cases import parity_inputs
    from fv2es_builders.export import onnx_from_module, served_parts
    from fv2es_builders.modules.model import seeded_model, weights_sha256

    preset = request.preset
    text = assets.load_tokenizer(tokenizer, vocabulary=int(preset.text.config["vocab_size"]))
    report(f"making untrained weights of {preset.name} from seed {request.seed}")
    model = seeded_model(preset, request.seed, assets.encoder_weights(preset.text))
    cases = parity_inputs(model, text, seed=request.seed)
    weights = weights_sha256(model)
    built: list[BuiltFile] = []
    for reference, module, spec in served_parts(model):
        report(f"exporting {spec.name}")
        started = time.perf_counter()
        path = staging / spec.name / "1" / "model.onnx"
        onnx_from_module(module, spec, path, metadata={"fv2es.preset": preset.name, "fv2es.weights": weights})
        expected = [case_from_module(name, reference, inputs, spec.outputs) for name, inputs in cases[spec.name]]
        figures = accept(path, onnx_runner(path), cases=expected, atol=ATOL["export"])
        built.append(BuiltFile(name=spec.name, path=path, duration_s=time.perf_counter() - started, figures=figures))
    report("exporting the face detector")
    return weights, [*built, *_build_detector(staging, seed=request.seed)]


def _build_detector(staging: Path, *, seed: int) -> list[BuiltFile]:
    from fv2es_builders.detector import NETS, DetectorNet, onnx_from_detector, parity_inputs
    from fv2es_builders.golden import load_golden

    pictures = load_golden().faces
    built = []
    for name in NETS:
        started = time.perf_counter()
        path = onnx_from_detector(name, staging / "faces" / "1" / f"{name}.onnx")
        net = DetectorNet(name).eval()
        cases = [
            case_from_module(case, net, inputs, ("probability", "offsets"))
            for case, inputs in parity_inputs(name, seed=seed, pictures=list(pictures))
        ]
        figures = accept(path, onnx_runner(path), cases=cases, atol=ATOL["detector"])
        built.append(BuiltFile(name=name, path=path, duration_s=time.perf_counter() - started, figures=figures))
    return built
