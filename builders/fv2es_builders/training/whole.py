"""Runs on IEMOCAP and CMU-MOSEI: a branch alone, or the whole model from branches that were trained before."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file

from fv2es_builders.assets import encoder_weights, load_tokenizer, tokenizer_file
from fv2es_builders.errors import TrainingDataError
from fv2es_builders.modules.model import V2EM, seeded_model
from fv2es_builders.trained import TrainedFacts
from fv2es_builders.training.branches import PARAMETERS, Part, load_branch
from fv2es_builders.training.calibrate import calibrated
from fv2es_builders.training.detected import built_detector
from fv2es_builders.training.finish import CALIBRATION_FILE, REPORT_FILE, WEIGHTS_FILE, save_weights
from fv2es_builders.training.footage import Footage, read_footage
from fv2es_builders.training.joint import JointTask, balanced_weights, judged
from fv2es_builders.training.loop import Log, fit, load_best
from fv2es_builders.training.recipe import Recipe
from fv2es_builders.training.request import RunRequest
from fv2es_builders.training.scores import (
    best_thresholds,
    f1_by_label,
    label_calibration_error,
    top_calibration_error,
)
from fv2es_builders.training.utterances import PHASES, Phase, Utterance, load_iemocap, load_mosei

JOINT_RECIPE: Final = Recipe(
    epochs=40, batch=8, learning_rate=5e-5, optimizer="adamw", weight_decay=0.01, max_gradient=1.0, patience=6
)
"""Learning rate and batch: MME2E's arguments; the rest: ours."""


def load_split(request: RunRequest) -> Mapping[Phase, Sequence[Utterance]]:
    """The data set that belongs to the preset.

    Raises:
        TrainingDataError: it is absent or not laid out as expected, or the preset belongs to none.
    """
    if request.preset.name == "fv2es-iemocap":
        return load_iemocap(request.data, request.preset.labels, published_split=request.published_split)
    if request.preset.name == "fv2es-mosei":
        return load_mosei(request.data, request.preset.labels)
    raise TrainingDataError(
        request.data, f"no set of utterances belongs to preset {request.preset.name!r}; train its branches one by one"
    )


def run_utterances(part: Part) -> Callable[[RunRequest, Log], dict[str, Any]]:
    """The run that trains this part."""

    def run(request: RunRequest, log: Log) -> dict[str, Any]:
        split = load_split(request)
        size = request.preset.text
        tokenizer = load_tokenizer(tokenizer_file(size, request.tokenizer), vocabulary=size.config["vocab_size"])
        detector = built_detector()
        cache = request.cache or request.output / "faces"
        footage = {
            phase: read_footage(split[phase], detector=detector, tokenizer=tokenizer, cache=cache) for phase in PHASES
        }
        for phase, rows in footage.items():
            without = sum(not len(row.faces) for row in rows), sum(row.wave is None for row in rows)
            log(f"{phase}: {len(rows)} utterances, {without[0]} without pictures, {without[1]} without sound")
        preset = dataclasses.replace(request.preset, pos_weight=balanced_weights(footage["train"]))
        weights = load_file(request.encoder) if request.encoder is not None else encoder_weights(size)
        model = seeded_model(preset, request.seed, weights)
        for folder in request.branches:
            load_branch(model, folder / WEIGHTS_FILE)
        recipe = request.recipe(JOINT_RECIPE)
        fit(JointTask(model, recipe, footage["train"], footage["valid"], part), recipe, request.output, log)
        load_best(model, request.output)
        return finish_utterances(model.eval(), part, footage, request.output)

    return run


def finish_utterances(
    model: V2EM, part: Part, footage: Mapping[Phase, Sequence[Footage]], folder: Path
) -> dict[str, Any]:
    """Calibrate and find thresholds on `valid`, score on `test`, write weights, calibration and report.

    What calibration changes is folded in where the model has room for it: the slope into the layer that makes the logits, the
    offsets into pos_weight, with which a sigmoid becomes a probability.
    """
    labels = model.preset.labels
    logits, targets = judged(model, footage["valid"], part)
    calibration = calibrated(logits, targets, known=[True] * len(labels))
    layer = {"fusion": model.weighted_fusion, "visual": model.v_out, "acoustic": model.a_out, "text": model.t_out}[part]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(calibration.slope)
    pos_weight = np.exp(-np.array(calibration.offsets))
    probabilities = 1 / (1 + np.exp(-(logits * calibration.slope + calibration.offsets)))
    thresholds = best_thresholds(probabilities, targets)
    scores = {}
    for name in ("valid", "test"):
        own, holds = judged(model, footage[name], part)
        chances = (1 / (1 + np.exp(-(own - np.log(pos_weight))))).astype(np.float32)
        called = chances >= thresholds
        scores[name] = {
            "rows": len(holds),
            "macro_f1": float(f1_by_label(called, holds).mean()),
            "accuracy": float((called == (holds > 0)).mean()),
            "accuracy_of_none": float(1 - holds.mean()),
            "ece_top": top_calibration_error(chances, holds),
            "ece_labels": label_calibration_error(chances, holds),
            "f1": dict(zip(labels, f1_by_label(called, holds).round(4).tolist(), strict=True)),
        }
    prefixes = PARAMETERS[part]
    save_weights(
        folder / WEIGHTS_FILE,
        {name: own.contiguous().clone() for name, own in model.state_dict().items() if name.startswith(prefixes)},
        TrainedFacts(labels=labels, pos_weight=tuple(pos_weight.tolist())) if part == "fusion" else None,
    )
    report = {"labels": list(labels), "thresholds": thresholds.round(2).tolist(), "scores": scores}
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / CALIBRATION_FILE).write_text(
        json.dumps({"pos_weight": pos_weight.tolist()}, indent=1) + "\n", encoding="utf-8"
    )
    return report
