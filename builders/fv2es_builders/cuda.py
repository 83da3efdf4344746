"""What running a plan takes of CUDA: a context, memory, a stream and events, of the driver's library alone."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fv2es_builders.errors import CudaError, GpuMissing
from fv2es_pipelines import gpu
from fv2es_pipelines.gpu import Gpu, NoGpu

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DeviceMemory", "Driver", "Event", "Gpu", "Stream", "find_gpu", "gpu_context"]


def find_gpu(driver: Any = None) -> Gpu:
    """The machine's GPU.

    Args:
        driver: the driver's library; None: the machine's.

    Raises:
        GpuMissing: there is none that can be used.
    """
    try:
        return gpu.find_gpu(driver)
    except NoGpu as error:
        raise GpuMissing(error.reason) from error


class Driver:
    """The driver's library; a call that fails is a `CudaError`.

    Args:
        library: as `fv2es_pipelines.gpu.load_driver` gives it; None: that.

    Raises:
        GpuMissing: there is none.
    """

    def __init__(self, library: Any = None) -> None:
        try:
            self._library = gpu.load_driver() if library is None else library
        except NoGpu as error:
            raise GpuMissing(error.reason) from error

    def __call__(self, call: str, *arguments: Any) -> None:
        """Call `call` of the library.

        Raises:
            CudaError: it did not return 0.
        """
        status = getattr(self._library, call)(*arguments)
        if status:
            raise CudaError(call, status)


@contextmanager
def gpu_context(driver: Driver) -> Iterator[None]:
    """The GPU's primary context, which TensorRT uses too, made current in this thread.

    Raises:
        CudaError: it can't be made.
    """
    device, context = ctypes.c_int(), ctypes.c_void_p()
    driver("cuDeviceGet", ctypes.byref(device), 0)
    driver("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        driver("cuCtxSetCurrent", context)
        yield
    finally:
        driver("cuDevicePrimaryCtxRelease_v2", device)


class DeviceMemory:
    """Memory on the GPU; given back by `free`, or with the context.

    Args:
        driver: within `gpu_context`.
        num_bytes: > 0.
    """

    def __init__(self, driver: Driver, num_bytes: int) -> None:
        self._driver, self.num_bytes = driver, num_bytes
        self._pointer = ctypes.c_uint64()
        driver("cuMemAlloc_v2", ctypes.byref(self._pointer), ctypes.c_size_t(num_bytes))

    @property
    def address(self) -> int:
        """Where it lies."""
        return self._pointer.value

    def fill(self, array: "NDArray[Any]", stream: "Stream") -> None:
        """Copy a contiguous array here, in the stream's order."""
        size = ctypes.c_size_t(array.nbytes)
        self._driver("cuMemcpyHtoDAsync_v2", self._pointer, ctypes.c_void_p(array.ctypes.data), size, stream.handle)

    def fetch(self, array: "NDArray[Any]", stream: "Stream") -> None:
        """Copy from here into a contiguous array, in the stream's order."""
        size = ctypes.c_size_t(array.nbytes)
        self._driver("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(array.ctypes.data), self._pointer, size, stream.handle)

    def free(self) -> None:
        """Give it back."""
        if self._pointer.value:
            self._driver("cuMemFree_v2", self._pointer)
            self._pointer = ctypes.c_uint64()


class Stream:
    """An order of work on the GPU.

    Args:
        driver: within `gpu_context`.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.handle = ctypes.c_void_p()
        driver("cuStreamCreate", ctypes.byref(self.handle), 0)

    def wait(self) -> None:
        """Until all work in it is done."""
        self._driver("cuStreamSynchronize", self.handle)


class Event:
    """A moment in a stream.

    Args:
        driver: within `gpu_context`.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._handle = ctypes.c_void_p()
        driver("cuEventCreate", ctypes.byref(self._handle), 0)

    def record(self, stream: Stream) -> None:
        """Put it behind the work that is in the stream now."""
        self._driver("cuEventRecord", self._handle, stream.handle)

    def ms_since(self, earlier: "Event") -> float:
        """Milliseconds from another event to this one; both have happened."""
        passed = ctypes.c_float()
        self._driver("cuEventElapsedTime", ctypes.byref(passed), earlier._handle, self._handle)
        return passed.value
