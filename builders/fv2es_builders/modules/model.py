"""The model as a whole: faces, sound and words of an utterance to one logit for each emotion."""

import hashlib
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from fv2es_builders.errors import BuildUsageError
from fv2es_builders.modules.acoustic import AcousticBranch, Nest, acoustic_head
from fv2es_builders.modules.fusion import Fusion, FusionParts
from fv2es_builders.modules.speech_acoustic import SpeechBranch, speech_head, speech_trunk
from fv2es_builders.modules.temporal import TemporalEncoder
from fv2es_builders.modules.text import TextBranch, TextEncoder
from fv2es_builders.modules.vgg_acoustic import VggAcousticBranch, vgg_acoustic_head, vgg_acoustic_trunk
from fv2es_builders.modules.visual import VggBlock, VisualBranch, visual_head, visual_trunk
from fv2es_builders.presets import (
    MODALITIES,
    AcousticSize,
    Architecture,
    Preset,
    SpeechAcousticSize,
    VggAcousticSize,
)


class V2EM(nn.Module):
    """The trainable model; its parameter names are those of the published checkpoints.

    The four properties give the parts that are served; they share their layers with the model. `MME2E` differs in two of them.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.preset = preset
        dim, num_labels = preset.temporal.dim, len(preset.labels)
        self.T = TextEncoder(preset.text)
        self.V = self._visual_trunk(preset)
        self.A = self._acoustic_trunk(preset)
        self.v_flatten = visual_head(preset.visual, dim)
        self.a_flatten = self._acoustic_head(preset)
        self.v_transformer = TemporalEncoder(preset.temporal)
        self.a_transformer = TemporalEncoder(preset.temporal)
        self.v_out = nn.Linear(dim, num_labels)
        self.t_out = nn.Linear(self.T.config.hidden_size, num_labels)
        self.a_out = nn.Linear(dim, num_labels)
        self.weighted_fusion = nn.Linear(len(MODALITIES), 1, bias=False)

    @staticmethod
    def _visual_trunk(preset: Preset) -> nn.Sequential:
        return visual_trunk(preset.visual)

    @staticmethod
    def _acoustic_trunk(preset: Preset) -> nn.Sequential:
        return nn.Sequential(Nest(acoustic_size(preset, AcousticSize)))

    @staticmethod
    def _acoustic_head(preset: Preset) -> nn.Sequential:
        return acoustic_head(acoustic_size(preset, AcousticSize), preset.temporal.dim)

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


class MME2E(V2EM):
    """The predecessor of V2EM in its dense form: VGG blocks for faces, and for sound as one channel of 128 mels x 32 frames.

    Source: Dai et al. 2021 and its published model. Everything after the two nets is as in V2EM.
    """

    @staticmethod
    def _visual_trunk(preset: Preset) -> nn.Sequential:
        return visual_trunk(preset.visual, VggBlock)

    @staticmethod
    def _acoustic_trunk(preset: Preset) -> nn.Sequential:
        return vgg_acoustic_trunk(acoustic_size(preset, VggAcousticSize))

    @staticmethod
    def _acoustic_head(preset: Preset) -> nn.Sequential:
        return vgg_acoustic_head(acoustic_size(preset, VggAcousticSize), preset.temporal.dim)

    @property
    def acoustic(self) -> AcousticBranch:
        """Pieces of sound to features, in training form."""
        return VggAcousticBranch(self.A, self.a_flatten)


class SpeechV2EM(V2EM):
    """V2EM that hears with the first layers of a speech recogniser's encoder instead of NesT. Everything else is as in V2EM."""

    @staticmethod
    def _acoustic_trunk(preset: Preset) -> nn.Sequential:
        return speech_trunk(acoustic_size(preset, SpeechAcousticSize))

    @staticmethod
    def _acoustic_head(preset: Preset) -> nn.Sequential:
        return speech_head(acoustic_size(preset, SpeechAcousticSize), preset.temporal.dim)

    @property
    def acoustic(self) -> AcousticBranch:
        """Pieces of sound to features."""
        return SpeechBranch(self.A, self.a_flatten)


_Size = TypeVar("_Size", AcousticSize, VggAcousticSize, SpeechAcousticSize)


def acoustic_size(preset: Preset, kind: type[_Size]) -> _Size:
    """The size of the preset's acoustic branch, which must be of that kind."""
    if not isinstance(preset.acoustic, kind):
        raise BuildUsageError(
            f"{preset.name}: acoustic sizes are {type(preset.acoustic).__name__}, this model takes {kind.__name__}; "
            "make the model by empty_model(preset)"
        )
    return preset.acoustic


def empty_model(preset: Preset) -> V2EM:
    """The model of the preset's architecture, with whatever weights PyTorch starts from."""
    kinds: Mapping[Architecture, type[V2EM]] = {"v2em": V2EM, "mme2e": MME2E, "v2em-speech": SpeechV2EM}
    return kinds[preset.architecture](preset)


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
        model = empty_model(preset)
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
