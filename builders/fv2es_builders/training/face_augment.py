"""Grey faces made to look like what MTCNN crops from films: other framing, pose, light, blur, compression, colour."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Generator, Tensor
from torch.nn import functional

from fv2es_pipelines import constants

_BLOCK: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceAugmentSettings:
    """Strengths. Shares lie in [0, 1]; sizes are fractions of the picture's side unless said otherwise."""

    as_detected: float = 0.25
    """Share framed as MTCNN would, the others as FER2013 is: only a little larger or smaller."""
    detected_width: tuple[float, float] = (0.84, 0.09)
    """Mean and deviation of the width MTCNN's box covers of a FER2013 picture. Measured on 357 pictures of public_test."""
    detected_height: tuple[float, float] = (1.07, 0.11)
    """The same of its height."""
    plain_size: tuple[float, float] = (0.88, 1.06)
    """Least and greatest share of a picture framed otherwise."""
    shift: float = 0.04
    """Deviation of the centre."""
    rotation_deg: float = 6.0
    """Deviation of the angle in degrees."""
    shear: float = 0.02
    tilt: float = 0.03
    """Deviation of the perspective, as of a head turned away."""
    contrast: float = 0.2
    """Logarithm of the greatest change of contrast."""
    brightness: float = 0.1
    """Deviation, of the range of grey values."""
    light: float = 0.06
    """Deviation of a slope of light across the picture."""
    blurred: float = 0.12
    """Share seen at half to a third of the resolution."""
    compressed: float = 0.15
    """Share with the blocks of a strongly compressed film."""
    noise: float = 0.02
    """Greatest deviation of noise, of the range of grey values."""
    coloured: float = 0.5
    """Share given colours; the others stay grey."""
    erased: float = 0.1
    """Share that loses a rectangle."""
    erased_area: tuple[float, float] = (0.02, 0.12)


