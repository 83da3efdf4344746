"""Imported models, as they are served, against the formulas written down a second time."""

from dataclasses import replace

import pytest
import torch

from builders.checkpoints import published, trained_model
from builders.original import Heads, Original
from fv2es_builders.importing import model_from_checkpoint
from fv2es_builders.presets import AcousticSize, Preset, TextSize, VggAcousticSize, preset_by_name

ATOL = 1e-4
"""See docs/parity.md, PyTorch modules and another implementation."""


@pytest.fixture(scope="module")
def small(tiny: Preset) -> Preset:
    """The tiny preset with ALBERT, levels of their own width and two layers of everything that is repeated."""
    config = {
        "vocab_size": 300,
        "embedding_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "hidden_act": "gelu_new",
    }
    return replace(
        tiny,
        visual=replace(tiny.visual, stage_channels=((4, 4, 6), (8,), (10,))),
        acoustic=AcousticSize(dims=(8, 12, 16), heads=(2, 3, 4), depths=(2, 1, 2), hidden=8),
        temporal=replace(tiny.temporal, layers=2),
        text=TextSize(kind="albert", config=config),
    )


@pytest.fixture(autouse=True)
def one_thread():
    """Many small operations: where other processes share the cores, waiting for a second thread takes a hundred times longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def heads_of(preset: Preset) -> Heads:
    config = preset.text.config
    nest = () if preset.architecture == "mme2e" else preset.acoustic.heads
    return Heads(
        nest=nest,
        over_time=preset.temporal.heads,
        text=config["num_attention_heads"],
        text_layers=config["num_hidden_layers"],
    )


@torch.no_grad()
def served_logits(model, utterances) -> torch.Tensor:
    """Logits [U, C] by the four parts that are served, all utterances as one batch, rows gathered, tokens padded."""
    tokens = torch.nn.utils.rnn.pad_sequence([ids for ids, _, _ in utterances if ids is not None], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.ones_like(ids) for ids, _, _ in utterances if ids is not None], batch_first=True
    )
    words_mask = torch.tensor([ids is not None for ids, _, _ in utterances])
    text = torch.zeros(len(utterances), len(model.preset.labels))
    text[words_mask] = model.text.eval()(tokens, mask)

    def gathered(place, branch):
        rows = [utterance[place] for utterance in utterances]
        counts = torch.tensor([0 if row is None else len(row) for row in rows])
        present = torch.arange(counts.max()) < counts[:, None]
        index = torch.zeros_like(present, dtype=torch.int64)
        index[present] = torch.arange(counts.sum())
        return branch(torch.cat([row for row in rows if row is not None])), index, present

    visual = gathered(1, model.visual.folded())
    acoustic = gathered(2, model.acoustic.eval().folded())
    return model.fusion.eval()(*visual, *acoustic, text, words_mask)[0]


def utterances_of(golden, vocabulary: int, faces: int = 3, pieces: int = 4):
    """Real faces and sound, random tokens; of one utterance all, of others some modalities."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, vocabulary, (length,), generator=generator) for length in (9, 4)]
    real_faces, real_pieces = torch.from_numpy(golden.faces), torch.from_numpy(golden.pieces)
    return [
        (ids[0], real_faces[:faces], real_pieces[:pieces]),
        (None, real_faces[faces : faces + 1], None),
        (ids[1], None, real_pieces[pieces : pieces + 2]),
    ]


@torch.no_grad()
def compare(preset, state, path, golden, **lengths):
    torch.save(state, path)
    model = model_from_checkpoint(path, preset).model
    utterances = utterances_of(golden, preset.text.config["vocab_size"], **lengths)
    original = Original(state, heads_of(preset))
    expected = torch.stack([original.logits(*utterance) for utterance in utterances])
    assert expected.std(dim=0).min() > 1e-2  # else agreement would mean nothing
    torch.testing.assert_close(served_logits(model, utterances).double(), expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("folded", [False, True])
def test_v2em(small, tmp_path, golden, folded):
    compare(small, published(trained_model(small), folded=folded), tmp_path / "weights.pt", golden)


def test_mme2e(small, tmp_path, golden):
    preset = replace(small, acoustic=VggAcousticSize(stem_channels=3, stage_channels=((4, 5), (6,), (7,)), hidden=8))
    compare(preset, published(trained_model(preset)), tmp_path / "weights.pt", golden)


def test_paper_size(tmp_path, golden):
    preset = preset_by_name("fv2es-iemocap")
    compare(preset, published(trained_model(preset)), tmp_path / "weights.pt", golden, faces=2, pieces=1)
