"""Flat rows back into sequences, over time, and all modalities into one answer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fv2es_builders.modules.temporal import TemporalEncoder


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionParts:
    """The layers of a model that the fusion is made of."""

    visual_transformer: TemporalEncoder
    visual_out: nn.Linear
    acoustic_transformer: TemporalEncoder
    acoustic_out: nn.Linear
    weights: nn.Linear
    """3 -> 1, without bias."""


def _sequences(rows: Tensor, index: Tensor, mask: Tensor) -> Tensor:
    """Rows [F, dim] at index [U, N] -> [U, N, dim], zero where the mask is false, whatever the rows hold there."""
    gathered = nn.functional.embedding(index, rows)  # [U, N, dim]
    return torch.where(mask.unsqueeze(-1), gathered, 0.0)


class Fusion(nn.Module):
    """Features of all utterances of a request to logits and probabilities. Shares its layers with the model."""

    shift: Tensor

    def __init__(self, parts: FusionParts, pos_weight: Sequence[float]) -> None:
        super().__init__()
        self.visual_transformer, self.visual_out = parts.visual_transformer, parts.visual_out
        self.acoustic_transformer, self.acoustic_out = parts.acoustic_transformer, parts.acoustic_out
        self.weights = parts.weights
        shift = torch.tensor([math.log(weight) for weight in pos_weight])  # [C]
        self.register_buffer("shift", shift, persistent=False)

    def forward(
        self,
        visual: Tensor,
        face_index: Tensor,
        face_mask: Tensor,
        acoustic: Tensor,
        piece_index: Tensor,
        piece_mask: Tensor,
        text: Tensor,
        words_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fuse what each modality found.

        Args:
            visual: [F, dim] float32, features of all faces of the request.
            face_index: [U, N] int64, row of `visual` at each place of each utterance's sequence; any valid row at padding.
            face_mask: [U, N] bool, true where the place holds a face.
            acoustic: [P, dim] float32, features of all pieces.
            piece_index: [U, M] int64, row of `acoustic` at each place.
            piece_mask: [U, M] bool, true where the place holds a piece.
            text: [U, C] float32, logits of the text branch.
            words_mask: [U] bool, true where the utterance has words.

        Returns:
            Logits [U, C] float32; probabilities [U, C] float32 in [0, 1], s / (s + w (1 - s)) of the sigmoid s and the label's
            pos_weight w, which is sigmoid(logit - ln w); logits of text, visual, acoustic before weighting [U, 3, C] float32,
            zeros where absent; present [U, 3] bool. A modality that is absent adds exactly nothing to the logits.
        """
        faces = self.visual_transformer(_sequences(visual, face_index, face_mask), face_mask)  # [U, dim]
        pieces = self.acoustic_transformer(_sequences(acoustic, piece_index, piece_mask), piece_mask)  # [U, dim]
        stacked = torch.stack([text, self.visual_out(faces), self.acoustic_out(pieces)], dim=1)  # [U, 3, C]
        present = torch.stack([words_mask, face_mask.any(dim=1), piece_mask.any(dim=1)], dim=1)  # [U, 3]
        modality_logits = torch.where(present.unsqueeze(-1), stacked, 0.0)  # [U, 3, C]
        logits = (self.weights.weight @ modality_logits).squeeze(1)  # [1, 3] @ [U, 3, C] -> [U, 1, C] -> [U, C]
        return logits, torch.sigmoid(logits - self.shift), modality_logits, present
