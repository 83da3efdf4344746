"""The acoustic branch of MME2E: the same convolutions as its visual branch, on the spectrum as one picture.

Source: Dai et al. 2021, "Multimodal End-to-End Sparse Model for Emotion Recognition", and its published model.
"""

import copy

from torch import Tensor, nn

from fv2es_builders.modules.acoustic import AcousticBranch
from fv2es_builders.modules.visual import VggBlock, conv_trunk, fold_trunk
from fv2es_builders.presets import VggAcousticSize
from fv2es_pipelines import constants


def vgg_acoustic_trunk(size: VggAcousticSize) -> nn.Sequential:
    """The convolutions: pieces as one channel [P, 1, 128, 32] -> [P, last stage's channels, 8, 2]."""
    return conv_trunk(1, size.stem_channels, size.stage_channels, VggBlock)


def vgg_acoustic_head(size: VggAcousticSize, dim: int) -> nn.Sequential:
    """The layers after the convolutions: [P, channels * 8 * 2] -> [P, dim]."""
    halvings = len(size.stage_channels) + 1
    cells = (constants.NUM_MELS >> halvings) * (constants.PIECE_FRAMES >> halvings)
    channels = size.stage_channels[-1][-1]
    return nn.Sequential(nn.Linear(channels * cells, size.hidden), nn.ReLU(), nn.Linear(size.hidden, dim))


class VggAcousticBranch(AcousticBranch):
    """Pieces of the spectrum to features. Takes the pieces as they are served to V2EM and undoes their split into channels."""

    def forward(self, pieces: Tensor) -> Tensor:
        """Features of each piece.

        Args:
            pieces: [P, 4, 32, 32] float32, power of the mel spectrum; channel c holds mels 32 c to 32 c + 31.

        Returns:
            [P, dim] float32.
        """
        spectrum = pieces.reshape(-1, 1, constants.NUM_MELS, constants.PIECE_FRAMES)  # [P, 1, 128, 32]: mels in order
        features: Tensor = super().forward(spectrum)  # [P, dim]
        return features

    def folded(self) -> "VggAcousticBranch":
        """A copy for serving: every batch norm is folded into the convolution before it. The original stays as it is."""
        branch = copy.deepcopy(self).eval()
        fold_trunk(branch.trunk)
        return branch
