"""The sizes of a model, read from the shapes of a checkpoint's tensors.

What shapes don't show comes from the preset or from a rule that is named here. A tensor that is absent, or has too few axes, is
passed over: the preset's size stands in, and the comparison with the model that follows names the tensor.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from fv2es_builders.errors import LabelMismatch, MixedForms, UnknownModel, UnknownSize
from fv2es_builders.presets import (
    ALBERT_BASE_V2,
    MINILM_L6,
    AcousticSize,
    Architecture,
    EncoderKind,
    Preset,
    SpeechAcousticSize,
    TemporalSize,
    TextSize,
    VggAcousticSize,
    VisualSize,
)
from fv2es_pipelines import constants

Form = Literal["training", "folded"]
"""Whether the RepVGG blocks stand in several branches or in one kernel. MME2E has no such blocks: always `training`."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor by its key."""

_NEST_HEAD_CHANNELS: Final = 32
"""Channels of an attention head. Source: timm's NesT (tiny, small and base: dims 96 to 512, heads 3 to 16)."""

_BERT_HEAD_CHANNELS: Final = 64
"""Channels of an attention head. Source: BERT (Devlin et al. 2019), base and large."""

_ALBERT_PUBLISHED: Final[Mapping[tuple[int, int], tuple[int, int]]] = {
    (768, 3072): (12, 12),
    (1024, 4096): (24, 16),
    (2048, 8192): (24, 16),
    (4096, 16384): (12, 64),
}
"""Layers and heads of ALBERT by width and inner width. All layers share their weights, so no shape shows their number. Source:
the configurations published with albert-{base,large,xlarge,xxlarge}-v2."""

_FIRST_BLOCK: Final = 4
"""Position of the first block in a trunk, after convolution, batch norm, ReLU and pooling."""

_MAX_NEST_LEVELS: Final = 3
"""A fourth level would be smaller than a block of attention."""


def architecture_of(shapes: Shapes, path: Path) -> Architecture:
    """Whose checkpoint this is, told by the keys of the acoustic net.

    Raises:
        UnknownModel: none of those that are known.
    """
    if any(name.startswith(("A.0.levels.", "A.0.patch_embed.")) for name in shapes):
        return "v2em"
    if any(re.match(r"A\.\d+\.conv[12]\.", name) for name in shapes):
        return "mme2e"
    if "A.0.stem1.weight" in shapes:
        return "v2em-speech"
    hint = "name a checkpoint of one of these two models"
    if any(name.startswith(("A.sparse_layers.", "A.low_level.")) for name in shapes):
        hint = "this one is MME2E in its sparse form, which is not supported; train or take its dense form"
    raise UnknownModel(path, keys=sorted(shapes), hint=hint)


def form_of(shapes: Shapes, path: Path) -> Form:
    """Whether the visual blocks are folded.

    Raises:
        MixedForms: some are and others are not.
    """
    folded: set[str] = set()
    branched: set[str] = set()
    for name in shapes:
        found = re.match(r"(V\.\d+)\.rbr_(reparam|dense|1x1|identity)\.", name)
        if found:
            (folded if found[2] == "reparam" else branched).add(found[1])
    if folded and branched:
        raise MixedForms(path, folded=sorted(folded), branched=sorted(branched))
    return "folded" if folded else "training"


