"""Every error that a build raises. One root; facts are attributes."""

from collections.abc import Sequence
from pathlib import Path


def listed(names: Sequence[str], *, limit: int = 8) -> str:
    """Names for a message, the first `limit` of them and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


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


class DiskFull(BuildError):
    """There is no room for what is built. `folder` names where; nothing there looks complete."""

    def __init__(self, folder: Path, *, free_bytes: int) -> None:
        self.folder, self.free_bytes = folder, free_bytes
        super().__init__(
            f"{folder}: no space left on this disk ({free_bytes / 1e6:.0f} MB are free); make room, or name another disk by "
            "--output or --cache. What was there before is unchanged or marked as incomplete"
        )


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


class CheckpointError(BuildError):
    """A checkpoint can't be turned into a model. `path` names its file."""

    def __init__(self, path: Path, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


class UnreadableCheckpoint(CheckpointError):
    """The file is absent, damaged, or holds something else than named tensors."""


class UnsafeCheckpoint(CheckpointError):
    """Opening the file would run code. Nothing in it was run. `objects` names what it wants to make, where that can be told."""

    def __init__(self, path: Path, *, objects: Sequence[str]) -> None:
        self.objects = tuple(objects)
        super().__init__(
            path,
            f"a pickle that makes more than tensors ({listed(objects)}) may run any code, so it was not opened; where you "
            "trust it, open it yourself and save the names and tensors alone: torch.save(model.state_dict(), 'weights.pt')",
        )


class UnknownModel(CheckpointError):
    """The keys are those of another model. `keys` holds some of them."""

    def __init__(self, path: Path, *, keys: Sequence[str], hint: str) -> None:
        self.keys = tuple(keys)
        super().__init__(
            path,
            f"neither V2EM (keys like A.0.levels.0.pos_embed) nor MME2E (like A.4.conv1.weight): found {listed(keys)}; {hint}",
        )


class CheckpointMismatch(CheckpointError):
    """Keys are missing or unknown, or tensors have another shape or type than the model's.

    `missing` and `unexpected` hold keys; `wrong` holds key, what was found and what was expected.
    """

    def __init__(
        self, path: Path, *, missing: Sequence[str], unexpected: Sequence[str], wrong: Sequence[tuple[str, str, str]]
    ) -> None:
        self.missing, self.unexpected, self.wrong = tuple(missing), tuple(unexpected), tuple(wrong)
        facts = []
        if missing:
            facts.append(f"{len(missing)} missing: {listed(missing)}")
        if unexpected:
            facts.append(f"{len(unexpected)} unknown: {listed(unexpected)}")
        if wrong:
            lines = [f"{name} is {found}, expected {expected}" for name, found, expected in wrong]
            facts.append(f"{len(wrong)} of another shape or type: {listed(lines)}")
        super().__init__(
            path,
            f"does not fit the model whose sizes were read from it; {'; '.join(facts)}. "
            "Save the whole state dict of one model, without other entries",
        )


class MixedForms(CheckpointError):
    """Some RepVGG blocks are folded and others are not. `folded` and `branched` hold their names."""

    def __init__(self, path: Path, *, folded: Sequence[str], branched: Sequence[str]) -> None:
        self.folded, self.branched = tuple(folded), tuple(branched)
        super().__init__(
            path,
            f"blocks {listed(folded)} hold a folded kernel (rbr_reparam) and {listed(branched)} hold branches (rbr_dense, "
            "rbr_1x1, rbr_identity); which are meant can't be told: save the model either before or after folding",
        )


class CheckpointValues(CheckpointError):
    """Tensors hold what no weight may be. `keys` names them."""

    def __init__(self, path: Path, *, keys: Sequence[str], what: str, remedy: str) -> None:
        self.keys = tuple(keys)
        super().__init__(path, f"{what} in {listed(keys)}; {remedy}")


class LabelMismatch(CheckpointError):
    """The checkpoint answers with another number of labels than the preset has."""

    def __init__(self, path: Path, *, found: int, labels: Sequence[str], preset: str) -> None:
        self.found, self.labels = found, tuple(labels)
        super().__init__(
            path,
            f"answers with {found} labels (v_out), but preset {preset} has {len(labels)}: {', '.join(labels)}; "
            f"choose the preset whose labels the checkpoint was trained on, in their order",
        )


class UnknownSize(CheckpointError):
    """A size can't be read from the tensors' shapes, and no rule gives it."""


class CalibrationError(BuildError):
    """The inputs from which ranges are to be taken don't serve. `graph` names the graph they are for."""

    def __init__(self, graph: str, problem: str) -> None:
        self.graph = graph
        super().__init__(f"calibration of {graph}: {problem}")
