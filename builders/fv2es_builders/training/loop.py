"""The loop that every training shares: steps, averaged weights, scores, early end, checkpoints that go on exactly."""

import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fv2es_builders.errors import TrainingError
from fv2es_builders.training.recipe import Recipe

STATE_FILE: Final = "state.pt"
"""All that a stopped run needs to go on."""
BEST_FILE: Final = "best.safetensors"
"""Averaged weights of the epoch that is kept: see `Recipe.keep`."""
LOG_FILE: Final = "log.jsonl"
"""One line of JSON for each epoch."""

Log = Callable[[str], None]


class Task(Protocol):
    """What is trained, on what, and how it is scored."""

    @property
    def module(self) -> nn.Module:
        """Holds the parameters that are trained."""
        ...

    @property
    def num_batches(self) -> int:
        """Steps of an epoch."""
        ...

    def losses(self, epoch: int) -> Iterator[Callable[[], Tensor]]:
        """The epoch's batches in order, each as a function that computes its loss. Depends on the epoch and the seed alone."""
        ...

    def scores(self, module: nn.Module) -> Mapping[str, float]:
        """Scores on validation data of a copy of `module`, in evaluation mode and without gradients.

        `score` decides where the best epoch is kept: higher is better.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """What came out of a run."""

    best: Path
    """The weights of the epoch that is kept: see `Recipe.keep`."""
    score: float
    """That epoch's."""
    epoch: int
    """Counted from 0."""


def fit(task: Task, recipe: Recipe, folder: Path, log: Log) -> FitResult:
    """Train until the last epoch or until nothing gets better; a run that was stopped goes on after its last whole epoch.

    Args:
        task: is trained in place; its module ends with the last step's weights, not with the averaged ones that are kept.
        recipe: its numbers; a checkpoint in `folder` must have been made with the same.
        folder: gets `state.pt`, `best.safetensors` and `log.jsonl`.
        log: gets lines about progress.

    Raises:
        TrainingError: the loss is not finite, or the folder holds a run with another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(task, recipe)
    run.resume(folder / STATE_FILE, log)
    while not run.over:
        started = time.monotonic()
        torch.manual_seed(
            recipe.seed * 1_000_003 + run.epoch
        )  # dropout of this epoch, whether or not the run was stopped
        loss = run.train_epoch(log)
        with torch.no_grad():
            scores = dict(task.scores(run.averaged.eval()))
        line = {"epoch": run.epoch - 1, "loss": loss, **scores, "seconds": round(time.monotonic() - started, 1)}
        better = run.judge(scores["score"])
        if better:
            _atomically(folder / BEST_FILE, lambda path: save_file(_plain(run.averaged), path))
        with (folder / LOG_FILE).open("a") as file:
            file.write(json.dumps(line) + "\n")
        _atomically(folder / STATE_FILE, lambda path: torch.save(run.state(), path))
        shown = " ".join(f"{name} {value:.4g}" for name, value in line.items())
        log(f"{shown}{' *' if better else ''}")
    return FitResult(best=folder / BEST_FILE, score=run.best, epoch=run.best_epoch)


def load_best(module: nn.Module, folder: Path) -> None:
    """Put the kept weights of a run into a module of the same names."""
    module.load_state_dict(load_file(folder / BEST_FILE), strict=True)


class _Run:
    """A run's changing parts."""

    def __init__(self, task: Task, recipe: Recipe) -> None:
        self.task, self.recipe = task, recipe
        self.averaged = copy.deepcopy(task.module)
        self.optimizer = _optimizer(task.module, recipe)
        self.epoch, self.best, self.best_epoch = 0, -math.inf, -1

    @property
    def over(self) -> bool:
        waited = self.epoch - 1 - self.best_epoch if self.best_epoch >= 0 else 0
        return self.epoch >= self.recipe.epochs or waited >= self.recipe.patience

    def train_epoch(self, log: Log) -> float:
        """One epoch; its mean loss."""
        module, recipe, total = self.task.module.train(), self.recipe, 0.0
        first, num_steps = self.epoch * self.task.num_batches, recipe.epochs * self.task.num_batches
        shown = time.monotonic()
        for index, loss_of in enumerate(self.task.losses(self.epoch)):
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.rate(first + index, num_steps) * group["factor"]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bfloat16):
                loss = loss_of()
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} in epoch {self.epoch}, step {index}; lower --learning-rate and go on"
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(module.parameters(), recipe.max_gradient)
            self.optimizer.step()
            self._average(first + index)
            total += value
            if time.monotonic() - shown > 30:
                shown = time.monotonic()
                log(f"epoch {self.epoch} step {index + 1}/{self.task.num_batches} loss {total / (index + 1):.4f}")
        self.epoch += 1
        return total / self.task.num_batches

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Move the averaged weights and the statistics of norms a little towards the present ones."""
        share = 1 - min(self.recipe.average, (1 + step) / (10 + step))
        present = self.task.module.state_dict()
        for name, tensor in self.averaged.state_dict().items():
            if tensor.dtype.is_floating_point:
                tensor.lerp_(present[name], share)
            else:
                tensor.copy_(present[name])

    def judge(self, score: float) -> bool:
        """Whether the epoch that has just ended is the one to keep so far."""
        if score <= self.best and self.recipe.keep == "best":
            return False
        self.best, self.best_epoch = score, self.epoch - 1
        return True

    def state(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.as_json(),
            "module": self.task.module.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
            "best_epoch": self.best_epoch,
        }

    def resume(self, path: Path, log: Log) -> None:
        if not path.is_file():
            return
        state = torch.load(path, weights_only=True)
        if state["recipe"] != self.recipe.as_json():
            raise TrainingError(
                f"{path}: made with {state['recipe']}, asked for {self.recipe.as_json()}; "
                "give the same recipe, or another --output"
            )
        self.task.module.load_state_dict(state["module"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.best, self.best_epoch = state["epoch"], state["best"], state["best_epoch"]
        log(f"goes on after epoch {self.epoch - 1}, kept score {self.best:.4f}")


def _optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Decay for matrices and kernels alone. A parameter's attribute `rate_factor` scales its learning rate."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            key = parameter.dim() in (2, 4), float(getattr(parameter, "rate_factor", 1.0))
            groups.setdefault(key, []).append(parameter)
    options = [
        {"params": own, "weight_decay": recipe.weight_decay * decays, "factor": factor}
        for (decays, factor), own in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(options, lr=recipe.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(options, lr=recipe.learning_rate)


def _plain(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}


def _atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """A file that is either the old or the new one, whenever the process ends."""
    part = path.with_suffix(f".{os.getpid()}.part")
    write(part)
    part.replace(path)
