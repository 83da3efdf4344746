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


class NotARepository(BuildError):
    """A folder is no repository that plans can be made for. `folder` names it."""

    def __init__(self, folder: Path, problem: str) -> None:
        self.folder = folder
        super().__init__(f"{folder}: {problem}; make a repository with: fv2es build --profile gpu --output DIR")


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


class UnusableRepository(CheckpointError):
    """A folder is given as a checkpoint, and is no repository that a build can start from."""


class OtherLabels(CheckpointError):
    """The checkpoint says which labels it was trained for, and they are not the preset's in their order."""

    def __init__(self, path: Path, *, found: Sequence[str], labels: Sequence[str]) -> None:
        self.found, self.labels = tuple(found), tuple(labels)
        super().__init__(
            path,
            f"was trained for {', '.join(found)}, but the build is for {', '.join(labels)}; "
            f"choose its preset, or give --labels {','.join(found)}",
        )


class UnknownSize(CheckpointError):
    """A size can't be read from the tensors' shapes, and no rule gives it."""


class LabelsChanged(BuildError):
    """Too many real utterances have another top label than in FP32. `changed` names them, `same` is the share that has not."""

    def __init__(self, *, precision: str, same: float, least: float, changed: Sequence[str]) -> None:
        self.precision, self.same, self.least, self.changed = precision, same, least, tuple(changed)
        super().__init__(
            f"in {precision} {same:.1%} of the real utterances keep their top label, {least:.0%} must; changed: {listed(changed)}; "
            "the engines were not admitted: choose a higher precision"
        )


class CalibrationError(BuildError):
    """Inputs from which ranges are to be taken don't serve. `subject` names the graph they are for, or the film they come from."""

    def __init__(self, subject: str, problem: str) -> None:
        self.subject = subject
        super().__init__(f"calibration of {subject}: {problem}")


class TensorRtMissing(BuildError):
    """A TensorRT that is needed can't be imported here, or is too old. `flavour` names it, `found` is its version if there is one."""

    def __init__(self, flavour: str, *, found: str | None = None, remedy: str) -> None:
        self.flavour, self.found = flavour, found
        super().__init__(f"{flavour} {f'is {found}' if found else 'is not installed'}; {remedy}")


class GpuMissing(BuildError):
    """There is no NVIDIA GPU that can be used. `reason` says what failed."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"no usable NVIDIA GPU ({reason}); run this on a machine with one and its driver, in a container with `--gpus all`"
        )


class GpuUnsupported(BuildError):
    """A TensorRT has no code for this GPU."""

    def __init__(self, flavour: str, *, compute_capability: str, remedy: str) -> None:
        self.flavour, self.compute_capability = flavour, compute_capability
        super().__init__(f"{flavour} does not support compute capability {compute_capability}; {remedy}")


class CudaError(BuildError):
    """A call of the CUDA driver failed. `call` names it, `status` is the driver's number."""

    def __init__(self, call: str, status: int) -> None:
        self.call, self.status = call, status
        super().__init__(f"{call} failed with CUDA error {status}; see the driver's log (dmesg) and nvidia-smi")


class GraphRefused(BuildError):
    """TensorRT's parser does not take an ONNX file. `node` and `operator` name the node, empty if the file as a whole is wrong."""

    def __init__(self, source: Path, *, node: str, operator: str, reason: str) -> None:
        self.source, self.node, self.operator, self.reason = source, node, operator, reason
        where = f"node {node!r} ({operator})" if node or operator else "the file"
        super().__init__(
            f"{source}: TensorRT refuses {where}: {reason}; give an ONNX file that `fv2es build` exported, or change the module that makes this node"
        )


class ProfileError(BuildUsageError):
    """Shapes that a plan is asked to serve don't fit the graph. `tensor` names the input."""

    def __init__(self, tensor: str, message: str) -> None:
        self.tensor = tensor
        super().__init__(f"profile of {tensor}: {message}")


class PlanFailed(BuildError):
    """TensorRT's builder gave no plan for a graph that its parser took."""

    def __init__(self, source: Path, *, reason: str) -> None:
        self.source, self.reason = source, reason
        super().__init__(
            f"{source}: TensorRT built no plan: {reason}; give it more workspace or smaller largest shapes"
        )


class PlanUnwritten(BuildError):
    """A built plan could not be written. Nothing is left at `target`."""

    def __init__(self, target: Path, *, reason: str) -> None:
        self.target, self.reason = target, reason
        super().__init__(f"{target}: the plan can't be written ({reason}); make room or name another folder")


class PlanDamaged(BuildError):
    """A plan's file is not the one that was built: truncated, changed, or no plan at all."""

    def __init__(self, plan: Path, *, reason: str) -> None:
        self.plan, self.reason = plan, reason
        super().__init__(f"{plan}: damaged ({reason}); build it anew")


class PlanForeign(BuildError):
    """A plan was made by another TensorRT or for another GPU than those of this machine."""

    def __init__(self, plan: Path, *, built: str, here: str) -> None:
        self.plan, self.built, self.here = plan, built, here
        super().__init__(f"{plan}: was built {built}, here is {here}; build it anew on this machine")


class PlanRefused(BuildError):
    """TensorRT does not load or run a plan, for a reason of its own."""

    def __init__(self, plan: Path, *, reason: str) -> None:
        self.plan, self.reason = plan, reason
        super().__init__(f"{plan}: TensorRT refuses it: {reason}; build it anew on this machine")


class WrongOnGpu(BuildError):
    """Engines or the decoder disagree with their references on this machine's GPU. `failures` has a line for each."""

    def __init__(self, failures: Sequence[str]) -> None:
        self.failures = tuple(failures)
        super().__init__(f"{len(self.failures)} checks failed: {'; '.join(self.failures)}")


class ServerVersionError(BuildUsageError):
    """No repository can be rendered for this version of Triton. `version` is as it was given."""

    def __init__(self, version: str, rule: str) -> None:
        self.version = version
        super().__init__(
            f"server version {version!r} {rule}; give the version of Triton itself, 2.51 or newer (that of NGC's 26.11 is 2.75)"
        )


class MixedProfiles(BuildError):
    """A repository holds weights for another profile than it is rendered for. `files` names them."""

    def __init__(self, repository: Path, *, profile: str, files: Sequence[Path]) -> None:
        self.repository, self.profile, self.files = repository, profile, tuple(files)
        names = ", ".join(str(path.relative_to(repository)) for path in files)
        super().__init__(
            f"{repository} holds weights of another profile than {profile} ({names}); "
            "name another folder, or delete these files first"
        )


class TrainingDataError(BuildError):
    """A data set is absent, or not laid out as training expects it. `source` names the file or folder."""

    def __init__(self, source: Path, message: str) -> None:
        self.source = source
        super().__init__(f"{source}: {message}")


class TrainingError(BuildError):
    """Training cannot go on: the loss is not a number, or a checkpoint belongs to another run."""
