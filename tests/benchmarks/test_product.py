"""The bare product: that it is one."""

import time

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.product import GFLOP, INNER, OUTER, ROWS, onnx_product, product


def test_the_file_written_by_hand_multiplies() -> None:
    random = np.random.default_rng(0)
    left = random.normal(size=(ROWS, INNER)).astype(np.float32)
    right = random.normal(size=(INNER, OUTER)).astype(np.float32)
    data = onnx_product(right)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"left": left})
    np.testing.assert_allclose(made, left @ right, atol=1e-3)  # sums of 512 products of order 1, in another order


def test_takes_the_time_of_its_arithmetic() -> None:
    """Between 2 and 1000 GFLOP/s on a thread: neither left out nor done in Python."""
    library, multiply = product(num_threads=1)
    assert library == "ONNX Runtime"
    multiply()
    start_s = time.process_time()
    for _ in range(5):
        multiply()
    assert 2 < 5 * GFLOP / (time.process_time() - start_s) < 1000


def test_numpy_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.product.find_spec", lambda _: None)
    library, multiply = product(num_threads=1)
    assert library == "numpy"
    assert np.shape(multiply()) == (ROWS, OUTER)
