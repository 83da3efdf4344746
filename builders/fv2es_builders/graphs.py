"""Weights to proven float32 graphs: the first stage of a build, and the only one that needs PyTorch."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fv2es_builders import assets
from fv2es_builders.errors import BuildUsageError, UnknownSize
from fv2es_builders.manifest import code_sha256, content_sha256, facts_sha256, preprocessing, versions
from fv2es_builders.parity import ATOL, Figures, accept, case_from_module, onnx_runner
from fv2es_builders.presets import EMBEDDING_DIM, MODALITIES, Preset
from fv2es_builders.trained import BranchFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from fv2es_builders.cases import NamedInputs
    from fv2es_builders.detector import NetName
    from fv2es_builders.export import GraphSpec
    from fv2es_builders.modules.model import V2EM

ENGINES: Final = ("visual", "acoustic", "text", "fusion")
"""The served neural nets, in the order of the data."""

SOURCE_NAME: Final = "source.onnx"
"""Name of an engine's graph where plans are served: what they are made of, there and after each update of TensorRT."""

TOKENIZER_PATH: Final = "tokenizer/1/tokenizer.json"

DETECTOR_FILES: Final = ("faces/1/pnet.onnx", "faces/1/rnet.onnx", "faces/1/onet.onnx")

Report = Callable[[str], None]
"""Takes one line about what is being done now."""


def graph_path(model: str) -> str:
    """Where an engine's graph lies in a repository."""
    return f"{model}/1/model.onnx"


BUILT_FILES: Final = (*(graph_path(model) for model in ENGINES), *DETECTOR_FILES, TOKENIZER_PATH)
"""All that is built, by its path in a repository on the cpu profile."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """Where a model's weights and tokenizer come from."""

    preset: Preset
    tokenizer: Path
    """A tokenizer.json."""
    seed: int = 0
    """Of untrained weights, where no checkpoint is given; >= 0."""
    checkpoint: Path | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise BuildUsageError(f"seed {self.seed} must be >= 0; give another")

    def as_json(self) -> dict[str, Any]:
        """What the manifest says of the source, as far as it is known without reading the weights."""
        if self.checkpoint is None:
            return {"kind": "seed", "seed": self.seed}
        return {"kind": "checkpoint", "file": self.checkpoint.name, "sha256": assets.file_sha256(self.checkpoint)}

    def key(self) -> str:
        """Hash of all that the graphs depend on: weights, preset, files taken over, package versions, this package's code."""
        pretrained = assets.weight_files(self.preset.text) if self.checkpoint is None else []
        return facts_sha256(
            {
                "preset": self.preset.sha256,
                "source": self.as_json(),
                "assets": [assets.file_sha256(path) for path in (self.tokenizer, *pretrained)],
                "code": code_sha256(),
                "preprocessing": preprocessing(),
                "versions": versions(),
            }
        )

    def make(self, folder: Path, report: Report) -> "GraphFacts":
        """See `make_graphs`."""
        return make_graphs(self, folder, report)


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphFacts:
    """What is known of a set of graphs, as a cache and a manifest keep it."""

    preset: Mapping[str, Any]
    """The preset with the sizes that the checkpoint has."""
    sha256: str
    """Content hash that names the model."""
    source: Mapping[str, Any]
    modality_weights: Mapping[str, float]
    """What each modality's logits are multiplied with before they are added up."""
    branches: Mapping[str, Mapping[str, Any]]
    """What training found out about each modality, see `fv2es_builders.trained.BranchFacts`; empty where nothing is known."""
    parity: Mapping[str, Mapping[str, Any]]
    """Measured differences by the graph's name; empty where the graphs were taken over from a repository."""
    seconds: Mapping[str, float]
    """How long each graph took."""


def make_graphs(source: ModelSource, folder: Path, report: Report) -> GraphFacts:
    """Write the model's graphs and the face detector's, each admitted by parity with its modules, and the tokenizer.

    Args:
        source: weights and tokenizer.
        folder: gets the files at their places in a repository.
        report: told what is going on.

    Raises:
        AssetError, CheckpointError: weights or the tokenizer can't be used.
        ParityError: a file does not reproduce its modules; it stays in `folder`.
    """
    report("loading PyTorch")
    from fv2es_builders.cases import parity_inputs
    from fv2es_builders.export import served_parts
    from fv2es_builders.modules.model import weights_sha256

    loaded = _load(source, report)
    preset = loaded.model.preset
    text = assets.load_tokenizer(source.tokenizer, vocabulary=int(preset.text.config["vocab_size"]))
    weights = weights_sha256(loaded.model)
    cases = parity_inputs(loaded.model, text, seed=source.seed)
    parity: dict[str, Figures] = {}
    seconds: dict[str, float] = {}
    for reference, module, spec in served_parts(loaded.model):
        parity[spec.name], seconds[spec.name] = export_part(
            reference, module, spec, cases[spec.name], preset, folder, report
        )
    report("exporting the face detector")
    for name, figures, duration_s in _detector_files(loaded, folder, seed=source.seed):
        parity[name], seconds[name] = figures, duration_s
    target = folder / TOKENIZER_PATH
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.tokenizer, target)
    return GraphFacts(
        preset=preset.as_json(),
        sha256=content_sha256(preset, weights=weights, tokenizer=source.tokenizer),
        source={**source.as_json(), **loaded.facts},
        modality_weights=dict(zip(MODALITIES, loaded.model.weighted_fusion.weight[0].tolist(), strict=True)),
        branches={name: dataclasses.asdict(own) for name, own in loaded.branches.items()},
        parity={name: dataclasses.asdict(figures) for name, figures in parity.items()},
        seconds=seconds,
    )


