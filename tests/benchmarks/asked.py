"""What the client asks a server for a film of a minute: counted at tritonclient's door."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton

from benchmarks.material import material, words_of
from fv2es import Client, EmbeddedServer

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

        def counted(name: str) -> None:
            whole = getattr(triton.InferenceServerClient, name)

            def ask(self: Any, model_name: str, inputs: Any, *rest: Any, **named: Any) -> Any:
                counts[f"{model_name}_requests"] += 1
                counts["bytes"] += sum(len(each._get_content() or b"") for each in inputs)
                return whole(self, model_name, inputs, *rest, **named)

            patch.setattr(triton.InferenceServerClient, name, ask)

        for name in ("infer", "async_infer"):
            counted(name)
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
