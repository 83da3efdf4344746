"""A net to train on from a graph that is served: what was trained is not part of the project, its graph is.

Each folded kernel becomes the 3x3 branch of its block, with a batch norm whose statistics are those of training faces: the net
answers in training as in evaluation as the graph does. The other branches begin with weight 0, and learn.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from fv2es_builders.errors import TrainingError
from fv2es_builders.graphs import graph_path
from fv2es_builders.modules.visual import RepVGGBlock
from fv2es_builders.storage import restored
from fv2es_builders.training.face_augment import FaceAugment
from fv2es_builders.training.faces import Faces
from fv2es_builders.training.visual import FaceNet, face_bank

NUM_MEASURED: Final = 2048
"""Faces whose activations give the statistics."""

FILTER_NORM: Final = 1.0
"""Of a filter, on average over a layer. The batch norm after it makes it of no effect on the answers, but it decides how far a step
turns the filter. 0.9 to 1.1 was measured where steps of rate 0.02 and decay 5e-4 balance, for all nine layers of the starter."""


@torch.no_grad()
def start_from_repository(net: FaceNet, repository: Path, train: Faces, *, seed: int) -> None:
    """Give a net the weights of the visual branch of a repository, in training form, and fit its linear layer on faces.

    Args:
        net: is changed, and left in evaluation mode.
        repository: on profile cpu, in fp32 or fp16.
        train: faces to measure and fit on.
        seed: of which faces are measured, and their augmentation.

    Raises:
        TrainingError: the repository has no such graph, or it is of other sizes than `net`.
    """
    path = repository / graph_path("visual")
    try:
        graph = restored(onnx.load(str(path))).graph
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path}: can't be started from ({error}); name a repository of profile cpu") from error
    weights = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(train), generator=generator)[:NUM_MEASURED]
    try:
        _unfold(net.V, weights, FaceAugment(generator)(train.rows(rows).images))
        net.v_flatten.load_state_dict({name: weights[f"head.{name}"] for name in net.v_flatten.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise TrainingError(
            f"{path}: can't be started from ({error}); it is of another preset, or not folded"
        ) from error
    _fit_probe(net, train, seed=seed)


def _unfold(trunk: nn.Sequential, weights: Mapping[str, Tensor], x: Tensor) -> None:
    """Fill a trunk layer by layer; x: normalised faces [F, 3, 48, 48]."""
    stem, norm, *rest = trunk
    x = _filled(stem, norm, weights, "trunk.0", x)
    nn.init.zeros_(stem.get_parameter("bias"))
    for number, layer in enumerate(rest, start=2):
        if not isinstance(layer, RepVGGBlock):
            x = layer(x)
            continue
        dense, point = layer.rbr_dense, layer.rbr_1x1
        if dense is None or point is None:
            raise RuntimeError(f"block {number} of the net is folded")
        _silence(point.bn, point.conv(x))
        if layer.rbr_identity is not None:
            _silence(layer.rbr_identity, x)
        x = torch.relu(_filled(dense.conv, dense.bn, weights, f"trunk.{number}.rbr_reparam", x))


def _filled(conv: nn.Module, norm: nn.Module, weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Give a convolution and the batch norm after it what a folded kernel with its bias does; what that makes of x."""
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)) or kernel.shape != conv.weight.shape:
        raise RuntimeError(f"{name}.weight has shape {list(kernel.shape)}, the net's differs")
    out = functional.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
    scale = FILTER_NORM * math.sqrt(len(kernel)) / float(kernel.norm().clamp(min=1e-12))
    conv.weight.copy_(kernel * scale)
    mean, var = _measure(norm, out * scale)
    deviation = torch.sqrt(var + norm.eps)
    norm.weight.copy_(deviation / scale)
    norm.bias.copy_(bias + mean / scale)
    return out + bias[:, None, None]


def _silence(norm: nn.BatchNorm2d, x: Tensor) -> None:
    """A batch norm that knows the statistics of x [F, C, H, W] and passes nothing on yet."""
    _measure(norm, x)
    norm.weight.zero_()
    norm.bias.zero_()


def _measure(norm: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Set running statistics to those of x [F, C, H, W]; mean and variance [C]."""
    if norm.running_mean is None or norm.running_var is None:
        raise RuntimeError("a batch norm keeps no running statistics")
    norm.running_mean.copy_(x.mean(dim=(0, 2, 3)))
    norm.running_var.copy_(x.var(dim=(0, 2, 3)))
    return norm.running_mean, norm.running_var


def _fit_probe(net: FaceNet, train: Faces, *, seed: int) -> None:
    """The linear layer that only training has, by L-BFGS on features of augmented faces."""
    bank = face_bank(net, train, num_forms=1, seed=seed)
    with torch.enable_grad():
        search = torch.optim.LBFGS(net.probe.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            search.zero_grad()
            loss = functional.cross_entropy(net.probe(bank.features[0]), bank.labels, label_smoothing=0.05)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        search.step(closure)  # type: ignore[no-untyped-call]
    net.zero_grad(set_to_none=True)
