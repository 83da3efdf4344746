"""A built file is admitted only after it has reproduced the modules that it was made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fv2es_builders.errors import ParityError, ShapeMismatch

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray
    from torch import nn

Arrays = Mapping[str, "NDArray[Any]"]
"""Arrays by tensor name."""

ATOL: Final[Mapping[str, float]] = {
    "folding": 1e-4,
    "export": 1e-4,
    "detector": 1e-5,
}
"""Largest absolute differences that are admitted; reasons in docs/parity.md."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Inputs, and the outputs that the modules gave."""

    name: str
    """What kind of inputs these are, for people."""
    inputs: Arrays
    outputs: Arrays


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """How far a file is from its modules, over all cases and outputs. Absolute differences."""

    max_abs: float
    mean_abs: float
    num_cases: int
    atol: float


def accept(candidate: Path, run: Callable[[Arrays], Arrays], *, cases: Sequence[Case], atol: float) -> Figures:
    """Admit a built file only if it reproduces the modules' own outputs.

    Args:
        candidate: the file, for messages.
        run: executes it: inputs by name -> outputs by name.
        cases: at least one, with every output of the file.
        atol: largest admitted absolute difference; outputs that are bool must be equal.

    Returns:
        The measured differences.

    Raises:
        ParityError: names the worst element; the file stays on disk for replay.
    """
    if not cases:
        raise ValueError("no cases to compare on; a file that was compared with nothing can't be admitted")
    errors: list[NDArray[np.float64]] = []
    for case in cases:
        found = run(case.inputs)
        for name in case.outputs:
            error = output_error(candidate, case, name, found[name], atol)
            errors.append(error.ravel())
    everything = np.concatenate(errors)
    return Figures(max_abs=float(everything.max()), mean_abs=float(everything.mean()), num_cases=len(cases), atol=atol)


def output_error(
    candidate: Path, case: Case, name: str, found: "NDArray[Any]", allowed: float
) -> "NDArray[np.float64]":
    """Absolute differences of one output from the expected one.

    Raises:
        ParityError: one is larger than `allowed`, or is no number.
        ShapeMismatch: the shapes differ.
    """
    expected = case.outputs[name]
    if found.shape != expected.shape:
        raise ShapeMismatch(candidate, case=case.name, output=name, found=found.shape, expected=expected.shape)
    error: NDArray[np.float64] = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    if error.size and not error.max() <= allowed:  # written this way round so that NaN fails
        worst = np.unravel_index(int(np.nan_to_num(error, nan=np.inf).argmax()), error.shape)
        position = [int(axis) for axis in worst]
        raise ParityError(
            candidate, case=case.name, output=name, error=float(error[worst]), atol=allowed, position=position
        )
    return error


def onnx_runner(path: Path, *, num_threads: int = 2) -> Callable[[Arrays], Arrays]:
    """A function that executes an ONNX file on the CPU with ONNX Runtime."""
    return session_of(str(path), num_threads=num_threads)


def session_of(model: "str | onnx.ModelProto", *, num_threads: int = 2) -> Callable[[Arrays], Arrays]:
    """A function that executes a graph, from a file or from memory, on the CPU with ONNX Runtime."""
    import onnxruntime

    from fv2es_pipelines.engine import exact_int8

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    exact_int8(options)
    source = model if isinstance(model, str) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run


def case_from_module(name: str, module: "nn.Module", inputs: Arrays, outputs: Sequence[str]) -> Case:
    """A case whose expected outputs are what a PyTorch module computes.

    Args:
        name: of the case.
        module: takes the arrays in the order of `inputs`; in evaluation mode.
        inputs: by name.
        outputs: names of what the module returns, in order.
    """
    import torch

    with torch.no_grad():
        returned = module(*(torch.from_numpy(array) for array in inputs.values()))
    tensors = returned if isinstance(returned, tuple) else (returned,)
    return Case(
        name=name,
        inputs=inputs,
        outputs={key: tensor.numpy() for key, tensor in zip(outputs, tensors, strict=True)},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far an output may be from its FP32 self."""

    value: float
    relative: bool = False
    """True: `value` counts in units of the output's largest absolute value over all cases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputFigures:
    """How far one output is from its FP32 self, over all cases. Absolute differences."""

    max_abs: float
    mean_abs: float
    median_abs: float
    allowed: float
    num_cases: int


def _tolerances(*, features: float, logits: float, probabilities: float) -> Mapping[str, Tolerance]:
    return {
        "VISUAL": Tolerance(value=features, relative=True),
        "ACOUSTIC": Tolerance(value=features, relative=True),
        "TEXT": Tolerance(value=logits),
        "LOGITS": Tolerance(value=logits),
        "MODALITY_LOGITS": Tolerance(value=logits),
        "PROBABILITIES": Tolerance(value=probabilities),
        "PRESENT": Tolerance(value=0.0),
    }


PRECISION_TOLERANCES: Final[Mapping[str, Mapping[str, Tolerance]]] = {
    "fp32": _tolerances(features=1e-4, logits=1e-4, probabilities=1e-4),
    "fp16": _tolerances(features=1e-2, logits=1e-2, probabilities=2.5e-3),
    "bf16": _tolerances(features=8e-2, logits=8e-2, probabilities=2e-2),
    "int8": _tolerances(features=0.25, logits=0.2, probabilities=5e-2),
}
"""By precision and output; reasons in docs/parity.md."""

LEAST_SAME_LABEL: Final[Mapping[str, float]] = {"fp32": 1.0, "fp16": 0.98, "bf16": 0.98, "int8": 0.98}
"""Share of real utterances whose top label must be that of FP32."""


def accept_outputs(
    candidate: Path,
    run: Callable[[Arrays], Arrays],
    *,
    cases: Sequence[Case],
    tolerances: Mapping[str, Tolerance],
) -> dict[str, OutputFigures]:
    """Admit a file only if each of its outputs is as close to the expected one as its tolerance asks.

    Args:
        candidate: the file, for messages.
        run: executes it: inputs by name -> outputs by name.
        cases: at least one.
        tolerances: by output; every output of the cases has one.

    Returns:
        The measured differences by output.

    Raises:
        ParityError: names the output, the case and the worst element; the file stays on disk for replay.
    """
    if not cases:
        raise ValueError("no cases to compare on; a file that was compared with nothing can't be admitted")
    found = [run(case.inputs) for case in cases]
    figures = {}
    for name in cases[0].outputs:
        tolerance = tolerances[name]
        largest = max(float(np.abs(case.outputs[name]).max(initial=0)) for case in cases)
        allowed = tolerance.value * (largest if tolerance.relative else 1.0)
        errors = [
            output_error(candidate, case, name, outputs[name], allowed)
            for case, outputs in zip(cases, found, strict=True)
        ]
        everything = np.concatenate([error.ravel() for error in errors])
        figures[name] = OutputFigures(
            max_abs=float(everything.max(initial=0)),
            mean_abs=float(everything.mean()),
            median_abs=float(np.median(everything)),
            allowed=allowed,
            num_cases=len(cases),
        )
    return figures
