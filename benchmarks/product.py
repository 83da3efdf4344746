"""One bare float32 matrix product, by the fastest library that is installed."""

import os
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import threadpoolctl

ROWS, INNER, OUTER = 512, 512, 2048
"""The feed-forward part of NesT's last level, for eight pieces at once."""
GFLOP = 2e-9 * ROWS * INNER * OUTER

Multiply = Callable[[], object]
Matrix = npt.NDArray[np.float32]


def product(*, num_threads: int = 0) -> tuple[str, Multiply]:
    """The library's name, and what does one product of `GFLOP` when called.

    ONNX Runtime where it is installed, which can be twice as fast as the BLAS that comes with numpy; threads that wait sleep in it.

    Args:
        num_threads: 0: as many as this process may use.
    """
    random = np.random.default_rng(0)
    left = random.normal(size=(ROWS, INNER)).astype(np.float32)
    right = random.normal(size=(INNER, OUTER)).astype(np.float32)
    num_threads = num_threads or len(os.sched_getaffinity(0))
    if find_spec("onnxruntime") is None:
        return "numpy", lambda: _by_numpy(left, right, num_threads)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(onnx_product(right), options, providers=["CPUExecutionProvider"])
    return "ONNX Runtime", lambda: session.run(None, {"left": left})


def _by_numpy(left: Matrix, right: Matrix, num_threads: int) -> object:
    with threadpoolctl.threadpool_limits(num_threads):
        return left @ right


def onnx_product(right: Matrix) -> bytes:
    """An ONNX file that multiplies `left` float32 [ROWS, K] with a constant [K, N].

    Written by hand, field by field as in onnx.proto, because the package onnx belongs to building.
    """
    node = _text(1, "left") + _text(1, "right") + _text(2, "product") + _text(4, "MatMul")
    constant = (
        b"".join(_number(1, each) for each in right.shape)
        + _number(2, 1)
        + _text(8, "right")
        + _bytes(9, right.tobytes())
    )
    graph = _bytes(1, node) + _text(2, "product") + _bytes(5, constant)
    graph += _bytes(11, _tensor("left", (ROWS, right.shape[0]))) + _bytes(
        12, _tensor("product", (ROWS, right.shape[1]))
    )
    return _number(1, 9) + _bytes(7, graph) + _bytes(8, _number(2, 17))  # IR version 9, opset 17


def _tensor(name: str, shape: tuple[int, ...]) -> bytes:
    """ValueInfoProto of a float32 tensor."""
    axes = b"".join(_bytes(1, _number(1, each)) for each in shape)
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, axes)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, least first, the eighth says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
