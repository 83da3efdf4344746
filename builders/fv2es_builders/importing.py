"""A checkpoint to the model that it holds: every key is used or named, every shape is checked, nothing stays random."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fv2es_builders import checkpoint_detector
from fv2es_builders.checkpoint import Checkpoint, read_checkpoint
from fv2es_builders.checkpoint_sizes import Form, form_of, sized_preset
from fv2es_builders.detector import NetName
from fv2es_builders.errors import CheckpointMismatch
from fv2es_builders.modules.model import V2EM, empty_model
from fv2es_builders.modules.visual import fold_blocks
from fv2es_builders.presets import Architecture, Preset
from fv2es_builders.trained import BranchFacts, TrainedFacts

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedModel:
    """A model with a checkpoint's weights, and how it came about."""

    model: V2EM
    """In evaluation mode; of class `MME2E` where the architecture is `mme2e`."""
    preset: Preset
    """The preset that was given, with the sizes that the checkpoint has, and its `pos_weight` where the file says that."""
    architecture: Architecture
    form: Form
    """Whether the visual blocks were folded in the file; they stay so."""
    detector: "Mapping[NetName, list[NDArray[Any]]] | None"
    """The face detector's weights as `fv2es_builders.detector.DetectorNet` takes them; None: the file holds none, and those of the
    package mtcnn serve."""
    num_used: int
    """Keys of the file whose tensors are in `model` or `detector`."""
    branches: Mapping[str, BranchFacts]
    """What the file's training found out about each modality; empty where the file does not say."""
    ignored: Mapping[str, str]
    """Every other key or entry of the file, with the reason why it is of no use."""
    sha256: str
    """Of the file's bytes, 64 hexadecimal digits."""


def model_from_checkpoint(path: Path, preset: Preset) -> ImportedModel:
    """The model in a checkpoint of V2EM (the model of FV2ES) or of MME2E in its dense form.

    Args:
        path: a file of `torch.save` or `.safetensors`, see `fv2es_builders.checkpoint.read_checkpoint`. The visual blocks may stand
            in training form or folded.
        preset: labels, weights of their positive classes, and what shapes don't show, see
            `fv2es_builders.checkpoint_sizes.sized_preset`. All other sizes are read from the file.

    Raises:
        CheckpointError: the file can't be read or would run code; it is another model's; keys are missing or unknown; shapes
            or labels differ; values are not finite; blocks are mixed. Each has a class of its own.
    """
    checkpoint = read_checkpoint(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.tensors.items()}
    sized = sized_preset(preset, shapes, path)
    trained = TrainedFacts.from_metadata(checkpoint.metadata, path=path, labels=preset.labels)
    if trained.pos_weight is not None:
        sized = dataclasses.replace(sized, pos_weight=trained.pos_weight)
    form = form_of(shapes, path)
    ignored = _ignored(checkpoint.tensors, sized)
    with torch.device("meta"):  # shapes without memory
        expected = _empty(sized, form).state_dict()
    has_detector = any(name.startswith(checkpoint_detector.PREFIX) for name in shapes)
    if has_detector:
        with torch.device("meta"):
            detector_shapes = checkpoint_detector.detector_shapes()
            expected |= {name: torch.empty(shape) for name, shape in detector_shapes.items()}
    used = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in ignored}
    _compare(checkpoint, used, expected)
    with torch.random.fork_rng(devices=[]):
        model = _empty(sized, form)
    model.load_state_dict({name: used[name] for name in model.state_dict()}, strict=True)
    return ImportedModel(
        model=model.eval(),
        preset=sized,
        architecture=sized.architecture,
        form=form,
        detector=checkpoint_detector.detector_from_tensors(used) if has_detector else None,
        num_used=len(used),
        branches=trained.branches,
        ignored={**checkpoint.set_aside, **ignored},
        sha256=checkpoint.sha256,
    )


def _empty(preset: Preset, form: Form) -> V2EM:
    model = empty_model(preset)
    if form == "folded":
        fold_blocks(model.V)
    return model


def _ignored(tensors: Mapping[str, Tensor], preset: Preset) -> dict[str, str]:
    """Keys that checkpoints hold and no computation reads, with the reason."""
    numbering = "a fixed numbering that older versions of transformers saved; it is made anew"
    known = {
        **checkpoint_detector.IGNORED,
        f"T.{preset.text.kind}.embeddings.position_ids": numbering,
        f"T.{preset.text.kind}.embeddings.token_type_ids": numbering,
    }
    if preset.architecture == "v2em":
        unused = "the classifier of NesT, which the model never calls"
        known |= {"A.0.head.weight": unused, "A.0.head.bias": unused}
    return {name: reason for name, reason in known.items() if name in tensors}


def _compare(checkpoint: Checkpoint, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """All that differs between a checkpoint and its model, as one error."""
    wrong = [
        (name, _described(found[name]), _described(tensor))
        for name, tensor in expected.items()
        if name in found and (found[name].shape != tensor.shape or found[name].dtype != tensor.dtype)
    ]
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    if missing or unexpected or wrong:
        raise CheckpointMismatch(checkpoint.path, missing=missing, unexpected=unexpected, wrong=wrong)


def _described(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
