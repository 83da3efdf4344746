"""The nets that a peer computes with, and how one utterance is scored with them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from benchmarks.peers.answer import Clock, Sample, Scored
from benchmarks.peers.media import Rgb
from benchmarks.peers.mtcnn import Floats, Net
from benchmarks.peers.plan import Span
from fv2es_builders.presets import MODALITIES

Features = Any
"""Rows of 64 numbers, in whatever form the nets keep them."""


class Nets(Protocol):
    """What all peers that compute the whole model have."""

    @property
    def labels(self) -> Sequence[str]:
        """In the order of logits."""

    @property
    def detector(self) -> Mapping[str, Net]:
        """P-, R- and O-Net as pnet, rnet, onet."""

    def visual(self, faces: npt.NDArray[np.uint8]) -> Features:
        """Features of an utterance's faces [N, 48, 48, 3]."""

    def acoustic(self, pieces: Tensor) -> Features:
        """Features of an utterance's pieces [M, 4, 32, 32]."""

    def text(self, words: str) -> Features:
        """Logits of the words."""

    def fuse(self, visual: Features | None, acoustic: Features | None, text: Features | None) -> tuple[Floats, Floats]:
        """Probabilities [C] and logits of text, visual, acoustic [3, C]; what is None has no part."""


def score(
    nets: Nets, clock: Clock, span: Span, *, faces: Sequence[Rgb], pieces: Tensor | None, samples: Sequence[Sample]
) -> Scored:
    """One utterance by itself, as the original does it.

    Args:
        nets: with which.
        clock: gets the times of the steps.
        span: the utterance.
        faces: its faces, each [48, 48, 3]; none: no face was found.
        pieces: its sound; None: no sound.
        samples: what is said of its pictures.
    """
    visual = acoustic = text = None
    if faces:
        with clock.step("visual"):
            visual = nets.visual(np.stack(faces))
    if pieces is not None:
        with clock.step("acoustic"):
            acoustic = nets.acoustic(pieces)
    if span.text.strip():
        with clock.step("text"):
            text = nets.text(span.text)
    with clock.step("fusion"):
        probabilities, modality_logits = nets.fuse(visual, acoustic, text)
    present = {"text": text is not None, "visual": visual is not None, "acoustic": acoustic is not None}
    return Scored(
        start_s=span.start_s,
        end_s=span.end_s,
        probabilities=dict(zip(nets.labels, probabilities.tolist(), strict=True)),
        modality_logits={
            name: dict(zip(nets.labels, row.tolist(), strict=True))
            for name, row in zip(MODALITIES, modality_logits, strict=True)
            if present[name]
        },
        samples=tuple(samples),
    )
