"""The machine's NVIDIA GPU, asked of its driver alone: no CUDA toolkit and no package is needed."""

import ctypes
from dataclasses import dataclass
from typing import Any, Final

from fv2es_pipelines.errors import PipelineError

DRIVER: Final = "libcuda.so.1"
"""The driver's library; a container gets it from the host."""

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_DRIVER_FILE: Final = "/sys/module/nvidia/version"


class NoGpu(PipelineError):
    """There is no NVIDIA GPU that can be used. `reason` says what failed."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"no usable NVIDIA GPU: {reason}; see that nvidia-smi works in this container or on this machine"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """The first GPU that this process may use."""

    name: str
    compute_capability: str
    """Such as 8.9."""
    driver_version: str
    """Such as 580.65.06; unknown where the kernel module does not say."""
    cuda_version: str
    """Newest CUDA that the driver runs, such as 13.0."""
    memory_bytes: int


def load_driver() -> Any:
    """The driver's library, started.

    Raises:
        NoGpu: it is not there, or finds no GPU.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError as error:
        raise NoGpu(f"{DRIVER} can't be loaded ({error})") from error
    _ask(driver, "cuInit", 0)
    return driver


def find_gpu(driver: Any = None) -> Gpu:
    """The machine's GPU.

    Args:
        driver: as `load_driver` gives it; None: that.

    Raises:
        NoGpu: there is none that can be used.
    """
    driver = load_driver() if driver is None else driver
    version, count, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    major, minor = ctypes.c_int(), ctypes.c_int()
    memory, name = ctypes.c_size_t(), ctypes.create_string_buffer(256)
    _ask(driver, "cuDeviceGetCount", ctypes.byref(count))
    if not count.value:
        raise NoGpu("the driver sees no device")
    _ask(driver, "cuDeviceGet", ctypes.byref(device), 0)
    _ask(driver, "cuDriverGetVersion", ctypes.byref(version))
    _ask(driver, "cuDeviceGetName", name, len(name), device)
    _ask(driver, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    _ask(driver, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    _ask(driver, "cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    return Gpu(
        name=name.value.decode(),
        compute_capability=f"{major.value}.{minor.value}",
        driver_version=_driver_version(),
        cuda_version=f"{version.value // 1000}.{version.value % 1000 // 10}",
        memory_bytes=memory.value,
    )


def _ask(driver: Any, call: str, *arguments: Any) -> None:
    status = getattr(driver, call)(*arguments)
    if status:
        raise NoGpu(f"{call} answers CUDA error {status}")


def _driver_version() -> str:
    try:
        with open(_DRIVER_FILE, encoding="ascii") as file:  # noqa: PTH123  # one line of the kernel
            return file.read().strip()
    except OSError:
        return "unknown"
