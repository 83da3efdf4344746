"""What the committed weights see in real films: the visual branch by itself."""

from pathlib import Path

import pytest

from fv2es import Client, EmbeddedServer, UtteranceResult
from fv2es.utterances import UtteranceRule

pytestmark = pytest.mark.server


def seen(film: Path, server: EmbeddedServer, *, window_s: float) -> list[UtteranceResult]:
    with Client(server.address, utterance_rule=UtteranceRule(window_s=window_s)) as client:
        return list(client.analyze(film).utterances)


def called(utterance: UtteranceResult) -> str:
    logits = utterance.modalities["visual"].logits
    assert logits is not None
    return max(logits, key=logits.__getitem__)


def test_from_neutral_to_a_smile(shared_media: Path, server: EmbeddedServer):
    first, second, *_ = seen(shared_media / "single_face.mp4", server, window_s=1.0)
    assert (called(first), called(second)) == ("neutral", "happiness")


def test_tears_then_laughter(shared_media: Path, server: EmbeddedServer):
    """She cries for some ten seconds, the last of them behind her hand, and laughs in the last ten."""
    first, _, *laughing = seen(shared_media / "WolfgangLanger_Pexels.mp4", server, window_s=5.0)
    assert called(first) == "sadness"
    assert [called(each) for each in laughing] == ["happiness", "happiness"]


def test_nothing_is_seen_where_no_face_is(shared_media: Path, server: EmbeddedServer):
    (only,) = seen(shared_media / "no_face.mp4", server, window_s=5.0)
    assert not only.modalities["visual"].present


def test_silence_says_next_to_nothing(shared_media: Path, server: EmbeddedServer):
    """The film of the crying woman has digital silence for its sound."""
    for each in seen(shared_media / "WolfgangLanger_Pexels.mp4", server, window_s=5.0):
        logits = each.modalities["acoustic"].logits
        assert logits is not None
        assert max(logits.values()) <= 0.1
        assert min(logits.values()) >= -1.5