def export_part(
    reference: "nn.Module",
    module: "nn.Module",
    spec: "GraphSpec",
    inputs: "NamedInputs",
    preset: Preset,
    folder: Path,
    report: Report,
) -> tuple[Figures, float]:
    """Write one served part's graph to its place and prove it; its differences, and how many seconds that took.

    Args:
        reference: what it is compared with.
        module: what is exported.
        spec: of the graph.
        inputs: what both are given.
        preset: named in the file.
        folder: gets the file at its place in a repository.
        report: told what is going on.

    Raises:
        ParityError: the file does not reproduce `reference`; it stays in `folder`.
    """
    from fv2es_builders.export import onnx_from_module
    from fv2es_builders.modules.model import weights_sha256

    report(f"exporting {spec.name}")
    started = time.perf_counter()
    path = folder / graph_path(spec.name)
    onnx_from_module(
        module, spec, path, metadata={"fv2es.preset": preset.name, "fv2es.weights": weights_sha256(module)}
    )
    expected = [case_from_module(name, reference, arrays, spec.outputs) for name, arrays in inputs]
    figures = accept(path, onnx_runner(path), cases=expected, atol=ATOL["export"])
    return figures, time.perf_counter() - started


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """A model with what belongs to it."""

    model: "V2EM"
    detector: "Mapping[NetName, Sequence[NDArray[Any]]] | None" = None
    """The face detector's weights; None: those of the package mtcnn."""
    branches: Mapping[str, BranchFacts] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What an import found out, for the manifest."""


def _load(source: ModelSource, report: Report) -> _Loaded:
    if source.checkpoint is None:
        from fv2es_builders.modules.model import seeded_model

        report(f"making untrained weights of {source.preset.name} from seed {source.seed}")
        return _Loaded(model=seeded_model(source.preset, source.seed, assets.encoder_weights(source.preset.text)))
    from fv2es_builders.importing import model_from_checkpoint

    report(f"importing {source.checkpoint.name}")
    imported = model_from_checkpoint(source.checkpoint, source.preset)
    if imported.preset.temporal.dim != EMBEDDING_DIM:
        raise UnknownSize(
            source.checkpoint,
            f"its features are {imported.preset.temporal.dim} wide (trans_dim), and what is served is {EMBEDDING_DIM}; "
            f"train with trans_dim {EMBEDDING_DIM}, as the published model",
        )
    report(
        f"{imported.architecture} in {imported.form} form: {imported.num_used} keys used, {len(imported.ignored)} ignored, "
        f"face detector from {'the package mtcnn' if imported.detector is None else 'the checkpoint'}"
    )
    facts = {
        "architecture": imported.architecture,
        "form": imported.form,
        "num_keys_used": imported.num_used,
        "ignored_keys": dict(imported.ignored),
        "detector": "package mtcnn" if imported.detector is None else "checkpoint",
        "licence": "the checkpoint's own; ask whoever published it",
    }
    return _Loaded(model=imported.model, detector=imported.detector, branches=imported.branches, facts=facts)


def _detector_files(loaded: _Loaded, folder: Path, *, seed: int) -> Iterator[tuple[str, Figures, float]]:
    """Write and prove the face detector's nets; name, differences and seconds of each."""
    from fv2es_builders.detector import NETS, DetectorNet, onnx_from_detector, parity_inputs
    from fv2es_builders.golden import load_golden

    pictures = list(load_golden().faces)
    for name in NETS:
        started = time.perf_counter()
        arrays = loaded.detector[name] if loaded.detector else None
        path = onnx_from_detector(name, folder / "faces" / "1" / f"{name}.onnx", arrays)
        net = DetectorNet(name, arrays).eval()
        cases = [
            case_from_module(case, net, inputs, ("probability", "offsets"))
            for case, inputs in parity_inputs(name, seed=seed, pictures=pictures)
        ]
        yield name, accept(path, onnx_runner(path), cases=cases, atol=ATOL["detector"]), time.perf_counter() - started
