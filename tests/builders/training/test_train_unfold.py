"""Training that starts from a graph that is served, and training by a teacher."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fv2es_builders.errors import TrainingError
from fv2es_builders.export import onnx_from_module, visual_spec
from fv2es_builders.graphs import graph_path
from fv2es_builders.modules.visual import VisualBranch
from fv2es_builders.training.face_augment import normalised
from fv2es_builders.training.faces import Faces, load_faces
from fv2es_builders.training.recipe import Recipe
from fv2es_builders.training.unfold import start_from_repository
from fv2es_builders.training.visual import FaceNet, Teacher, VisualSettings, VisualTask

FEATURES_ATOL = 1e-3
"""Of features near 1, through a few batch norms in float32."""


@pytest.fixture
def faces(small_sets, starter_tiny) -> Faces:
    return load_faces(small_sets / "fer2013" / "training.npz", starter_tiny.labels)


@torch.no_grad()
def trained_net(preset, seed: int = 0) -> FaceNet:
    """With batch norms as training leaves them."""
    torch.manual_seed(seed)
    net = FaceNet(preset, 0.1)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.3)
    return net.eval()


@pytest.fixture
def served(starter_tiny, tmp_path) -> tuple[FaceNet, Path]:
    """A trained net and a repository with its graph."""
    net = trained_net(starter_tiny)
    branch = VisualBranch(net.V, net.v_flatten).folded()
    onnx_from_module(branch, visual_spec(starter_tiny), tmp_path / graph_path("visual"))
    return net, tmp_path


def test_the_net_answers_as_the_graph_in_evaluation_and_in_training(served, starter_tiny, faces):
    net, repository = served
    own = FaceNet(starter_tiny, 0.0)
    start_from_repository(own, repository, faces, seed=3)
    pictures = normalised(faces.images[:, None].float())
    with torch.no_grad():
        expected = net.features(pictures)
        assert torch.allclose(own.features(pictures), expected, atol=FEATURES_ATOL)
        assert expected.std() > 0.05
        own.V.train()
        # statistics of these faces are near those of their augmented forms, not the same
        assert torch.corrcoef(torch.stack([own.features(pictures).flatten(), expected.flatten()]))[0, 1] > 0.95
    assert all(parameter.grad is None for parameter in own.parameters())


def test_all_branches_learn_from_there(served, starter_tiny, faces):
    recipe = Recipe(epochs=1, batch=16, learning_rate=0.01)
    task = VisualTask(starter_tiny, recipe, faces, faces)
    start_from_repository(task.module, served[1], faces, seed=3)
    next(iter(task.losses(0)))().backward()
    for name, parameter in task.module.named_parameters():
        assert parameter.grad is not None
        if name.endswith(("bn.weight", "rbr_identity.weight")):
            assert parameter.grad.abs().max() > 0, name


def test_a_graph_of_other_sizes_is_refused(served, starter_tiny, faces, tmp_path):
    other = replace(starter_tiny, visual=replace(starter_tiny.visual, stem_channels=8))
    with pytest.raises(TrainingError, match=r"trunk\.0\.weight has shape \[4, 3, 5, 5\], the net's differs"):
        start_from_repository(FaceNet(other, 0.0), served[1], faces, seed=0)
    with pytest.raises(TrainingError, match="name a repository of profile cpu"):
        start_from_repository(FaceNet(starter_tiny, 0.0), tmp_path / "nothing", faces, seed=0)


def test_a_teacher_says_the_same_of_a_face_and_its_mirror_image(starter_tiny, faces):
    net = trained_net(starter_tiny)
    teacher = Teacher(net)
    pictures = normalised(faces.images[:8, None].float())
    answers = teacher(pictures)
    torch.testing.assert_close(answers, teacher(pictures.flip(-1)))
    torch.testing.assert_close(answers.sum(dim=1), torch.ones(8))
    with torch.no_grad():
        both = (net(pictures).softmax(dim=1) + net(pictures.flip(-1)).softmax(dim=1)) / 2
    np.testing.assert_allclose(answers, both, atol=0.02)  # bfloat16
    assert net.V[1].__class__ is torch.nn.BatchNorm2d  # the net itself is not folded


def test_what_a_teacher_says_is_learnt(starter_tiny, faces):
    """One that always says the last label is followed away from the true ones."""
    settings = VisualSettings(taught=1.0, dropout=0.0)
    recipe = Recipe(epochs=6, batch=14, learning_rate=0.05)

    def stubborn(pictures: torch.Tensor) -> torch.Tensor:
        return torch.eye(7)[torch.full((len(pictures),), 6)]

    task = VisualTask(starter_tiny, recipe, faces, faces, settings, stubborn)
    search = torch.optim.SGD(task.module.parameters(), lr=0.05)
    for epoch in range(recipe.epochs):
        for loss_of in task.losses(epoch):
            search.zero_grad()
            loss_of().backward()
            search.step()
    with torch.no_grad():
        called = task.module.eval()(normalised(faces.images[:, None].float())).argmax(dim=1)
    assert (called == 6).float().mean() > 0.9
