"""The nets of the face detector (MTCNN) as ONNX files.

Source of the architecture: Joint Face Detection and Alignment (Zhang et al. 2016), figure 2; of the weights: the package
mtcnn, or an imported checkpoint. Every net takes

- `images` float32 [B, 3, H, W], RGB, upright (rows are the picture's rows), normalised to (x - 127.5) / 128,

and gives, for the face in the picture or in each window,

- `probability` float32 [B], of P-Net [B, h, w]; 0..1,
- `offsets` float32 [B, 4], of P-Net [B, 4, h, w]: how far x0, y0, x1, y1 lie from the picture's (window's) own, in widths and
  heights of it.

P-Net takes any H, W >= 12; its window at row i, column j covers the pixels from (2 j, 2 i) to (2 j + 12, 2 i + 12), half-open;
h = ceil((H - 2) / 2) - 4, w likewise. R-Net takes 24x24, O-Net 48x48. O-Net's landmarks are left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fv2es_builders.assets import detector_weights
from fv2es_builders.export import GraphSpec, onnx_from_module
from fv2es_pipelines import constants

if TYPE_CHECKING:
    from numpy.typing import NDArray

NetName = Literal["pnet", "rnet", "onet"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NetShape:
    """What distinguishes one net from the others."""

    side_px: int
    """Side of the picture it takes; P-Net: of its window."""
    pools: tuple[int, ...]
    """Side of the maximum pooling after each convolution, stride 2; 0: none. Edges: a last window may hang over."""
    dense: bool
    """Whether fully connected layers follow the convolutions."""


NETS: Final[Mapping[NetName, NetShape]] = {
    "pnet": NetShape(side_px=constants.DETECTOR_CELL_PX, pools=(2, 0, 0), dense=False),
    "rnet": NetShape(side_px=constants.DETECTOR_REFINE_PX, pools=(3, 3, 0), dense=True),
    "onet": NetShape(side_px=constants.DETECTOR_OUTPUT_PX, pools=(3, 3, 2, 0), dense=True),
}
"""Source: Zhang et al. 2016, figure 2. Where the paper's net pools without overhang, the sides divide evenly."""


