"""Checkpoint files to named tensors, without ever running what a file says.

Read are files of `torch.save` (`.pt`, `.pth`, by PyTorch's restricted unpickler) and `.safetensors`. Names and values are
checked here, whether they are those of a model in `fv2es_builders.importing`.
"""

import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from fv2es_builders.assets import file_sha256
from fv2es_builders.errors import CheckpointValues, UnreadableCheckpoint, UnsafeCheckpoint, listed

WRAPPERS: Final = ("state_dict", "model_state_dict", "model")
"""Entries under which training scripts keep the state dict."""

_PARALLEL_PREFIX: Final = "module."
"""Put before every name by `torch.nn.DataParallel` and `DistributedDataParallel`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Named tensors of a file, all finite, floating-point ones in float32."""

    path: Path
    sha256: str
    """Of the file's bytes, 64 hexadecimal digits."""
    tensors: Mapping[str, Tensor]
    """By name, without the prefix of parallel training."""
    set_aside: Mapping[str, str]
    """Entries of the file that lie beside the state dict, with the reason why they are not read."""
    metadata: Mapping[str, str]
    """What a `.safetensors` file says besides; empty for others."""


def read_checkpoint(path: Path) -> Checkpoint:
    """The tensors of a checkpoint file.

    Args:
        path: a `.safetensors` file; any other is taken for one of `torch.save`. The state dict is plain, or lies under one
            of `WRAPPERS`.

    Raises:
        UnreadableCheckpoint: no such file, an empty or damaged one, or no state dict inside.
        UnsafeCheckpoint: a pickle of more than tensors, such as a whole module.
        CheckpointValues: a tensor holds NaN or infinity, or is sparse or quantised.
    """
    if path.is_dir():
        raise UnreadableCheckpoint(path, "is a folder; name the checkpoint file in it")
    if not path.is_file():
        raise UnreadableCheckpoint(path, "no such file; name a .pt, .pth or .safetensors file")
    if path.stat().st_size == 0:
        raise UnreadableCheckpoint(path, "is empty; copy or download it again")
    loaded, metadata = _safetensors(path) if path.suffix == ".safetensors" else (_pickled(path), {})
    state_dict, set_aside = _unwrapped(loaded, path)
    if all(name.startswith(_PARALLEL_PREFIX) for name in state_dict):
        state_dict = {name.removeprefix(_PARALLEL_PREFIX): value for name, value in state_dict.items()}
    return Checkpoint(
        path=path,
        sha256=file_sha256(path),
        tensors=_checked(state_dict, path),
        set_aside=set_aside,
        metadata=metadata,
    )


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise UnreadableCheckpoint(
            path, f"not a whole safetensors file ({error}); copy or download it again"
        ) from error


def _pickled(path: Path) -> Any:
    """What `torch.save` wrote, if it is made of tensors and plain values alone."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files end in errors of many kinds
        objects = _foreign_objects(path)
        if objects:
            raise UnsafeCheckpoint(path, objects=objects) from error
        first_line = str(error).partition("\n")[0]
        raise UnreadableCheckpoint(
            path, f"not a whole file of torch.save ({type(error).__name__}: {first_line}); copy or download it again"
        ) from error


def _foreign_objects(path: Path) -> list[str]:
    """Names of the classes and functions that a file of `torch.save` refers to and that are not part of plain tensors."""
    if zipfile.is_zipfile(path):
        try:
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        except Exception:  # noqa: BLE001  # a damaged archive: the caller says so
            return []
    return sorted(name for name in _pickle_globals(path) if not _makes_tensors(name))


def _makes_tensors(name: str) -> bool:
    return name == "collections.OrderedDict" or name.startswith("torch._utils.") or name.endswith("Storage")


def _pickle_globals(path: Path) -> set[str]:
    """Everything that the pickles at a file's start refer to by name; they are read, not run."""
    names: set[str] = set()
    strings: list[str] = []
    with path.open("rb") as file:
        try:
            for _ in range(4):  # older files of torch.save: magic number, version, system, object
                for operation, argument, _position in pickletools.genops(file):
                    if operation.name in ("GLOBAL", "INST"):
                        names.add(str(argument).replace(" ", "."))
                    elif operation.name == "STACK_GLOBAL":
                        names.add(".".join(strings[-2:]))
                    elif isinstance(argument, str):
                        strings.append(argument)
        except (ValueError, IndexError, EOFError, pickle.UnpicklingError):
            pass  # the end, or no pickle at all: what was found counts
    return names


def _unwrapped(loaded: Any, path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The state dict, and what lies beside it."""
    if not isinstance(loaded, Mapping) or not loaded:
        raise UnreadableCheckpoint(
            path,
            f"holds {'nothing' if isinstance(loaded, Mapping) else f'a {type(loaded).__name__}'}, not a state dict; "
            "save one: torch.save(model.state_dict(), 'weights.pt')",
        )
    if any(isinstance(value, Tensor) for value in loaded.values()):
        return {str(name): value for name, value in loaded.items()}, {}
    wrapped = [name for name in WRAPPERS if isinstance(loaded.get(name), Mapping) and loaded[name]]
    if len(wrapped) != 1:
        raise UnreadableCheckpoint(
            path,
            f"holds {listed([str(name) for name in loaded])}, but the state dict must be plain or stand under just one of "
            f"{', '.join(WRAPPERS)}; save it alone: torch.save(model.state_dict(), 'weights.pt')",
        )
    reason = f"an entry beside the state dict, which stands under {wrapped[0]}"
    state_dict = {str(name): value for name, value in loaded[wrapped[0]].items()}
    return state_dict, {str(name): reason for name in loaded if name != wrapped[0]}


def _checked(state_dict: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors, floating-point ones as float32."""
    others = [str(name) for name, value in state_dict.items() if not isinstance(value, Tensor)]
    if others:
        raise UnreadableCheckpoint(
            path, f"{listed(others)} in the state dict are no tensors; save model.state_dict() without other entries"
        )
    odd = [name for name, tensor in state_dict.items() if tensor.layout != torch.strided or tensor.is_quantized]
    if odd:
        raise CheckpointValues(path, keys=odd, what="sparse or quantised values", remedy="save plain tensors")
    tensors = {
        name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor for name, tensor in state_dict.items()
    }
    broken = [name for name, tensor in tensors.items() if not _finite(tensor)]
    if broken:
        remedy = "take a checkpoint from before the training went wrong"
        raise CheckpointValues(path, keys=broken, what="NaN or infinity (in float32)", remedy=remedy)
    return tensors


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    least, greatest = tensor.aminmax()  # NaN wins both; several times faster than looking at every value
    return bool(least.isfinite() and greatest.isfinite())
