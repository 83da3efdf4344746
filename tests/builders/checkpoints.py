"""State dicts as the published training code would have saved them, made from seeded models: there is no published file here."""

import torch

from fv2es_builders.assets import detector_weights
from fv2es_builders.checkpoint_detector import LAYERS
from fv2es_builders.modules.model import seeded_model
from fv2es_builders.modules.visual import fold_blocks
from fv2es_builders.presets import Preset


@torch.no_grad()
def trained_model(preset: Preset, seed: int = 0):
    """A seeded model whose batch norms and single numbers are as training leaves them: no mean 0, no deviation 1, no bias 0."""
    model = seeded_model(preset, seed)
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.2, 3, generator=generator)
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.num_batches_tracked.fill_(1000)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.1, generator=generator)
    return model


def detector_keys() -> dict[str, torch.Tensor]:
    """The weights of the package mtcnn under the names of facenet-pytorch, landmarks included: 50 keys."""
    keys = {}
    for net, layers in LAYERS.items():
        arrays = detector_weights(net)
        for layer in layers:
            if layer == "dense6_1":  # the landmarks lie between offsets and score
                weight, bias, *arrays = arrays
                keys["mtcnn.onet.dense6_3.weight"], keys["mtcnn.onet.dense6_3.bias"] = weight.T, bias
            weight, *arrays = arrays
            if layer.startswith("prelu"):
                keys[f"mtcnn.{net}.{layer}.weight"] = weight.reshape(-1)
                continue
            bias, *arrays = arrays
            keys[f"mtcnn.{net}.{layer}.weight"] = weight.transpose(3, 2, 0, 1) if weight.ndim > 2 else weight.T
            keys[f"mtcnn.{net}.{layer}.bias"] = bias
        assert not arrays
    return {name: torch.tensor(array) for name, array in keys.items()}


def published(model, *, folded: bool = False) -> dict[str, torch.Tensor]:
    """The state dict of a model, with the detector, and with the classifier of NesT that nothing calls."""
    if folded:
        fold_blocks(model.V)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if model.preset.architecture == "v2em":
        state["A.0.head.weight"] = torch.ones(1000, model.preset.acoustic.dims[-1])
        state["A.0.head.bias"] = torch.ones(1000)
    return state | detector_keys()
