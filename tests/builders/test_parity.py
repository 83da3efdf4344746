from pathlib import Path

import numpy as np
import pytest

from fv2es_builders.errors import ParityError, ShapeMismatch
from fv2es_builders.parity import Case, Tolerance, accept, accept_outputs

CASE = Case(name="real", inputs={"X": np.zeros(1)}, outputs={"Y": np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)})
FILE = Path("candidate.onnx")


def answering(values):
    return lambda _inputs: {"Y": np.asarray(values, dtype=np.float32)}


def test_figures():
    figures = accept(FILE, answering([[1, 2], [3, 4.5]]), cases=[CASE, CASE], atol=0.5)
    assert (figures.max_abs, figures.mean_abs, figures.num_cases) == (0.5, 0.125, 2)


def test_too_far():
    with pytest.raises(ParityError, match=r"\|error\| 0.5 > 0.1 in Y\[1, 0\] on real inputs") as caught:
        accept(FILE, answering([[1, 2], [3.5, 4.2]]), cases=[CASE], atol=0.1)
    assert caught.value.position == (1, 0)
    assert caught.value.error == pytest.approx(0.5)


def test_not_a_number():
    with pytest.raises(ParityError, match=r"nan > 10 in Y\[0, 1\]"):
        accept(FILE, answering([[1, np.nan], [3, 4]]), cases=[CASE], atol=10)


def test_shape():
    with pytest.raises(ShapeMismatch, match=r"Y has shape \[1, 2\] on real inputs, expected \[2, 2\]"):
        accept(FILE, answering([[1, 2]]), cases=[CASE], atol=10)


def test_nothing_to_compare_on():
    with pytest.raises(ValueError, match="compared with nothing"):
        accept(FILE, answering([[1, 2], [3, 4]]), cases=[], atol=1)


def test_tolerance_of_each_output():
    """Relative to the largest value of all cases, or as it is."""
    small, large = (
        Case(name=name, inputs={"X": np.array(value)}, outputs={"Y": np.array([value]), "Z": np.array([1.0])})
        for name, value in (("small", 1.0), ("large", 10.0))
    )
    tolerances = {"Y": Tolerance(value=0.1, relative=True), "Z": Tolerance(value=0.5)}

    def run(inputs):
        return {"Y": np.array([inputs["X"] + 0.75]), "Z": np.array([1.25])}

    figures = accept_outputs(FILE, run, cases=[small, large], tolerances=tolerances)
    assert (figures["Y"].max_abs, figures["Y"].allowed, figures["Z"].allowed) == (0.75, 1.0, 0.5)
    assert figures["Z"].median_abs == 0.25
    with pytest.raises(ParityError, match=r"0.75 > 0.1 in Y\[0\] on small inputs"):
        accept_outputs(FILE, run, cases=[small], tolerances=tolerances)
    with pytest.raises(ValueError, match="compared with nothing"):
        accept_outputs(FILE, run, cases=[], tolerances=tolerances)
