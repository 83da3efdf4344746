"""Every error that a build raises. One root; facts are attributes."""

from collections.abc import Sequence
from pathlib import Path


class BuildError(Exception):
    """Root of all errors of this package."""


class BuildUsageError(BuildError, ValueError):
    """An option is outside its rule."""


class AssetError(BuildError):
    """Weights or a tokenizer that a build needs are absent or not what they should be. `asset` names them."""

    def __init__(self, asset: str, message: str) -> None:
        self.asset = asset
        super().__init__(f"{asset}: {message}")


class OutputBusy(BuildError):
    """Another build writes to the same folder. `output` names it."""

    def __init__(self, output: Path) -> None:
        self.output = output
        super().__init__(f"{output}: another build is writing here; wait for it, or choose another --output")


class ParityError(BuildError):
    """A built file does not reproduce the outputs of the modules it was made from.

    `candidate` stays on disk for replay; `case` and `output` name what differed, `position` its worst element.
    """

    def __init__(
        self, candidate: Path, *, case: str, output: str, error: float, atol: float, position: Sequence[int]
    ) -> None:
        self.candidate, self.case, self.output = candidate, case, output
        self.error, self.atol, self.position = error, atol, tuple(position)
        super().__init__(
            f"{candidate.name}: |error| {error:.3g} > {atol:g} in {output}{list(self.position)} on {case} inputs; "
            f"the file was not admitted, replay it from {candidate}"
        )


class ShapeMismatch(ParityError):
    """A built file gives an output of another shape than the modules."""

    def __init__(
        self, candidate: Path, *, case: str, output: str, found: Sequence[int], expected: Sequence[int]
    ) -> None:
        self.found, self.expected = tuple(found), tuple(expected)
        self.candidate, self.case, self.output = candidate, case, output
        self.error, self.atol, self.position = float("nan"), 0.0, ()
        BuildError.__init__(
            self,
            f"{candidate.name}: {output} has shape {list(found)} on {case} inputs, expected {list(expected)}; "
            f"the file was not admitted, replay it from {candidate}",
        )


class TrainingDataError(BuildError):
    """A data set is absent, or not laid out as training expects it. `source` names the file or folder."""

    def __init__(self, source: Path, message: str) -> None:
        self.source = source
        super().__init__(f"{source}: {message}")


class TrainingError(BuildError):
    """Training cannot go on: the loss is not a number, or a checkpoint belongs to another run."""
