"""The model as a whole: faces, sound and words of an utterance to one logit for each emotion."""

import hashlib

import torch
from torch import Tensor, nn

from fv2es_builders.modules.acoustic import AcousticBranch, Nest, acoustic_head
from fv2es_builders.modules.fusion import MODALITIES, Fusion, FusionParts
from fv2es_builders.modules.temporal import TemporalEncoder
from fv2es_builders.modules.text import TextBranch, TextEncoder
from fv2es_builders.modules.visual import VisualBranch, visual_head, visual_trunk
from fv2es_builders.presets import Preset


class V2EM(nn.Module):
    """The trainable model; its parameter names are those of the published checkpoints.

    The four properties give the parts that are served; they share their layers with the model.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        dim, num_labels = preset.temporal.dim, len(preset.labels)
        self.T = TextEncoder(preset.text)
        self.V = visual_trunk(preset.visual)
        self.A = nn.Sequential(Nest(preset.acoustic))
        self.v_flatten = visual_head(preset.visual, dim)
        self.a_flatten = acoustic_head(preset.acoustic, dim)
        self.v_transformer = TemporalEncoder(preset.temporal)
        self.a_transformer = TemporalEncoder(preset.temporal)
        self.v_out = nn.Linear(dim, num_labels)
        self.t_out = nn.Linear(self.T.config.hidden_size, num_labels)
        self.a_out = nn.Linear(dim, num_labels)
        self.weighted_fusion = nn.Linear(len(MODALITIES), 1, bias=False)

    @property
    def visual(self) -> VisualBranch:
        """Faces to features, in training form."""
        return VisualBranch(self.V, self.v_flatten)

    @property
    def acoustic(self) -> AcousticBranch:
        """Pieces of sound to features."""
        return AcousticBranch(self.A, self.a_flatten)

    @property
    def text(self) -> TextBranch:
        """Tokens to logits."""
        return TextBranch(self.T, self.t_out)

    @property
    def fusion(self) -> Fusion:
        """Features and text logits to the answer."""
        parts = FusionParts(
            visual_transformer=self.v_transformer,
            visual_out=self.v_out,
            acoustic_transformer=self.a_transformer,
            acoustic_out=self.a_out,
            weights=self.weighted_fusion,
        )
        return Fusion(parts, self.preset.pos_weight)


def seeded_model(preset: Preset, seed: int, encoder_weights: dict[str, Tensor] | None = None) -> V2EM:
    """An untrained model, in evaluation mode; the same arguments give the same weights.

    Args:
        preset: sizes and labels.
        seed: of PyTorch's generator, whose state outside is left as it was.
        encoder_weights: pretrained weights of the text encoder by its own parameter names; None: random ones.
    """
    from fv2es_builders.modules.text import load_encoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = V2EM(preset)
    if encoder_weights is not None:
        load_encoder(model.T, encoder_weights)
    return model.eval()


def weights_sha256(model: nn.Module) -> str:
    """Hash of all parameters and buffers with their names, types and shapes: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
