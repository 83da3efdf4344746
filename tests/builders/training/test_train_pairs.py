import dataclasses

import numpy as np
import pytest

from fv2es_builders.errors import TrainingError
from fv2es_builders.training import pairs
from fv2es_builders.training.pairs import Answers, PairSettings, fused_from_pairs, pair_scores


def branch(sure: float, *, seed: int) -> Answers:
    """Answers of a branch that is right, with noise; `sure`: how much evidence it claims for what holds."""
    chance = np.random.default_rng(seed)
    targets = np.eye(3, dtype=np.float32)[np.arange(600) % 3]
    evidence = sure * (targets - 1 / 3) + chance.normal(0, 1, (600, 3))
    return Answers(evidence=evidence.astype(np.float32), targets=targets)


def settings(**stray: float) -> PairSettings:
    return PairSettings(num=6000, stray={"text": 0.3, "visual": 0.3, "acoustic": 0.3, **stray})


def test_a_branch_that_strays_is_trusted_less():
    answers = {name: branch(2, seed=n) for n, name in enumerate(("text", "visual", "acoustic"))}
    text, visual, acoustic = fused_from_pairs(answers, num_labels=3, settings=settings(acoustic=0.8)).weights
    assert text == pytest.approx(visual, rel=0.15)
    assert 0 <= acoustic < 0.5 * visual


def test_base_rates_are_those_of_the_utterances():
    answers = {name: Answers(evidence=np.zeros((3, 3), np.float32), targets=np.eye(3, dtype=np.float32)) for name in
               ("text", "visual", "acoustic")}  # fmt: skip
    fusion = fused_from_pairs(answers, num_labels=3, settings=settings())
    assert fusion.pos_weight == pytest.approx([2, 2, 2], rel=1e-3)  # each label holds in a third


def test_a_label_that_a_branch_lacks_is_fused_from_the_others():
    answers = {name: branch(3, seed=n) for n, name in enumerate(("text", "visual", "acoustic"))}
    lacking = answers["acoustic"].targets[:, 2] == 0
    answers["acoustic"] = Answers(
        evidence=answers["acoustic"].evidence[lacking] * [1, 1, 0], targets=answers["acoustic"].targets[lacking]
    )
    fusion = fused_from_pairs(answers, num_labels=3, settings=settings())
    assert min(fusion.weights) > 0.1


def test_a_branch_that_is_missing_is_named():
    with pytest.raises(TrainingError, match="no answers of visual, acoustic"):
        fused_from_pairs({"text": branch(1, seed=0)}, num_labels=3)


def test_the_likeliest_label_is_believed_as_often_as_it_holds(monkeypatch):
    answers = {name: branch(2, seed=n) for n, name in enumerate(("text", "visual", "acoustic"))}
    others = {name: branch(2, seed=10 + n) for n, name in enumerate(("text", "visual", "acoustic"))}
    again = dataclasses.replace(settings(), seed=1)
    scores = pair_scores(fused_from_pairs(answers, num_labels=3, settings=settings()), others, settings=again)
    assert scores["accuracy"] == pytest.approx(scores["uar"], abs=1e-3)  # as many of each label
    monkeypatch.setattr(pairs, "LIKELIEST_SHARE", 0.0)
    alike = pair_scores(fused_from_pairs(answers, num_labels=3, settings=settings()), others, settings=again)
    assert scores["ece_top"] < 0.8 * alike["ece_top"]
