"""PyTorch modules to ONNX files.

Opset 20: the first in which both layer normalisation (17) and GELU (20) are one node each; ONNX Runtime runs them as they are and
the parser of TensorRT 10.12 and later knows them.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import onnx
import torch
from torch import Tensor, nn

from fv2es_builders.modules.model import V2EM
from fv2es_builders.presets import Preset
from fv2es_builders.simplify import simplify

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPSET: Final = 20
"""See the module's docstring."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphSpec:
    """Names and dynamic axes of a graph."""

    name: str
    inputs: Mapping[str, Tensor]
    """Example inputs in the order of the module's arguments. Dynamic axes are at least 2 long, or they would be fixed."""
    axes: Mapping[str, Mapping[int, str]]
    """Names of each input's dynamic axes by position."""
    outputs: tuple[str, ...]


def visual_spec(preset: Preset) -> GraphSpec:
    """FACES uint8 [F, 48, 48, 3] -> VISUAL float32 [F, dim]."""
    _ = preset
    faces = torch.zeros(2, 48, 48, 3, dtype=torch.uint8)
    return GraphSpec(name="visual", inputs={"FACES": faces}, axes={"FACES": {0: "F"}}, outputs=("VISUAL",))


def acoustic_spec(preset: Preset) -> GraphSpec:
    """PIECES float32 [P, 4, 32, 32] -> ACOUSTIC float32 [P, dim]."""
    _ = preset
    pieces = torch.zeros(2, 4, 32, 32)
    return GraphSpec(name="acoustic", inputs={"PIECES": pieces}, axes={"PIECES": {0: "P"}}, outputs=("ACOUSTIC",))


def text_spec(preset: Preset) -> GraphSpec:
    """INPUT_IDS, ATTENTION_MASK int64 [U, L] -> TEXT float32 [U, C]."""
    _ = preset
    axes = {0: "U", 1: "L"}
    return GraphSpec(
        name="text",
        inputs={
            "INPUT_IDS": torch.ones(2, 7, dtype=torch.int64),
            "ATTENTION_MASK": torch.ones(2, 7, dtype=torch.int64),
        },
        axes={"INPUT_IDS": axes, "ATTENTION_MASK": axes},
        outputs=("TEXT",),
    )


def fusion_spec(preset: Preset) -> GraphSpec:
    """Features, indices and masks -> LOGITS, PROBABILITIES, MODALITY_LOGITS, PRESENT."""
    dim, num_labels = preset.temporal.dim, len(preset.labels)
    return GraphSpec(
        name="fusion",
        inputs={
            "VISUAL": torch.zeros(6, dim),
            "FACE_INDEX": torch.zeros(2, 4, dtype=torch.int64),
            "FACE_MASK": torch.ones(2, 4, dtype=torch.bool),
            "ACOUSTIC": torch.zeros(7, dim),
            "PIECE_INDEX": torch.zeros(2, 5, dtype=torch.int64),
            "PIECE_MASK": torch.ones(2, 5, dtype=torch.bool),
            "TEXT": torch.zeros(2, num_labels),
            "WORDS_MASK": torch.ones(2, dtype=torch.bool),
        },
        axes={
            "VISUAL": {0: "F"},
            "FACE_INDEX": {0: "U", 1: "N"},
            "FACE_MASK": {0: "U", 1: "N"},
            "ACOUSTIC": {0: "P"},
            "PIECE_INDEX": {0: "U", 1: "M"},
            "PIECE_MASK": {0: "U", 1: "M"},
            "TEXT": {0: "U"},
            "WORDS_MASK": {0: "U"},
        },
        outputs=("LOGITS", "PROBABILITIES", "MODALITY_LOGITS", "PRESENT"),
    )


def served_parts(model: V2EM) -> list[tuple[nn.Module, nn.Module, GraphSpec]]:
    """What is served of a model: (module to compare with, module to export, graph). Visual and acoustic branch are exported folded."""
    preset = model.preset
    visual = model.visual.eval()
    acoustic, text, fusion = model.acoustic.eval(), model.text.eval(), model.fusion.eval()
    return [
        (visual, visual.folded(), visual_spec(preset)),
        (acoustic, acoustic.folded(), acoustic_spec(preset)),
        (text, text, text_spec(preset)),
        (fusion, fusion, fusion_spec(preset)),
    ]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says about itself: absent torchvision, and its own use of deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|copyreg|onnxscript)(\.|$)")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(torch|copyreg|onnxscript)(\.|$)")
            yield
    finally:
        logger.setLevel(level)


def onnx_from_module(
    module: nn.Module, spec: GraphSpec, path: Path, *, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a module as an ONNX file of opset 20 with dynamic axes. The file is not yet proven: see `fv2es_builders.parity`.

    Args:
        module: in evaluation mode; its positional arguments are `spec.inputs`.
        spec: names and axes.
        path: where to write; its folder is made.
        metadata: pairs to keep in the file.

    Returns:
        `path`.
    """
    axes = tuple(dict.fromkeys(spec.axes[name], torch.export.Dim.DYNAMIC) for name in spec.inputs)
    with _quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(spec.inputs.values()),
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            dynamic_shapes=axes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            optimize=True,
        )
    if program is None:
        raise TypeError("torch.onnx.export returned no program; it does so only when it is given a path")
    simplify(program.model)
    model = program.model_proto
    _name_axes(model, spec)
    _strip(model)
    model.graph.name = spec.name
    onnx.helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def _name_axes(model: onnx.ModelProto, spec: GraphSpec) -> None:
    """Give the dynamic axes of inputs and outputs the names of the specification, where the exporter made up some."""
    renamed: dict[str, str] = {}
    for value in model.graph.input:
        for axis, name in spec.axes[value.name].items():
            renamed[value.type.tensor_type.shape.dim[axis].dim_param] = name
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in renamed:
                dim.dim_param = renamed[dim.dim_param]


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter noted for debugging: it names files of this machine and is larger than the small graphs."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""


def arrays(tensors: Mapping[str, Tensor]) -> "dict[str, NDArray[Any]]":
    """Tensors as arrays, for ONNX Runtime."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