def sized_preset(preset: Preset, shapes: Shapes, path: Path) -> Preset:
    """The preset with the sizes of a checkpoint.

    Args:
        preset: labels and whatever shapes don't show: heads over time, and heads and layers where its own sizes agree.
        shapes: of all tensors.
        path: of the file, for messages.

    Raises:
        LabelMismatch: another number of labels.
        UnknownModel: another model's keys.
        UnknownSize: no rule gives a size that shapes don't show.
    """
    architecture = architecture_of(shapes, path)
    num_labels = _axis(shapes, "v_out.weight", 0, len(preset.labels))
    if num_labels != len(preset.labels):
        raise LabelMismatch(path, found=num_labels, labels=preset.labels, preset=preset.name)
    acoustic: AcousticSize | VggAcousticSize | SpeechAcousticSize
    visual_kernels = r"V\.(\d+)\.(?:rbr_dense\.conv|rbr_reparam)\.weight"
    if architecture == "v2em":
        known = preset.acoustic if isinstance(preset.acoustic, AcousticSize) else AcousticSize()
        acoustic = _nest_size(known, shapes, path)
    elif architecture == "v2em-speech":
        speech = preset.acoustic if isinstance(preset.acoustic, SpeechAcousticSize) else SpeechAcousticSize()
        acoustic = dataclasses.replace(
            speech,
            dim=_axis(shapes, "A.0.positions", 1, speech.dim),
            layers=_count(shapes, "A.0.layers."),
            feed_forward=_axis(shapes, "A.0.layers.0.linear1.weight", 0, speech.feed_forward),
        )
    else:
        vgg = preset.acoustic if isinstance(preset.acoustic, VggAcousticSize) else VggAcousticSize()
        visual_kernels = r"V\.(\d+)\.conv2\.weight"
        acoustic = VggAcousticSize(
            stem_channels=_axis(shapes, "A.0.weight", 0, vgg.stem_channels),
            stage_channels=_stages(
                shapes, r"A\.(\d+)\.conv2\.weight", "a_flatten", (constants.NUM_MELS, constants.PIECE_FRAMES)
            )
            or vgg.stage_channels,
            hidden=_axis(shapes, "a_flatten.0.weight", 0, vgg.hidden),
        )
    visual = VisualSize(
        stem_channels=_axis(shapes, "V.0.weight", 0, preset.visual.stem_channels),
        stage_channels=_stages(shapes, visual_kernels, "v_flatten", (constants.FACE_SIZE_PX, constants.FACE_SIZE_PX))
        or preset.visual.stage_channels,
        hidden=_axis(shapes, "v_flatten.0.weight", 0, preset.visual.hidden),
    )
    return dataclasses.replace(
        preset,
        visual=visual,
        acoustic=acoustic,
        temporal=_temporal_size(preset.temporal, shapes, path),
        text=_text_size(preset.text, shapes, path),
    )


def _axis(shapes: Shapes, name: str, axis: int, default: int) -> int:
    """Length of one axis of a tensor, where there is one and it is not empty."""
    shape = shapes.get(name, ())
    return shape[axis] or default if axis < len(shape) else default


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbers from 0 on, without a gap, follow the prefix in keys."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in shapes if name.startswith(prefix)}
    count = 0
    while str(count) in numbers:
        count += 1
    return count


def _stages(shapes: Shapes, kernels: str, head: str, sides: tuple[int, int]) -> tuple[tuple[int, ...], ...] | None:
    """Output channels of a trunk's blocks by stage; None where blocks and the layer after them do not go together.

    Args:
        shapes: of all tensors.
        kernels: pattern of the key of the kernel that gives a block's output channels; its group is the block's position.
        head: name of the layers after the trunk.
        sides: height and width of what comes in.
    """
    channels = {int(found[1]): _axis(shapes, name, 0, 0) for name in shapes if (found := re.fullmatch(kernels, name))}
    stages: list[tuple[int, ...]] = []
    expected = _FIRST_BLOCK
    for position in sorted(channels):
        if position == expected and stages:
            stages[-1] += (channels[position],)
        elif position == expected + bool(stages):  # after a pooling
            stages.append((channels[position],))
        else:
            return None
        expected = position + 1
    halvings = len(stages) + 1  # one more after the first convolution
    cells = (sides[0] >> halvings) * (sides[1] >> halvings)
    if not stages or min(channels.values()) < 1 or stages[-1][-1] * cells != _axis(shapes, f"{head}.0.weight", 1, 0):
        return None
    return tuple(stages)


