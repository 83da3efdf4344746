"""The detector's nets in a checkpoint, as facenet-pytorch names them, in the layout that `DetectorNet` takes.

Both know upright pictures and flatten columns before rows; only names and the order of axes differ.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from fv2es_builders.detector import NETS, NetName

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

PREFIX: Final = "mtcnn."
"""Name of the detector in the published checkpoints."""

LAYERS: Final[Mapping[NetName, Mapping[str, tuple[int, ...]]]] = {
    "pnet": {
        "conv1": (10, 3, 3, 3),
        "prelu1": (10,),
        "conv2": (16, 10, 3, 3),
        "prelu2": (16,),
        "conv3": (32, 16, 3, 3),
        "prelu3": (32,),
        "conv4_2": (4, 32, 1, 1),
        "conv4_1": (2, 32, 1, 1),
    },
    "rnet": {
        "conv1": (28, 3, 3, 3),
        "prelu1": (28,),
        "conv2": (48, 28, 3, 3),
        "prelu2": (48,),
        "conv3": (64, 48, 2, 2),
        "prelu3": (64,),
        "dense4": (128, 576),
        "prelu4": (128,),
        "dense5_2": (4, 128),
        "dense5_1": (2, 128),
    },
    "onet": {
        "conv1": (32, 3, 3, 3),
        "prelu1": (32,),
        "conv2": (64, 32, 3, 3),
        "prelu2": (64,),
        "conv3": (64, 64, 3, 3),
        "prelu3": (64,),
        "conv4": (128, 64, 2, 2),
        "prelu4": (128,),
        "dense5": (256, 1152),
        "prelu5": (256,),
        "dense6_2": (4, 256),
        "dense6_1": (2, 256),
    },
}
"""Shape of each layer's weight, in the order of `fv2es_builders.assets.detector_weights`: the offsets (`_2`) before the score
(`_1`). All but the PReLUs have a bias as well. Source: Zhang et al. 2016, figure 2; names of facenet-pytorch's MTCNN."""

IGNORED: Final[Mapping[str, str]] = {
    f"{PREFIX}onet.dense6_3.{kind}": "the detector's landmarks, which are not served" for kind in ("weight", "bias")
}
"""Keys that are left out, with the reason."""


def detector_shapes() -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the three nets by its key in a checkpoint, without the ignored ones."""
    shapes: dict[str, tuple[int, ...]] = {}
    for net, layers in LAYERS.items():
        for layer, shape in layers.items():
            shapes[f"{PREFIX}{net}.{layer}.weight"] = shape
            if not layer.startswith("prelu"):
                shapes[f"{PREFIX}{net}.{layer}.bias"] = shape[:1]
    return shapes


def detector_from_tensors(tensors: "Mapping[str, Tensor]") -> "dict[NetName, list[NDArray[Any]]]":
    """Weights of each net in the order and layout of `fv2es_builders.assets.detector_weights`.

    Args:
        tensors: float32, of the shapes of `detector_shapes`, by the same keys.
    """
    nets: dict[NetName, list[NDArray[Any]]] = {}
    for net in NETS:
        arrays: list[NDArray[Any]] = []
        for layer, shape in LAYERS[net].items():
            weight = tensors[f"{PREFIX}{net}.{layer}.weight"].numpy()
            if layer.startswith("prelu"):
                arrays.append(weight)
                continue
            # [out, in, rows, columns] -> [rows, columns, in, out]; [out, in] -> [in, out]
            arrays.append(weight.transpose(2, 3, 1, 0) if len(shape) > 2 else weight.T)
            arrays.append(tensors[f"{PREFIX}{net}.{layer}.bias"].numpy())
        nets[net] = arrays
    return nets
