"""The model in one process, utterance by utterance, without padding, gathering or ONNX: what serving must agree with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fv2es_builders import assets
from fv2es_builders.importing import model_from_checkpoint
from fv2es_builders.modules.model import V2EM, seeded_model
from fv2es_builders.modules.temporal import TemporalEncoder
from fv2es_builders.presets import MODALITIES, preset_by_name
from fv2es_pipelines import constants

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A model with the tokenizer that belongs to it."""

    model: V2EM
    tokenizer: "Tokenizer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model says about U utterances with C labels."""

    logits: "NDArray[np.float64]"
    """[U, C]."""
    probabilities: "NDArray[np.float64]"
    """[U, C], 0..1."""
    modality_logits: "NDArray[np.float64]"
    """[U, 3, C]: text, visual, acoustic, before weighting; zeros where absent."""
    present: "NDArray[np.bool_]"
    """[U, 3]."""


def load_reference(
    preset: str = "starter", *, seed: int = 0, tokenizer: Path | None = None, checkpoint: Path | None = None
) -> Reference:
    """The same weights that `fv2es build` makes of these arguments.

    Args:
        preset: name of it.
        seed: of the untrained weights; without meaning where there is a checkpoint.
        tokenizer: see `fv2es_builders.assets.tokenizer_file`.
        checkpoint: trained weights, see `fv2es_builders.importing.model_from_checkpoint`; None: untrained ones.

    Raises:
        AssetError: weights or a tokenizer are missing.
        BuildUsageError: there is no such preset.
        CheckpointError: the checkpoint is not a whole one of this model.
    """
    known = preset_by_name(preset)
    if checkpoint is not None:
        model = model_from_checkpoint(checkpoint, known).model
    else:
        model = seeded_model(known, seed, assets.encoder_weights(known.text))
    path = assets.tokenizer_file(model.preset.text, tokenizer)
    text = assets.load_tokenizer(path, vocabulary=int(model.preset.text.config["vocab_size"]))
    text.enable_truncation(constants.MAX_TOKENS)
    return Reference(model=model, tokenizer=text)


@torch.no_grad()
def analyse_in_process(
    reference: Reference,
    *,
    faces: Sequence["NDArray[np.uint8]"],
    pieces: Sequence["NDArray[np.float32]"],
    words: Sequence[str],
) -> Answer:
    """Logits and probabilities of some utterances, by the PyTorch modules in training form.

    Args:
        reference: the model and its tokenizer.
        faces: for each utterance [N, 48, 48, 3] uint8 RGB; N = 0: no face was found.
        pieces: for each utterance [M, 4, 32, 32] float32; M = 0: no sound.
        words: for each utterance; blank: none are known.
    """
    model = reference.model.eval()
    rows = [
        _modality_logits(reference, face, piece, text) for face, piece, text in zip(faces, pieces, words, strict=True)
    ]
    num_labels = len(model.preset.labels)
    modality_logits = np.zeros((len(rows), len(MODALITIES), num_labels))
    present = np.zeros((len(rows), len(MODALITIES)), dtype=bool)
    for index, row in enumerate(rows):
        for place, modality in enumerate(MODALITIES):
            if modality in row:
                modality_logits[index, place], present[index, place] = row[modality], True
    weights = model.weighted_fusion.weight.numpy()[0].astype(np.float64)  # [3]
    logits = np.einsum("umc,m->uc", modality_logits, weights)
    sigmoid = 1 / (1 + np.exp(-logits))
    pos_weight = np.array(model.preset.pos_weight)  # [C]
    probabilities = sigmoid / (sigmoid + pos_weight * (1 - sigmoid))
    return Answer(logits=logits, probabilities=probabilities, modality_logits=modality_logits, present=present)


def _modality_logits(
    reference: Reference, faces: "NDArray[np.uint8]", pieces: "NDArray[np.float32]", words: str
) -> dict[str, "NDArray[Any]"]:
    """Logits [C] of each modality that one utterance has."""
    model = reference.model
    found: dict[str, torch.Tensor] = {}
    if words.strip():
        ids = torch.tensor([reference.tokenizer.encode(words).ids])  # [1, L]
        found["text"] = model.text.eval()(ids, torch.ones_like(ids))[0]
    if len(faces):
        features = model.visual.eval()(torch.from_numpy(np.asarray(faces)))  # [N, dim]
        found["visual"] = model.v_out(_over_time(model.v_transformer, features))
    if len(pieces):
        features = model.acoustic.eval()(torch.from_numpy(np.asarray(pieces)))  # [M, dim]
        found["acoustic"] = model.a_out(_over_time(model.a_transformer, features))
    return {modality: logits.numpy() for modality, logits in found.items()}


def _over_time(transformer: TemporalEncoder, features: torch.Tensor) -> torch.Tensor:
    """[N, dim] -> [dim]."""
    vector: torch.Tensor = transformer(features[None], torch.ones(1, len(features), dtype=torch.bool))[0]
    return vector