def _nest_size(known: AcousticSize, shapes: Shapes, path: Path) -> AcousticSize:
    levels = _count(shapes, "A.0.levels.")
    hidden = _axis(shapes, "a_flatten.0.weight", 0, known.hidden)
    if not 1 <= levels <= _MAX_NEST_LEVELS:
        return dataclasses.replace(known, hidden=hidden)
    dims, depths = [], []
    for level in range(levels):
        own = known.dims[level] if level < len(known.dims) else _NEST_HEAD_CHANNELS
        dims.append(_axis(shapes, f"A.0.levels.{level}.pos_embed", 3, own))
        depths.append(_count(shapes, f"A.0.levels.{level}.transformer_encoder."))
    heads = known.heads
    if tuple(dims) != known.dims:
        odd = [dim for dim in dims if dim % _NEST_HEAD_CHANNELS]
        if odd:
            raise UnknownSize(
                path,
                f"levels of the acoustic net are {dims} wide; with {_NEST_HEAD_CHANNELS} channels a head {odd} can't be divided "
                "into heads: give a preset whose acoustic size has these dims, and with it their heads",
            )
        heads = tuple(dim // _NEST_HEAD_CHANNELS for dim in dims)
    return dataclasses.replace(known, dims=tuple(dims), heads=heads, depths=tuple(depths), hidden=hidden)


def _temporal_size(known: TemporalSize, shapes: Shapes, path: Path) -> TemporalSize:
    layers = "v_transformer.encoder.layers."
    dim = _axis(shapes, "v_transformer.cls_emb.weight", 1, known.dim)
    if dim % known.heads:
        raise UnknownSize(
            path,
            f"features over time are {dim} wide, which the preset's {known.heads} heads do not divide; give a preset with the "
            "number of heads that the checkpoint was trained with (no shape shows it)",
        )
    return dataclasses.replace(
        known,
        dim=dim,
        layers=_count(shapes, layers) or known.layers,
        feed_forward=_axis(shapes, f"{layers}0.linear1.weight", 0, known.feed_forward),
    )


def _text_size(known: TextSize, shapes: Shapes, path: Path) -> TextSize:
    """The preset's text size where the shapes agree with it; else what they show, with the published rules for the rest."""
    kinds: list[EncoderKind] = [kind for kind in ("albert", "bert") if _count_prefix(shapes, f"T.{kind}.")]
    kind = kinds[0] if kinds else known.kind
    found = _albert_facts(shapes) if kind == "albert" else _bert_facts(shapes)
    if kind == known.kind:
        own = _effective_config(known)
        if all(own[name] == value for name, value in found.items()):
            return known
    base = known if kind == known.kind else (ALBERT_BASE_V2 if kind == "albert" else MINILM_L6)
    hidden, inner = found.get("hidden_size", 0), found.get("intermediate_size", 0)
    if kind == "albert":
        if (hidden, inner) not in _ALBERT_PUBLISHED:
            raise UnknownSize(
                path,
                f"its ALBERT is {hidden} wide ({inner} inside), which is none of the published ones, and no shape shows its "
                f"number of layers: give a preset whose text size has {found}",
            )
        layers, heads = _ALBERT_PUBLISHED[hidden, inner]
        found |= {"num_hidden_layers": layers, "num_attention_heads": heads}
    else:
        if hidden % _BERT_HEAD_CHANNELS:
            raise UnknownSize(
                path,
                f"its BERT is {hidden} wide, which {_BERT_HEAD_CHANNELS} channels a head do not divide: give a preset whose text "
                f"size has {found}, and with it the number of heads",
            )
        found["num_attention_heads"] = hidden // _BERT_HEAD_CHANNELS
    return TextSize(kind=kind, config={**base.config, **found}, package=None)


def _count_prefix(shapes: Shapes, prefix: str) -> int:
    return sum(name.startswith(prefix) for name in shapes)


def _effective_config(size: TextSize) -> dict[str, Any]:
    """All options of an encoder, those included that the preset leaves at their defaults."""
    from transformers import AlbertConfig, BertConfig

    config = AlbertConfig if size.kind == "albert" else BertConfig
    options: dict[str, Any] = config(**size.config).to_dict()
    return options


def _embedding_facts(shapes: Shapes, encoder: str, width: str) -> dict[str, int]:
    """Options that the embeddings show; only those whose tensors are there."""
    tables = {
        "vocab_size": (f"{encoder}.embeddings.word_embeddings.weight", 0),
        "max_position_embeddings": (f"{encoder}.embeddings.position_embeddings.weight", 0),
        "type_vocab_size": (f"{encoder}.embeddings.token_type_embeddings.weight", 0),
        width: (f"{encoder}.embeddings.word_embeddings.weight", 1),
    }
    return _facts(shapes, tables)


def _facts(shapes: Shapes, tables: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    found = {option: _axis(shapes, name, axis, 0) for option, (name, axis) in tables.items()}
    return {option: length for option, length in found.items() if length}


def _albert_facts(shapes: Shapes) -> dict[str, int]:
    groups = "T.albert.encoder.albert_layer_groups."
    layer = f"{groups}0.albert_layers.0"
    counts = {
        "num_hidden_groups": _count(shapes, groups),
        "inner_group_num": _count(shapes, f"{groups}0.albert_layers."),
    }
    return {
        **_embedding_facts(shapes, "T.albert", "embedding_size"),
        **_facts(shapes, {"hidden_size": (f"{layer}.ffn.weight", 1), "intermediate_size": (f"{layer}.ffn.weight", 0)}),
        **{option: count for option, count in counts.items() if count},
    }


def _bert_facts(shapes: Shapes) -> dict[str, int]:
    layers = "T.bert.encoder.layer."
    count = _count(shapes, layers)
    return {
        **_embedding_facts(shapes, "T.bert", "hidden_size"),
        **_facts(shapes, {"intermediate_size": (f"{layers}0.intermediate.dense.weight", 0)}),
        **({"num_hidden_layers": count} if count else {}),
    }