class FaceAugment:
    """Augments batches. One generator decides everything."""

    def __init__(self, generator: Generator, settings: FaceAugmentSettings | None = None) -> None:
        self._generator, self._settings = generator, settings or FaceAugmentSettings()

    def __call__(self, images: Tensor) -> Tensor:
        """Grey pictures [B, 48, 48] uint8 -> normalised RGB [B, 3, 48, 48] float32."""
        grey = images.to(torch.float32)[:, None] / 255  # [B, 1, 48, 48]
        grey = functional.grid_sample(grey, self._grid(len(grey)), padding_mode="border", align_corners=False)
        grey = self._lit(grey)
        grey = self._on_some(grey, self._settings.blurred, self._blur)
        grey = self._on_some(grey, self._settings.compressed, self._compress)
        amount = self._uniform(len(grey), 0, self._settings.noise).square() / max(self._settings.noise, 1e-6)
        grey = grey + self._normal(*grey.shape) * amount[:, None, None, None]
        grey = self._erase(grey.clamp(0, 1))
        return self._coloured(grey)

    def _uniform(self, rows: int, low: float, high: float) -> Tensor:
        return torch.rand(rows, generator=self._generator) * (high - low) + low

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def _chosen(self, rows: int, share: float) -> Tensor:
        return torch.rand(rows, generator=self._generator) < share  # [rows] bool

    def _on_some(self, grey: Tensor, share: float, change: Callable[[Tensor], Tensor]) -> Tensor:
        rows = torch.nonzero(self._chosen(len(grey), share))[:, 0]
        if len(rows):
            grey = grey.index_copy(0, rows, change(grey[rows]))
        return grey

    def _grid(self, rows: int) -> Tensor:
        """Where each pixel comes from, in -1..1: [B, 48, 48, 2]."""
        own, side = self._settings, constants.FACE_SIZE_PX
        detected = self._chosen(rows, own.as_detected)
        plain = self._uniform(rows, *own.plain_size)
        width = torch.where(detected, self._normal(rows) * own.detected_width[1] + own.detected_width[0], plain)
        height = torch.where(detected, self._normal(rows) * own.detected_height[1] + own.detected_height[0], plain)
        width, height = width.clamp(0.5, 1.4), height.clamp(0.6, 1.5)
        mirrored = torch.where(self._chosen(rows, 0.5), -1.0, 1.0)
        angle = (self._normal(rows) * math.radians(own.rotation_deg)).clamp(-0.6, 0.6)
        shear, cos, sin = self._normal(rows) * own.shear, angle.cos(), angle.sin()
        matrix = torch.stack(
            [width * cos * mirrored, -height * (sin - shear), width * sin * mirrored, height * cos], dim=1
        ).reshape(rows, 2, 2)
        offset = self._normal(rows, 1, 1, 2) * 2 * own.shift
        tilt = (self._normal(rows, 1, 1, 2) * own.tilt).clamp(-0.3, 0.3)
        axis = (torch.arange(side) + 0.5) * 2 / side - 1
        base = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)  # [48, 48, 2] x y
        base = base / (1 + (base * tilt).sum(dim=-1, keepdim=True))  # [B, 48, 48, 2]
        return (base.reshape(rows, -1, 2) @ matrix.mT).reshape(rows, side, side, 2) + offset

    def _lit(self, grey: Tensor) -> Tensor:
        """Other contrast, brightness and a slope of light: [B, 1, 48, 48]."""
        own, rows = self._settings, len(grey)
        mean = grey.mean(dim=(1, 2, 3), keepdim=True)
        gain = self._uniform(rows, -own.contrast, own.contrast).exp()[:, None, None, None]
        axis = torch.linspace(-1, 1, grey.shape[-1])
        slope = self._normal(rows, 1, 1, 1) * own.light * axis + self._normal(rows, 1, 1, 1) * own.light * axis[:, None]
        return (grey - mean) * gain + mean + self._normal(rows, 1, 1, 1) * own.brightness * 0.5 + slope

    def _blur(self, grey: Tensor) -> Tensor:
        """Seen at 16 or 24 px and enlarged, mixed with the sharp picture: [b, 1, 48, 48]."""
        small = 24 if torch.rand(1, generator=self._generator) < 0.7 else 16
        low = functional.interpolate(functional.adaptive_avg_pool2d(grey, small), size=grey.shape[-2:], mode="bilinear")
        share = self._uniform(len(grey), 0.5, 1)[:, None, None, None]
        return torch.lerp(grey, low, share)

    def _compress(self, grey: Tensor) -> Tensor:
        """Coefficients of 8x8 blocks rounded to coarse steps, coarser at high frequencies: [b, 1, 48, 48]."""
        rows, side = len(grey), grey.shape[-1]
        basis = _cosine_basis()
        blocks = grey.reshape(rows, side // _BLOCK, _BLOCK, side // _BLOCK, _BLOCK).transpose(2, 3)  # [b, 6, 6, 8, 8]
        frequency = torch.arange(_BLOCK)
        step = 0.02 + 0.03 * (frequency[:, None] + frequency)  # [8, 8]
        step = step * self._uniform(rows, 0.3, 2.0)[:, None, None, None, None]  # [b, 1, 1, 8, 8]
        coefficients = torch.round(basis @ blocks @ basis.T / step) * step
        return (basis.T @ coefficients @ basis).transpose(2, 3).reshape(rows, 1, side, side)

    def _erase(self, grey: Tensor) -> Tensor:
        """A rectangle of some pictures becomes one grey: [B, 1, 48, 48]."""
        own, rows, side = self._settings, len(grey), grey.shape[-1]
        area = self._uniform(rows, *own.erased_area) * self._chosen(rows, own.erased)
        ratio = self._uniform(rows, -0.7, 0.7).exp()
        half = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1) / 2  # [B, 2]
        centre = torch.rand(rows, 2, generator=self._generator)
        axis = (torch.arange(side) + 0.5) / side
        inside = (axis - centre[..., None]).abs() < half[..., None]  # [B, 2, 48]
        rectangle = inside[:, 0, None, :, None] & inside[:, 1, None, None, :]  # [B, 1, 48, 48]
        return torch.where(rectangle, self._uniform(rows, 0, 1)[:, None, None, None], grey)

    def _coloured(self, grey: Tensor) -> Tensor:
        """A tone curve for each channel: [B, 1, 48, 48] in 0..1 -> normalised [B, 3, 48, 48]."""
        rows = len(grey)
        coloured = self._chosen(rows, self._settings.coloured)[:, None]  # [B, 1]
        warm = torch.tensor([1.15, 0.9, 0.82])  # skin reflects red most: ratios of constants.VISUAL_MEAN_RGB, softened
        gain = torch.where(coloured, warm * (1 + 0.08 * self._normal(rows, 3)), 1.0)[:, :, None, None]
        base = torch.where(coloured, 0.05 * self._normal(rows, 3), 0.0)[:, :, None, None]
        bend = torch.where(coloured, 0.2 * self._normal(rows, 3), 0.0)[:, :, None, None]
        return normalised((grey * (gain + bend * (1 - grey)) + base).clamp(0, 1) * 255)


def normalised(pixels: Tensor) -> Tensor:
    """Pixels on the scale 0..255 as the visual branch takes them: [B, 3, 48, 48] or, grey, [B, 1, 48, 48] -> [B, 3, 48, 48]."""
    mean = torch.tensor(constants.VISUAL_MEAN_RGB).reshape(1, 3, 1, 1)
    std = torch.tensor(constants.VISUAL_STD_RGB).reshape(1, 3, 1, 1)
    return (pixels - mean) / std


def _cosine_basis() -> Tensor:
    """The orthonormal cosine transform of eight values: [8, 8]."""
    index = torch.arange(_BLOCK)
    basis = torch.cos(math.pi / _BLOCK * index[:, None] * (index + 0.5)) * math.sqrt(2 / _BLOCK)
    basis[0] /= math.sqrt(2)
    return basis
