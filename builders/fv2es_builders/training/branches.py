"""Branches of the model as sets of parameters, and their weights on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors.torch import load_file
from torch import nn

from fv2es_builders.errors import TrainingError
from fv2es_builders.modules.model import V2EM

Part = Literal["visual", "acoustic", "text", "fusion"]

PARAMETERS: Final[Mapping[Part, tuple[str, ...]]] = {
    "visual": ("V.", "v_flatten.", "v_transformer.", "v_out."),
    "acoustic": ("A.", "a_flatten.", "a_transformer.", "a_out."),
    "text": ("T.", "t_out."),
    "fusion": ("",),
}
"""Beginnings of the names of the parameters that each part trains."""


@torch.no_grad()
def load_branch(model: V2EM, path: Path) -> Part:
    """Put a branch's weights into the model; which branch it is.

    Raises:
        TrainingError: a name is not the model's, a shape differs, or a branch is there in part.
    """
    weights, own = load_file(path), model.state_dict()
    unknown = sorted(weights.keys() - own.keys())
    if unknown:
        raise TrainingError(f"{path}: {unknown[0]} and {len(unknown) - 1} more are none of the model's parameters")
    begun = {name.split(".")[0] for name in weights}
    missing = sorted(name for name in own.keys() - weights.keys() if name.split(".")[0] in begun)
    if missing:
        raise TrainingError(f"{path}: {missing[0]} and {len(missing) - 1} more are missing")
    for name, tensor in weights.items():
        if tensor.shape != own[name].shape:
            raise TrainingError(
                f"{path}: {name} has shape {list(tensor.shape)}, the preset asks for {list(own[name].shape)}"
            )
        own[name].copy_(tensor)
    for part, prefixes in PARAMETERS.items():
        if begun == {prefix.rstrip(".") for prefix in prefixes}:
            return part
    raise TrainingError(f"{path}: {', '.join(sorted(begun))} are not the parts of one branch")


def load_start(module: nn.Module, path: Path | None) -> None:
    """Put weights of another run of the same kind into a module; without a path leave it as it is.

    Raises:
        TrainingError: names or shapes differ.
    """
    if path is None:
        return
    try:
        module.load_state_dict(load_file(path), strict=True)
    except (RuntimeError, OSError) as error:
        raise TrainingError(
            f"{path}: can't be started from ({error}); give the best.safetensors of such a run"
        ) from error
