import numpy as np
import pytest
import torch

from fv2es_builders.modules.acoustic import AcousticBranch, Attention, DropPath, Nest, acoustic_head
from fv2es_builders.presets import AcousticSize

SMALL = AcousticSize(dims=(8, 16, 32), heads=(2, 4, 8), depths=(1, 1, 2), hidden=16)


@torch.no_grad()
def test_attention_layout():
    """Against loops: channel c of the output comes from head c % heads, element c // heads of that head."""
    torch.manual_seed(0)
    batch, blocks, tokens, dim, heads = 2, 3, 4, 12, 3
    attention = Attention(dim, heads).double()
    x = torch.randn(batch, blocks, tokens, dim, dtype=torch.float64)
    found = attention(x).numpy()

    head_dim = dim // heads
    kernel, shift = attention.qkv.weight.numpy(), attention.qkv.bias.numpy()
    expected = np.zeros((batch, blocks, tokens, dim))
    for row in range(batch):
        for block in range(blocks):
            projected = x[row, block].numpy() @ kernel.T + shift  # [tokens, 3 * dim]
            mixed = np.zeros((tokens, dim))
            for head in range(heads):
                columns = slice(head * head_dim, (head + 1) * head_dim)
                query, key, value = (projected[:, part * dim : (part + 1) * dim][:, columns] for part in range(3))
                scores = query @ key.T / np.sqrt(head_dim)
                weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
                for element in range(head_dim):
                    mixed[:, element * heads + head] = weights @ value[:, element]
            expected[row, block] = mixed @ attention.proj.weight.numpy().T + attention.proj.bias.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


@torch.no_grad()
def test_attention_stays_in_its_block():
    """At the first level a pixel reaches its own block of 8x8 only (and, through the 3x3 convolution, its neighbours)."""
    torch.manual_seed(0)
    nest = Nest(SMALL).eval()
    x = torch.rand(1, 4, 32, 32)
    changed = x.clone()
    changed[0, :, 12, 20] += 5  # inside block row 1, block column 2; not at its edge
    first = nest.levels[0]
    difference = (first(nest.patch_embed(changed)) - first(nest.patch_embed(x))).abs().amax(
        dim=(0, 1)
    ) > 1e-7  # [32, 32]
    reached = {(int(row) // 8, int(column) // 8) for row, column in difference.nonzero()}
    assert reached == {(1, 2)}
    assert difference[8:16, 16:24].all()


@torch.no_grad()
def test_levels_reach_everything():
    torch.manual_seed(0)
    nest = Nest(SMALL).eval()
    x = torch.rand(1, 4, 32, 32)
    changed = x.clone()
    changed[0, 2, 0, 0] += 100
    difference = (nest(changed) - nest(x)).abs().amax(dim=1)[0]  # [8, 8]
    assert (difference > 0).all()


@torch.no_grad()
def test_shapes_and_flatten_order():
    """Features leave as [P, channels, 8, 8] and are flattened with the channel slowest, as the weights expect."""
    torch.manual_seed(0)
    nest = Nest(SMALL).eval()
    branch = AcousticBranch(torch.nn.Sequential(nest), acoustic_head(SMALL, 64)).eval()
    pieces = torch.rand(3, 4, 32, 32)
    features = nest(pieces)
    assert features.shape == (3, 32, 8, 8)
    flat = np.array(
        [[features[row, c, y, x] for c in range(32) for y in range(8) for x in range(8)] for row in range(3)]
    )
    assert torch.allclose(branch(pieces), branch.head(torch.from_numpy(flat)), atol=1e-6)
    assert branch(pieces).shape == (3, 64)


def test_drop_path():
    torch.manual_seed(0)
    layer = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    assert torch.equal(layer.eval()(x), x)
    dropped = layer.train()(x)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (dropped[:, 0, 0] == dropped[:, 1, 2]).all()  # a sample is kept or dropped as a whole
    assert dropped.mean() == pytest.approx(1, abs=0.05)


def test_drop_path_grows_with_depth():
    nest = Nest(SMALL)
    shares = [module.share for module in nest.modules() if isinstance(module, DropPath)]
    assert shares == pytest.approx([0, 0.5 / 3, 1 / 3, 0.5])


@torch.no_grad()
def test_folding():
    """The served form computes the same, to rounding, and the original keeps its weights; folding twice is folding once."""
    torch.manual_seed(0)
    branch = AcousticBranch(torch.nn.Sequential(Nest(SMALL)), acoustic_head(SMALL, 64)).eval()
    for parameter in branch.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    before = {name: tensor.clone() for name, tensor in branch.state_dict().items()}
    folded = branch.folded()
    pieces = 10 * torch.rand(3, 4, 32, 32)
    expected = branch(pieces)
    assert expected.std() > 1e-2
    assert torch.allclose(folded(pieces), expected, atol=1e-5)
    assert torch.equal(folded.folded()(pieces), folded(pieces))
    assert all(torch.equal(tensor, before[name]) for name, tensor in branch.state_dict().items())
    attention, plain = (next(m for m in each.modules() if isinstance(m, Attention)) for each in (folded, branch))
    assert not torch.equal(attention.proj.weight, plain.proj.weight)
