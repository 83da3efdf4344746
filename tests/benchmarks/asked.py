"""What the client asks a server for a film of a minute: counted where it is encoded."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import tritonclient.grpc as triton

import fv2es.client
from benchmarks.material import material, words_of
from fv2es import Client, EmbeddedServer
from fv2es.wire import Tensor, encode_message

MODELS = ("acoustic", "text", "visual")


def asked(address: str | None = None) -> dict[str, int]:
    """Requests by model, bytes sent as thousandths of the film's, and rows that engines were given, for a film of 60 s.

    Args:
        address: of a server that nobody else asks; None: one is started.
    """
    if address is None:
        with EmbeddedServer() as server:
            return asked(server.address)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        film = material(height_px=180, frames_per_s=15, duration_s=60, folder=Path(folder))
        counts: Counter[str] = Counter()

        def counted(model_name: str, tensors: Sequence[Tensor]) -> bytes:
            counts[f"{model_name}_requests"] += 1
            counts["bytes"] += sum(len(each.content) for each in tensors)
            return encode_message(model_name, tensors)

        patch.setattr(fv2es.client, "encode_message", counted)
        before = _rows(address)
        with Client(address) as client:
            result = client.analyze(film.path, transcript=words_of(film))
        assert not result.lost
        counts["utterances"] = len(result.utterances)
        counts["sent_per_mille_of_film"] = round(1000 * counts.pop("bytes") / film.num_bytes)
        after = _rows(address)
        return dict(sorted((counts | {f"{name}_rows": after[name] - before[name] for name in MODELS}).items()))


def _rows(address: str) -> dict[str, int]:
    with triton.InferenceServerClient(address) as client:
        return {each.name: each.inference_count for each in client.get_inference_statistics().model_stats}
