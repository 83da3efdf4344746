import dataclasses
import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from fv2es_builders.errors import TrainingError
from fv2es_builders.training.loop import LOG_FILE, fit, load_best
from fv2es_builders.training.recipe import Recipe

RECIPE = Recipe(epochs=4, batch=4, learning_rate=0.1, average=0.5, patience=4)


class Line:
    """A line with dropout through points that lie on one; can stop itself before an epoch, as a killed process does."""

    num_batches = 3

    def __init__(self, *, stop_before: int | None = None, scores: tuple[float, ...] = ()):
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.stop_before, self.told = stop_before, list(scores)

    def losses(self, epoch):
        if epoch == self.stop_before:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(self.num_batches):
            points = torch.randn(4, 2, generator=generator)
            yield lambda points=points: functional.mse_loss(self.module(points), points.sum(dim=1, keepdim=True))

    def scores(self, module):
        if self.told:
            return {"score": self.told.pop(0)}
        points = torch.eye(2)
        return {"score": -float(functional.mse_loss(module(points), torch.ones(2, 1)))}


def quiet(_line: str) -> None:
    pass


def lines(folder):
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in (folder / LOG_FILE).read_text().splitlines()
    ]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path):
    whole = fit(Line(), RECIPE, tmp_path / "whole", quiet)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(stop_before=2), RECIPE, tmp_path / "parts", quiet)
    told = []
    parts = fit(Line(), RECIPE, tmp_path / "parts", told.append)
    assert "goes on after epoch 1" in told[0]
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert (parts.score, parts.epoch) == (whole.score, whole.epoch)
    first, second = Line().module, Line().module
    load_best(first, tmp_path / "whole")
    load_best(second, tmp_path / "parts")
    for own, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(own, other)


def test_a_finished_run_is_not_run_again(tmp_path):
    first = fit(Line(), RECIPE, tmp_path, quiet)
    again = fit(Line(stop_before=0), RECIPE, tmp_path, quiet)
    assert again == first


def test_the_run_ends_when_nothing_gets_better(tmp_path):
    recipe = Recipe(epochs=9, batch=4, learning_rate=0.1, patience=2)
    result = fit(Line(scores=(0.1, 0.3, 0.2, 0.3, 0.9)), recipe, tmp_path, quiet)
    assert (result.score, result.epoch) == (0.3, 1)
    assert [line["epoch"] for line in lines(tmp_path)] == [0, 1, 2, 3]


def test_the_best_weights_are_kept_not_the_last(tmp_path):
    fit(Line(scores=(0.5,)), Recipe(epochs=1, batch=4, learning_rate=0.1), tmp_path / "one", quiet)
    recipe = Recipe(epochs=2, batch=4, learning_rate=0.1)
    fit(Line(scores=(0.1, 0.5)), recipe, tmp_path / "second", quiet)
    fit(Line(scores=(0.5, 0.1)), recipe, tmp_path / "first", quiet)
    kept = []
    for name in ("first", "second"):
        module = Line().module
        load_best(module, tmp_path / name)
        kept.append(module[0].weight.clone())
    assert not torch.equal(*kept)


def kept_weights(folder):
    module = Line().module
    load_best(module, folder)
    return list(module.state_dict().values())


def test_the_last_weights_are_kept_where_the_recipe_says_so(tmp_path):
    best = Recipe(epochs=3, batch=4, learning_rate=0.1, patience=1)
    last = dataclasses.replace(best, keep="last")
    fit(Line(scores=(0.1, 0.2, 0.5)), best, tmp_path / "third is best", quiet)
    falling = fit(Line(scores=(0.5, 0.2, 0.1)), last, tmp_path / "first is best", quiet)
    assert (falling.score, falling.epoch) == (0.1, 2)  # nor do worse scores end the run
    fit(Line(scores=(0.5, 0.2, 0.1)), best, tmp_path / "chosen", quiet)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(scores=(0.5, 0.2), stop_before=2), last, tmp_path / "stopped", quiet)
    resumed = fit(Line(scores=(0.1,)), last, tmp_path / "stopped", quiet)
    assert (resumed.score, resumed.epoch) == (0.1, 2)
    expected = kept_weights(tmp_path / "third is best")
    for name in ("first is best", "stopped"):
        assert all(map(torch.equal, kept_weights(tmp_path / name), expected))
    assert not all(map(torch.equal, kept_weights(tmp_path / "chosen"), expected))


def test_a_run_with_another_recipe_is_refused(tmp_path):
    fit(Line(), RECIPE, tmp_path, quiet)
    with pytest.raises(TrainingError, match=r"'seed': 1.*another --output"):
        fit(Line(), Recipe(epochs=4, batch=4, learning_rate=0.1, average=0.5, patience=4, seed=1), tmp_path, quiet)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    task = Line()
    with torch.no_grad():
        task.module[0].weight.fill_(math.inf)
    with pytest.raises(TrainingError, match="the loss is nan in epoch 0, step 0"):
        fit(task, RECIPE, tmp_path, quiet)
