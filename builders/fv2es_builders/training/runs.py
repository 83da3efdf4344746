"""The runs behind the command: which data, which recipe, which task."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from fv2es_builders.assets import encoder_weights, load_tokenizer, tokenizer_file
from fv2es_builders.errors import BuildUsageError
from fv2es_builders.modules.model import acoustic_size, seeded_model
from fv2es_builders.presets import MODALITIES, Preset, SpeechAcousticSize
from fv2es_builders.trained import BranchFacts, TrainedFacts
from fv2es_builders.training.acoustic import AcousticTask, sound_logits
from fv2es_builders.training.branches import load_branch, load_start
from fv2es_builders.training.comments import Comments, comment_halves, load_comments
from fv2es_builders.training.detected import as_detected, built_detector
from fv2es_builders.training.faces import halves, load_faces, without_copies
from fv2es_builders.training.finish import (
    CALIBRATION_FILE,
    CHOOSE_FILE,
    REPORT_FILE,
    WEIGHTS_FILE,
    Judged,
    facts_before,
    finish,
    joined,
    judged_before,
    save_weights,
)
from fv2es_builders.training.heard import heard_backgrounds, heard_sentences
from fv2es_builders.training.loop import Log, fit, load_best
from fv2es_builders.training.pairs import Answers, PairSettings, fused_from_pairs, pair_scores
from fv2es_builders.training.recipe import Recipe
from fv2es_builders.training.request import RunRequest
from fv2es_builders.training.scores import Matrix
from fv2es_builders.training.sequence import SequenceTask, single_logits
from fv2es_builders.training.served import ServedBranches
from fv2es_builders.training.speech import load_emodb
from fv2es_builders.training.speech_start import pretrained_trunk
from fv2es_builders.training.text import TextTask, text_logits
from fv2es_builders.training.text_augment import spoken
from fv2es_builders.training.unfold import start_from_repository
from fv2es_builders.training.visual import FaceNet, Teacher, VisualTask, face_bank

SPLIT_SEED: Final = 0
"""Of every split of validation data into a half to choose by and a half to report: the same in all runs."""

VISUAL_RECIPE: Final = Recipe(epochs=45, batch=128, learning_rate=0.06, warmup=0.1, bfloat16=True, patience=45)
SEQUENCE_RECIPE: Final = Recipe(
    epochs=3, batch=128, learning_rate=5e-4, optimizer="adamw", weight_decay=0.01, max_gradient=1.0, patience=3
)
NUM_FORMS: Final = 3
"""Augmented forms of each face that the part over time learns from."""
TEXT_RECIPE: Final = Recipe(
    epochs=3,
    batch=64,
    learning_rate=1.5e-4,
    optimizer="adamw",
    weight_decay=0.01,
    average=0.995,
    max_gradient=1.0,
    bfloat16=True,
)
ACOUSTIC_RECIPE: Final = Recipe(
    epochs=8,
    batch=16,
    learning_rate=1e-3,
    optimizer="adamw",
    weight_decay=0.05,
    average=0.99,
    max_gradient=1.0,
    keep="last",
)


def run_visual(request: RunRequest, log: Log) -> dict[str, Any]:
    """Train the convolutions on FER2013, then the part over time on their features."""
    preset, folder = request.preset, request.data / "fer2013"
    recipe = request.recipe(VISUAL_RECIPE)
    held_out = load_faces(folder / "public_test.npz", preset.labels)
    train = without_copies(load_faces(folder / "training.npz", preset.labels), held_out)
    choose, report = halves(held_out, seed=SPLIT_SEED)
    log(f"{len(train)} faces to train on, {len(choose)} to choose by, {len(report)} to report on")
    teacher = None
    if request.teacher is not None:
        taught_by = FaceNet(preset, dropout=0.0)
        load_start(taught_by, request.teacher)
        teacher = Teacher(taught_by)
    task = VisualTask(preset, recipe, train, choose, teacher=teacher)
    if request.start is not None and request.start.is_dir():
        start_from_repository(task.module, request.start, train, seed=request.seed)
    else:
        load_start(task.module, request.start)
    fit(task, recipe, request.output / "trunk", log)
    net = task.module
    load_best(net, request.output / "trunk")
    log("computing features for the part over time")
    detected = as_detected(report, built_detector())
    log(f"the detector finds {len(detected)} of the {len(report)} faces to report on")
    judged_by = {"choose": choose, "report": report} | ({"report_as_detected": detected} if len(detected) else {})
    banks = {name: face_bank(net, own, num_forms=0, seed=request.seed) for name, own in judged_by.items()}
    sequence_recipe = dataclasses.replace(SEQUENCE_RECIPE, seed=request.seed)
    train_bank = face_bank(net, train, num_forms=NUM_FORMS, seed=request.seed)
    sequence_task = SequenceTask(preset, sequence_recipe, train_bank, banks["choose"])
    fit(sequence_task, sequence_recipe, request.output / "sequence", log)
    sequence_net = sequence_task.module
    load_best(sequence_net, request.output / "sequence")
    sequence_net.eval()
    judged = {
        name: Judged(logits=single_logits(sequence_net, bank.features[0]), targets=one_hot(bank.labels, preset))
        for name, bank in banks.items()
    }
    return finish(
        nn.ModuleDict({"V": net.V, "v_flatten": net.v_flatten, **dict(sequence_net.named_children())}),
        sequence_net.v_out,
        request.output,
        labels=preset.labels,
        known=known_labels(train.labels, preset),
        choose=judged.pop("choose"),
        report=judged,
    )


def run_text(request: RunRequest, log: Log) -> dict[str, Any]:
    """Fine-tune the text encoder on GoEmotions."""
    preset, folder = request.preset, request.data / "goemotions_ekman"
    recipe, size = request.recipe(TEXT_RECIPE), preset.text
    tokenizer = load_tokenizer(tokenizer_file(size, request.tokenizer), vocabulary=size.config["vocab_size"])
    train = load_comments(folder / "train.tsv", preset.labels)
    choose, report = comment_halves(load_comments(folder / "dev.tsv", preset.labels), seed=SPLIT_SEED)
    log(f"{len(train)} comments to train on, {len(choose)} to choose by, {len(report)} to report on")
    task = TextTask(preset, recipe, train, choose, tokenizer=tokenizer, encoder_weights=encoder_weights(size))
    load_start(task.module, request.start)
    fit(task, recipe, request.output, log)
    net = task.module
    load_best(net, request.output)
    net.eval()

    def judged(own: Comments, change: Callable[[str], str] = str) -> Judged:
        logits = text_logits(net, tokenizer, [change(text) for text in own.texts])
        return Judged(logits=logits, targets=own.targets.numpy())

    return finish(
        net,
        net.t_out,
        request.output,
        labels=preset.labels,
        known=(train.targets.sum(dim=0) > 0).tolist(),
        choose=judged(choose),
        report={"report": judged(report), "report_as_spoken": judged(report, spoken)},
    )


def run_acoustic(request: RunRequest, log: Log) -> dict[str, Any]:
    """Train the acoustic branch on EmoDB, without the speakers that are held out; these judge and calibrate.

    With `branches`, the outputs of such runs, all their held-out speakers together calibrate, and are what is reported: so a run
    without held-out speakers is calibrated and scored by runs that had them.
    """
    preset, recipe = request.preset, request.recipe(ACOUSTIC_RECIPE)
    speech = load_emodb(request.data / "emodb", preset.labels)
    held_out = [row for row, speaker in enumerate(speech.speakers) if speaker in request.held_out]
    others = [row for row in range(len(speech)) if row not in set(held_out)]
    log(f"{len(others)} sentences to train on, {len(held_out)} of speakers {', '.join(request.held_out)} held out")
    if not held_out and not request.branches:
        raise BuildUsageError(
            "no speaker is held out, so nothing calibrates; give --held-out, or --branch of such runs"
        )
    trunk = pretrained_trunk(acoustic_size(preset, SpeechAcousticSize), seed=request.seed).eval()
    cache = request.cache or request.output
    heard, silent = heard_sentences(trunk, speech.waves, cache, log), heard_backgrounds(trunk, cache)
    train, choose = ((heard.rows(rows), speech.labels[rows]) for rows in (others, held_out or others))
    task = AcousticTask(preset, recipe, train, choose, silent)
    load_start(task.module, request.start)
    fit(task, recipe, request.output, log)
    net = task.module
    load_best(net, request.output)
    net.eval()
    with (
        torch.no_grad()
    ):  # eight norms one after the other: rounded only when stored, a logit of 8 would be off by 0.01
        for parameter in net.parameters():
            parameter.copy_(parameter.half())
    if request.branches:
        judged = joined([judged_before(folder) for folder in request.branches])
    else:
        judged = Judged(logits=sound_logits(net, choose[0])[0], targets=one_hot(choose[1], preset))
    parts = {"A": trunk, "a_flatten": net.served_head(), "a_transformer": net.a_transformer, "a_out": net.a_out}
    return finish(
        nn.ModuleDict(parts),
        net.a_out,
        request.output,
        labels=preset.labels,
        known=task.known.tolist(),
        choose=judged,
        report={},
    )


def known_labels(labels: Tensor, preset: Preset) -> list[bool]:
    """Labels of the preset that occur: [C]."""
    return [bool((labels == label).any()) for label in range(len(preset.labels))]


def one_hot(labels: Tensor, preset: Preset) -> Matrix:
    """Positions [N] -> targets float32 [N, C]."""
    targets: Matrix = np.eye(len(preset.labels), dtype=np.float32)[labels.numpy()]
    return targets


def run_fusion(request: RunRequest, log: Log) -> dict[str, Any]:
    """Put branches that were trained on sets of their own together: how much each is trusted, and the whole model's weights.

    `branches` are outputs of the other three runs: folders with weights and what the branch says about validation data. With
    `start`, a repository, that one answers for text and faces where they have no run; then the whole weights are not at hand, and
    what is written goes into that repository by `fv2es build --branch`.
    """
    preset = request.preset
    model = seeded_model(preset, request.seed)
    found_on: dict[str, Answers] = {}
    judged_on: dict[str, Answers] = {}
    if request.start is not None:
        served = ServedBranches(request.start, preset).halves(request.data, seed=SPLIT_SEED)
        found_on, judged_on = ({name: own[half] for name, own in served.items()} for half in (0, 1))
    facts: dict[str, BranchFacts] = {}
    for folder in request.branches:
        part = load_branch(model, folder / WEIGHTS_FILE)
        with np.load(folder / CHOOSE_FILE) as own:
            found_on[part] = judged_on[part] = Answers(evidence=own["evidence"], targets=own["targets"])
        facts[part] = facts_before(folder)
    settings = PairSettings(seed=request.seed)
    fusion = fused_from_pairs(found_on, num_labels=len(preset.labels), settings=settings)
    request.output.mkdir(parents=True, exist_ok=True)
    if request.start is None:
        with torch.no_grad():
            model.weighted_fusion.weight.copy_(torch.tensor([fusion.weights]))
        save_weights(
            request.output / WEIGHTS_FILE,
            {name: own.contiguous() for name, own in model.state_dict().items()},
            TrainedFacts(labels=preset.labels, pos_weight=fusion.pos_weight, branches=facts),
        )
    scores = pair_scores(fusion, judged_on, settings=dataclasses.replace(settings, seed=request.seed + 1))
    written = {"pos_weight": fusion.pos_weight, "weights": dict(zip(MODALITIES, fusion.weights, strict=True))}
    (request.output / CALIBRATION_FILE).write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    report = {"labels": list(preset.labels), "scores": {"put_together": scores}}
    (request.output / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    log(f"weights {written['weights']}, pos_weight {fusion.pos_weight}")
    return report