def _tensor(array: "NDArray[np.float32]") -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _conv(kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    """From a kernel [rows, columns, in, out]."""
    rows, columns, in_channels, out_channels = kernel.shape
    conv = nn.Conv2d(in_channels, out_channels, (rows, columns))
    conv.weight.data, conv.bias = kernel.permute(3, 2, 0, 1).contiguous(), nn.Parameter(bias)
    return conv


def _dense(kernel: Tensor, bias: Tensor) -> nn.Linear:
    """From a kernel [in, out]."""
    dense = nn.Linear(*kernel.shape)
    dense.weight.data, dense.bias.data = kernel.T.contiguous(), bias
    return dense


class _Prelu(nn.Module):
    """PReLU as the larger of x and a x where no slope a exceeds 1, as the smaller where none is below: the same to the last bit.

    ONNX Runtime takes 0.3 ns a number for these two operators and 0.7 to 1.1 for its own PReLU, which other slopes get.
    """

    slopes: Tensor

    def __init__(self, slopes: Tensor, *, num_axes: int) -> None:
        """Slopes of any shape, one a channel; `num_axes` follow the axis of channels."""
        super().__init__()
        self.is_gentle, self.is_steep = bool((slopes <= 1).all()), bool((slopes >= 1).all())
        self.register_buffer("slopes", slopes.reshape(-1, *[1] * num_axes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, ...] -> the same."""
        if self.is_gentle:
            return torch.maximum(x, x * self.slopes)
        if self.is_steep:
            return torch.minimum(x, x * self.slopes)
        return torch.nn.functional.prelu(x, self.slopes.flatten())


class _PooledPRelu(nn.Module):
    """Convolution, PReLU, maximum pooling, with the PReLU after the pooling: on a quarter of the numbers, and they are the same.

    A PReLU with a slope >= 0 rises, so the largest of what it gives is what it gives for the largest. With a slope a < 0 it falls
    and rises: the largest comes from the largest number M or the smallest m, as max(M, a m), and m = -max(-x). So the convolution
    makes those channels twice, once with the opposite sign. All of it is exact to the last bit.
    """

    place: Tensor
    steepness: Tensor

    def __init__(self, kernel: Tensor, bias: Tensor, slopes: Tensor, *, pool_px: int) -> None:
        super().__init__()
        slopes = slopes.reshape(-1)
        gentle, steep, falling = (
            torch.nonzero(which).flatten() for which in ((slopes >= 0) & (slopes <= 1), slopes > 1, slopes < 0)
        )
        order = torch.cat([gentle, steep, falling])
        self.conv = _conv(
            torch.cat([kernel[..., order], -kernel[..., falling]], dim=-1), torch.cat([bias[order], -bias[falling]])
        )
        self.pool = nn.MaxPool2d(pool_px, stride=2, ceil_mode=True)
        self.gentle, self.steep = (_Prelu(slopes[own], num_axes=2) for own in (gentle, steep))
        self.sizes = [len(gentle), len(steep), len(falling), len(falling)]
        self.register_buffer("place", order.argsort(), persistent=False)
        self.register_buffer("steepness", -slopes[falling].reshape(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, channels, about H / 2, about W / 2]."""
        gentle, steep, falling, mirrored = self.pool(self.conv(x)).split(self.sizes, dim=1)
        parts = [self.gentle(gentle), self.steep(steep), torch.maximum(falling, mirrored * self.steepness)]
        return torch.cat([part for part in parts if part.shape[1]], dim=1).index_select(1, self.place)


class DetectorNet(nn.Module):
    """P-, R- or O-Net; tensors as in the module's docstring.

    Args:
        name: the net.
        arrays: its weights in the order and layout of `fv2es_builders.assets.detector_weights`; None: those of the package mtcnn.
    """

    def __init__(self, name: NetName, arrays: "Sequence[NDArray[np.float32]] | None" = None) -> None:
        super().__init__()
        shape = NETS[name]
        weights = [_tensor(array) for array in (detector_weights(name) if arrays is None else arrays)]
        layers: list[nn.Module] = []
        for pool_px in shape.pools:
            kernel, bias, slopes, *weights = weights
            if pool_px:
                layers.append(_PooledPRelu(kernel, bias, slopes, pool_px=pool_px))
            else:
                layers += [_conv(kernel, bias), _Prelu(slopes, num_axes=2)]
        self.features = nn.Sequential(*layers)
        self.hidden: nn.Sequential | None = None
        if shape.dense:
            kernel, bias, slopes, *weights = weights
            self.hidden = nn.Sequential(_dense(kernel, bias), _Prelu(slopes, num_axes=0))
        # A softmax over two numbers is a sigmoid of their difference, so one output is enough; one layer gives it and the offsets.
        kernel, bias = weights[-2], weights[-1]
        self.heads = (_dense if shape.dense else _conv)(
            torch.cat([kernel[..., 1:] - kernel[..., :1], weights[0]], dim=-1),
            torch.cat([bias[1:] - bias[:1], weights[1]]),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pictures [B, 3, H, W] -> probability and offsets."""
        x = self.features(images)  # [B, channels, h, w]
        if self.hidden is not None:
            # Columns before rows: the weights were trained on transposed pictures.
            x = self.hidden(x.permute(0, 3, 2, 1).flatten(1))  # [B, hidden]
        score, offsets = self.heads(x).split([1, 4], dim=1)
        return torch.sigmoid(score).squeeze(1), offsets


def onnx_from_detector(name: NetName, path: Path, arrays: "Sequence[NDArray[np.float32]] | None" = None) -> Path:
    """Write one net as ONNX. Batch is dynamic, and P-Net's height and width.

    Args:
        name: the net.
        path: where to write.
        arrays: its weights, as `DetectorNet` takes them; None: those of the package mtcnn.

    Raises:
        AssetError: the package mtcnn is missing or another version.
        ParityError: the file does not reproduce the PyTorch net; see `fv2es_builders.build`.
    """
    side = NETS[name].side_px if NETS[name].dense else 3 * NETS[name].side_px
    axes = {0: "batch"} if NETS[name].dense else {0: "batch", 2: "height", 3: "width"}
    spec = GraphSpec(
        name=name,
        inputs={"images": torch.zeros(2, 3, side, side + (0 if NETS[name].dense else 8))},
        axes={"images": axes},
        outputs=("probability", "offsets"),
    )
    return onnx_from_module(DetectorNet(name, arrays).eval(), spec, path)


def parity_inputs(name: NetName, *, seed: int, pictures: Sequence[Any]) -> list[tuple[str, dict[str, Any]]]:
    """Inputs to compare a file with its net on: random ones and real pictures, of several batch sizes and sides.

    Args:
        name: the net.
        seed: of the random inputs.
        pictures: real ones, each [48, 48, 3] uint8 RGB.

    Returns:
        Pairs of a case's name and its inputs by name.
    """
    rng = np.random.default_rng(seed)
    side = NETS[name].side_px
    shapes = ((1, side, side), (5, side, side)) if NETS[name].dense else ((1, 12, 12), (3, 61, 50), (2, 90, 121))
    cases = [
        (f"random {shape}", {"images": rng.uniform(-1, 1, (shape[0], 3, *shape[1:])).astype(np.float32)})
        for shape in shapes
    ]
    step = 2 if name == "rnet" else 1  # 48 px -> 24 px; P-Net takes any side
    real = np.stack(pictures)[:, ::step, ::step].astype(np.float32)  # [B, side, side, 3]
    real = ((real - constants.DETECTOR_MEAN) * constants.DETECTOR_SCALE).transpose(0, 3, 1, 2)
    return [*cases, ("real", {"images": np.ascontiguousarray(real)})]
