import copy

import numpy as np
import pytest
import torch

from fv2es_builders.modules.visual import RepVGGBlock, VisualBranch, visual_head, visual_trunk
from fv2es_builders.parity import ATOL
from fv2es_builders.presets import VisualSize


@pytest.fixture(scope="module")
def branch() -> VisualBranch:
    """The paper's visual branch with batch norms as training leaves them: no mean 0, no deviation 1."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        branch = VisualBranch(visual_trunk(VisualSize()), visual_head(VisualSize(), 64))
        for module in branch.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.2, 3)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, 0, 0.3)
    return branch.eval()


def faces_of(shared_data) -> torch.Tensor:
    with np.load(shared_data / "fer2013" / "public_test.npz") as archive:
        grey = archive["images"][:64].reshape(-1, 48, 48)
    return torch.from_numpy(np.repeat(grey[..., None], 3, axis=-1))


@torch.no_grad()
def worst_difference(branch: VisualBranch, faces: torch.Tensor) -> float:
    expected, found = branch(faces), branch.folded()(faces)
    assert expected.std() > 1e-3  # else agreement would mean nothing
    return float((expected - found).abs().max())


def test_folding_random_faces(branch):
    faces = torch.randint(0, 256, (16, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert worst_difference(branch, faces) <= ATOL["folding"]


def test_folding_real_faces(branch, golden):
    assert worst_difference(branch, torch.from_numpy(golden.faces)) <= ATOL["folding"]


def test_folding_fer2013(branch, shared_data):
    assert worst_difference(branch, faces_of(shared_data)) <= ATOL["folding"]


def test_folding_after_training_steps(golden):
    """Statistics that real data left behind, not made-up ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        branch = VisualBranch(visual_trunk(VisualSize()), visual_head(VisualSize(), 64)).train()
        with torch.no_grad():
            for _ in range(5):
                branch(torch.from_numpy(golden.faces))
    assert worst_difference(branch.eval(), torch.from_numpy(golden.faces)) <= ATOL["folding"]


def test_folding_leaves_the_original(branch):
    before = copy.deepcopy(branch.state_dict())
    folded = branch.folded()
    after = branch.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert "trunk.4.rbr_reparam.weight" in folded.state_dict()
    assert not any("rbr_dense" in name for name in folded.state_dict())


@pytest.mark.parametrize(("channels_in", "channels_out"), [(6, 6), (6, 9)])
@torch.no_grad()
def test_block_folds_exactly(channels_in, channels_out):
    """In double precision the folded kernel is the sum of the branches, to rounding; with and without identity."""
    torch.manual_seed(0)
    block = RepVGGBlock(channels_in, channels_out).eval().double()
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.1, 4)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    x = torch.randn(2, channels_in, 7, 5, dtype=torch.float64)
    expected = block(x)
    block.fold()
    folded = block.double()(x)  # the kernel itself is kept in float32
    assert torch.allclose(folded, expected, atol=1e-5)
    block.fold()  # a second time changes nothing
    assert torch.equal(block(x), folded)


@torch.no_grad()
def test_normalisation(branch, golden):
    """(x - [159, 111, 102]) / [37, 33, 32], red first."""
    faces = golden.faces.astype(np.float64)
    pixels = (faces - [159, 111, 102]) / [37, 33, 32]
    normalised = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32))
    expected = branch.head(branch.trunk(normalised).flatten(1))
    assert torch.allclose(branch(torch.from_numpy(golden.faces)), expected, atol=1e-4)
    swapped = branch(torch.from_numpy(golden.faces[..., ::-1].copy()))
    assert not torch.allclose(swapped, expected, atol=1e-2)


@torch.no_grad()
def test_rows_are_independent(branch, golden):
    faces = torch.from_numpy(golden.faces)
    assert torch.allclose(branch(faces)[3:4], branch(faces[3:4]), atol=1e-5)
