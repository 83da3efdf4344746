"""A repository that was built before, with a branch or the fusion's weights of newer training; the others stay the same files.

The checkpoint of the weights that ship is not part of the project. So what the fusion holds of the other branches is read back
from its graph; their own graphs are taken over as they are.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from fv2es_builders import assets
from fv2es_builders.cases import parity_inputs
from fv2es_builders.errors import TrainingError, UnusableRepository
from fv2es_builders.export import served_parts
from fv2es_builders.graphs import TOKENIZER_PATH, GraphFacts, Report, export_part, graph_path
from fv2es_builders.manifest import facts_sha256
from fv2es_builders.modules.model import V2EM, seeded_model
from fv2es_builders.presets import MODALITIES
from fv2es_builders.shipped import RepositorySource
from fv2es_builders.training.branches import load_branch
from fv2es_builders.training.finish import CALIBRATION_FILE, REPORT_FILE, WEIGHTS_FILE, facts_before, fusion_before

_BRANCH_FILES: Final = (WEIGHTS_FILE, CALIBRATION_FILE, REPORT_FILE)
_FUSION_FILES: Final = (CALIBRATION_FILE, REPORT_FILE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplacedSource:
    """Graphs of a repository, but for one branch and the fusion, which holds the part over time. PyTorch is needed."""

    base: RepositorySource
    branch: Path
    """Output of a finished run of `fv2es_builders.train` on visual, acoustic or text, or on the fusion of separately trained ones."""

    def key(self) -> str:
        """Hash of all that the graphs depend on.

        Raises:
            UnusableRepository: the repository holds no manifest.
            TrainingError: the run is not finished.
        """
        of_branch = fusion_before(self.branch) is None
        if of_branch:
            facts_before(self.branch)
        files = _BRANCH_FILES if of_branch else _FUSION_FILES
        run = {name: assets.file_sha256(self.branch / name) for name in files}
        return facts_sha256({"repository": self.base.key(), "run": run})

    def make(self, folder: Path, report: Report) -> GraphFacts:
        """Copy the graphs, and make those anew that the branch is in, each admitted by parity with its modules.

        With a branch, how much the fusion trusts each modality, and `pos_weight`, stay as they are in the repository; with a run on
        the fusion, these alone change.

        Args:
            folder: gets the files at their places in a repository.
            report: told what is going on.

        Raises:
            UnusableRepository: see `RepositorySource.make`; or its fusion is not of the preset's sizes.
            TrainingError: the run is not finished, or not of the preset's sizes.
            ParityError: a file does not reproduce its modules; it stays in `folder`.
        """
        facts = self.base.make(folder, report)
        preset = dataclasses.replace(self.base.preset, pos_weight=tuple(facts.preset["pos_weight"]))
        fusion, branches = fusion_before(self.branch), dict(facts.branches)
        if fusion is not None:
            if len(fusion.pos_weight) != len(preset.labels):
                raise TrainingError(
                    f"{self.branch}: is of {len(fusion.pos_weight)} labels, the preset of {len(preset.labels)}"
                )
            preset = dataclasses.replace(preset, pos_weight=fusion.pos_weight)
        model = seeded_model(preset, 0)  # no weights stay random in what is made of it
        self._take_fusion(model, folder / graph_path("fusion"))
        changed, file = "fusion", CALIBRATION_FILE
        if fusion is not None:
            with torch.no_grad():
                model.weighted_fusion.weight.copy_(torch.tensor([fusion.weights]))
        else:
            changed, file = load_branch(model, self.branch / WEIGHTS_FILE), WEIGHTS_FILE
            branches[changed] = dataclasses.asdict(facts_before(self.branch))
        report(f"putting in the {changed} of {self.branch}")
        text = assets.load_tokenizer(folder / TOKENIZER_PATH, vocabulary=int(preset.text.config["vocab_size"]))
        cases = parity_inputs(model, text)
        exported = {
            spec.name: export_part(reference, module, spec, cases[spec.name], preset, folder, report)
            for reference, module, spec in served_parts(model)
            if spec.name == changed or (spec.name == "fusion" and changed != "text")  # it holds nothing of the text
        }
        replaced = {changed: {"file": file, "sha256": assets.file_sha256(self.branch / file)}}
        return dataclasses.replace(
            facts,
            preset={
                **facts.preset,
                "pos_weight": preset.pos_weight,
                "licences": {**facts.preset["licences"], **preset.licences},
            },
            sha256=facts_sha256({"model": facts.sha256, "replaced": replaced}),
            source={
                **facts.source,
                "architecture": preset.architecture,
                "taken_from": {
                    **facts.source["taken_from"],
                    "replaced": {**facts.source["taken_from"].get("replaced", {}), **replaced},
                },
            },
            modality_weights=dict(zip(MODALITIES, model.weighted_fusion.weight[0].tolist(), strict=True)),
            branches=branches,
            parity={name: dataclasses.asdict(figures) for name, (figures, _) in exported.items()},
            seconds={name: duration_s for name, (_, duration_s) in exported.items()},
        )

    def _take_fusion(self, model: V2EM, path: Path) -> None:
        found = parameters_of(onnx.load(str(path)).graph)
        try:
            model.fusion.load_state_dict({name: found[name] for name in model.fusion.state_dict()}, strict=True)
        except (KeyError, RuntimeError) as error:
            raise UnusableRepository(
                self.base.repository,
                f"its fusion is not that of preset {self.base.preset.name} ({error}); build it anew",
            ) from error


def parameters_of(graph: onnx.GraphProto) -> Mapping[str, Tensor]:
    """A graph's parameters by their names in the module that it was exported from, float32.

    The exporter transposes the matrices of most linear layers and gives them names of its own; each is found by the bias that
    is added to its product, and a name ends in `weight` where its bias's ends in `bias`. Of tensors that are equal, as in untrained
    nets, the exporter keeps one: the others are not found.
    """
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    found = dict(values)
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for bias, product in (node.input, tuple(node.input)[::-1]):
            if bias in values and bias.endswith("bias") and products.get(product) in values:
                found[f"{bias.removesuffix('bias')}weight"] = values[products[product]].T
    return {
        name: torch.from_numpy(np.array(value, np.float32, order="C"))
        for name, value in found.items()
        if value.dtype == np.float32
    }
