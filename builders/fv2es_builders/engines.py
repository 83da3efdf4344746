"""Float32 graphs to engines of another precision: converted, and admitted by what they say about real utterances."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

from fv2es_builders import assets
from fv2es_builders.errors import BuildUsageError, LabelsChanged, ParityError
from fv2es_builders.golden.utterances import golden_utterances
from fv2es_builders.graphs import ENGINES, Report, graph_path
from fv2es_builders.mixed import is_mixed, storage_rounded
from fv2es_builders.parity import (
    LEAST_SAME_LABEL,
    PRECISION_TOLERANCES,
    Arrays,
    Case,
    accept_outputs,
    onnx_runner,
    session_of,
)
from fv2es_builders.precision import INT8_LIMITS, Precision, converter
from fv2es_builders.utterances import Runner, Utterance, answers, graph_inputs, requests
from fv2es_pipelines.specification import Profile

NamedInputs = Sequence[tuple[str, Arrays]]
"""What one graph is given: the name of the request that it is from, and the arrays."""

CHAIN_OUTPUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "fp32": ("LOGITS", "PROBABILITIES"),
    "fp16": ("LOGITS", "PROBABILITIES"),
    "bf16": ("LOGITS", "PROBABILITIES"),
    "int8": ("PROBABILITIES",),
}
"""What must agree at the end of all four graphs, besides the top label."""


def runner_of(path: Path, profile: Profile) -> Runner:
    """A function that executes an engine's graph on the CPU as the profile's server would round it.

    ONNX Runtime has no BF16 there and skips roundings of FP16, so for the GPU a stand-in runs, see `fv2es_builders.mixed.storage_rounded`.
    """
    graph = onnx.load(str(path))
    return session_of(storage_rounded(graph)) if profile == "gpu" and is_mixed(graph) else onnx_runner(path)


def real_inputs(
    runners: Mapping[str, Runner], tokenizer: Path, utterances: Sequence[Utterance]
) -> dict[str, NamedInputs]:
    """What each graph is given for real utterances, by model.

    Args:
        runners: execute `visual`, `acoustic` and `text`.
        tokenizer: its tokenizer.json.
        utterances: at least one.
    """
    found: dict[str, list[tuple[str, Arrays]]] = {model: [] for model in ENGINES}
    text = assets.read_tokenizer(tokenizer)
    for number, request in enumerate(requests(utterances, text)):
        for model, inputs in graph_inputs(request, runners):
            found[model].append((f"real request {number}", inputs))
    return dict(found)


def accept_engine(
    candidate: Path, run: Runner, *, source: Runner, inputs: NamedInputs, precision: Precision
) -> dict[str, dict[str, Any]]:
    """Admit one engine only if it says what its source says.

    Args:
        candidate: its file, for messages.
        run: executes it.
        source: executes what it was made from.
        inputs: real ones.
        precision: whose tolerances hold.

    Returns:
        Measured differences by output, as plain data.

    Raises:
        ParityError: it does not.
    """
    cases = [Case(name=name, inputs=arrays, outputs=source(arrays)) for name, arrays in inputs]
    figures = accept_outputs(candidate, run, cases=cases, tolerances=PRECISION_TOLERANCES[precision])
    return {name: dataclasses.asdict(each) for name, each in figures.items()}


def make_engines(
    graphs: Mapping[str, Path],
    tokenizer: Path,
    folder: Path,
    *,
    precision: Precision,
    profile: Profile,
    calibration: Sequence[Utterance],
    report: Report,
) -> dict[str, Any]:
    """Write the four engines in another precision, each admitted, and all four together.

    Args:
        graphs: the FP32 ones by model.
        tokenizer: the tokenizer.json.
        folder: gets the files at their places in a repository.
        precision: not FP32.
        profile: who will run them.
        calibration: utterances besides the built-in ones from which ranges are taken and on which the engines are compared.
        report: told what is going on.

    Returns:
        Plain data: by model what was kept in FP32 and the differences; `chain`: those of the whole.

    Raises:
        BuildUsageError, CalibrationError: see `fv2es_builders.precision.converter`.
        ParityError, LabelsChanged: the precision costs too much, even with all sensitive products kept.
    """
    utterances = [*golden_utterances(), *calibration]
    report(f"running the FP32 graphs on {len(utterances)} real utterances")
    fp32 = {model: onnx_runner(path) for model, path in graphs.items()}
    inputs = real_inputs(fp32, tokenizer, utterances)
    expected = answers(utterances, assets.read_tokenizer(tokenizer), fp32)
    converters = {}
    for model in ENGINES:
        report(f"measuring {model} for {precision}")
        real = [arrays for _, arrays in inputs[model]]
        converters[model] = converter(
            graphs[model], model=model, precision=precision, calibration=real, profile=profile
        )

    def proven(limit: float) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        paths = {model: folder / graph_path(model) for model in ENGINES}
        for model, convert in converters.items():
            converted = convert(limit)
            converted.write(paths[model])
            report(f"comparing {model}: {converted.products - len(converted.kept)} of {converted.products} products")
            run = runner_of(paths[model], profile)
            outputs = accept_engine(paths[model], run, source=fp32[model], inputs=inputs[model], precision=precision)
            facts[model] = {"products": converted.products, "kept": list(converted.kept), "outputs": outputs}
        if all(len(facts[model]["kept"]) == facts[model]["products"] for model in ENGINES):
            raise BuildUsageError(
                f"{precision} leaves every product in FP32 (limit {limit:g}): nothing would be gained; choose a higher precision"
            )
        report("comparing all four together")
        runners = {model: runner_of(path, profile) for model, path in paths.items()}
        found = answers(utterances, assets.read_tokenizer(tokenizer), runners)
        facts["chain"] = accept_chain(folder, found, expected, [each.name for each in utterances], precision)
        return facts

    *looser, last = INT8_LIMITS if precision == "int8" else INT8_LIMITS[-1:]
    for limit in looser:
        try:
            return proven(limit)
        except (ParityError, LabelsChanged) as error:
            report(f"{_briefly(error)}: too much in {precision}, keeping more in FP32")
    return proven(last)


def _briefly(error: ParityError | LabelsChanged) -> str:
    if isinstance(error, LabelsChanged):
        return f"{error.same:.1%} of the top labels are the same, {error.least:.0%} must be"
    return f"{error.output} is off by {error.error:.3g}, {error.atol:.3g} is allowed"


def accept_chain(
    candidate: Path, found: Arrays, expected: Arrays, names: Sequence[str], precision: Precision
) -> dict[str, Any]:
    """Admit four engines only if together they say about real utterances what the FP32 graphs say.

    Args:
        candidate: their folder, for messages.
        found: outputs of `fusion`, a row for each utterance.
        expected: the same of the FP32 graphs.
        names: of the utterances.
        precision: whose tolerances hold.

    Raises:
        ParityError: an output differs by too much; names the utterance.
        LabelsChanged: too many top labels differ.
    """
    tolerances = {name: PRECISION_TOLERANCES[precision][name] for name in CHAIN_OUTPUTS[precision]}

    def rows_of(answers: Arrays, row: int) -> Arrays:
        return {name: answers[name][row : row + 1] for name in tolerances}

    cases = [
        Case(name=name, inputs={"ROW": np.array(row)}, outputs=rows_of(expected, row)) for row, name in enumerate(names)
    ]
    figures = accept_outputs(
        candidate, lambda case: rows_of(found, int(case["ROW"])), cases=cases, tolerances=tolerances
    )
    same = found["PROBABILITIES"].argmax(axis=1) == expected["PROBABILITIES"].argmax(axis=1)  # [U]
    least = LEAST_SAME_LABEL[precision]
    if not same.mean() >= least:
        changed = [name for name, kept in zip(names, same, strict=True) if not kept]
        raise LabelsChanged(precision=precision, same=float(same.mean()), least=least, changed=changed)
    outputs = {name: dataclasses.asdict(each) for name, each in figures.items()}
    return {"outputs": outputs, "same_label": float(same.mean()), "num_utterances": len(names)}
