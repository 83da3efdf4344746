"""The weights of a model repository as PyTorch modules, so that all peers compute with the same ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from benchmarks.peers.errors import RepositoryUnusable
from fv2es_builders import assets
from fv2es_builders.errors import BuildUsageError
from fv2es_builders.export import served_parts
from fv2es_builders.graphs import graph_path
from fv2es_builders.manifest import MANIFEST_PATH
from fv2es_builders.modules.model import empty_model, seeded_model
from fv2es_builders.presets import Preset, preset_by_name
from fv2es_builders.storage import restored

_UNUSED = ".pooler."
"""In names of parameters that nothing reads and that are in no graph."""


def read_manifest(repository: Path) -> dict[str, Any]:
    """What a repository says of itself.

    Raises:
        RepositoryUnusable: it says nothing, or is not of profile cpu in fp32 or fp16.
    """
    try:
        manifest: dict[str, Any] = json.loads((repository / MANIFEST_PATH).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RepositoryUnusable(
            repository, f"has no readable {MANIFEST_PATH} ({error}); build it with `fv2es build`"
        ) from error
    if manifest.get("profile") != "cpu" or manifest.get("precision") not in ("fp32", "fp16"):
        raise RepositoryUnusable(
            repository,
            f"is of profile {manifest.get('profile')} in {manifest.get('precision')}; peers need profile cpu in fp32 or fp16",
        )
    return manifest


def preset_of(repository: Path) -> Preset:
    """The sizes of a repository's nets.

    Raises:
        RepositoryUnusable: its manifest is not readable, or names no preset that is known here.
    """
    try:
        return preset_by_name(read_manifest(repository)["preset"])
    except (BuildUsageError, KeyError) as error:
        raise RepositoryUnusable(repository, f"is of no preset that is known here ({error})") from error


def modules_of(repository: Path) -> dict[str, nn.Module]:
    """The four nets as they are served, by name: folded, in evaluation mode.

    Untrained weights are made from their seed; others are read out of the graphs.

    Raises:
        RepositoryUnusable: its manifest or graphs are not of a form that this can read.
        AssetError: a package with pretrained weights is missing.
    """
    manifest, preset = read_manifest(repository), preset_of(repository)
    source = manifest["source"]
    if source["kind"] == "seed":
        model = seeded_model(preset, source["seed"], assets.encoder_weights(preset.text))
        return {spec.name: module.eval() for _, module, spec in served_parts(model)}
    parts = {spec.name: module.eval() for _, module, spec in served_parts(empty_model(preset))}
    for name, module in parts.items():
        _fill(module, repository / graph_path(name))
    shift = torch.tensor(manifest["pos_weight"]).log()  # [C]
    parts["fusion"].get_buffer("shift").copy_(shift)
    return parts


@torch.no_grad()
def _fill(module: nn.Module, path: Path) -> None:
    """Put the weights of a graph into the module that it was exported from.

    Raises:
        RepositoryUnusable: the graph lacks one of them, or it has another shape.
    """
    try:
        graph = restored(onnx.load(str(path))).graph
    except (OSError, ValueError) as error:
        raise RepositoryUnusable(path, f"can't be read ({error})") from error
    constants = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    products = _products(graph, constants)
    for name, parameter in module.named_parameters():
        if _UNUSED in name:
            continue
        if name.endswith("token_type_embeddings.weight"):
            # All tokens are of the first type, whose row the exporter takes out of the table.
            row = next((tensor for key, tensor in constants.items() if key.startswith("embedding")), None)
            if row is not None and row.numel() == parameter.shape[1]:
                parameter[0] = row.flatten()
                continue
        weights = constants.get(name)
        if weights is None:
            weights = products.get(name.removesuffix("weight"))
        if weights is None or weights.shape != parameter.shape:
            found = "nothing" if weights is None else list(weights.shape)
            raise RepositoryUnusable(
                path, f"holds {found} for {name} {list(parameter.shape)}; build the repository with this version"
            )
        parameter.copy_(weights)


def _products(graph: onnx.GraphProto, constants: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The matrices of products whose bias has a name, by that name without `bias`: [out, in], as linear layers have them.

    The exporter transposes them and gives them names of its own.
    """
    matrix_of = {
        node.output[0]: constants[node.input[1]].T
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in constants
    }
    found = {}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for product, bias in (tuple(node.input), tuple(node.input)[::-1]):
            if product in matrix_of and bias.endswith("bias"):
                found[bias.removesuffix("bias")] = matrix_of[product]
    return found
