"""Through Triton and in one process: the torch modules on the same frames, sound and words say the same."""

from pathlib import Path

import numpy as np
import pytest

from fv2es import Client, ClipRule, EmbeddedServer
from fv2es_builders.reference import analyse_in_process, load_reference
from fv2es_pipelines.faces import FaceExtractor
from fv2es_pipelines.mel import MelPipeline
from fv2es_pipelines.mtcnn import Detector

pytestmark = pytest.mark.xdist_group("server")

PROBABILITY_ATOL = 1e-3
"""Allowed by the contract; float32 in another order of operations makes about 1e-6."""


def in_process(film: Path, spans: list[tuple[float, float]], words: list[str], repository: Path):
    """The whole way without client, cutting, ONNX of the model, and Triton."""
    data = np.fromfile(film, np.uint8)
    faces = FaceExtractor(Detector(repository / "faces" / "1"))(data, spans)
    pieces = MelPipeline()(data, spans)
    return analyse_in_process(
        load_reference("starter", seed=0),
        faces=[faces.faces[index[mask]] for index, mask in zip(faces.face_index, faces.face_mask, strict=True)],
        pieces=[pieces.pieces[index[mask]] for index, mask in zip(pieces.piece_index, pieces.piece_mask, strict=True)],
        words=words,
    )


def assert_agrees(film: Path, transcript: Path | None, server: EmbeddedServer, repository: Path) -> None:
    with Client(server.address, clip_rule=ClipRule(target_length_s=5.0)) as client:
        result = client.analyze(film, transcript=transcript)
    assert not result.lost
    spans = [(each.start_s, each.end_s) for each in result.utterances]
    answer = in_process(film, spans, [each.text for each in result.utterances], repository)
    served = np.array([list(each.probabilities.values()) for each in result.utterances])
    present = [[each.modalities[name].present for name in ("text", "visual", "acoustic")] for each in result.utterances]
    assert present == answer.present.tolist()
    assert np.abs(served - answer.probabilities).max() <= PROBABILITY_ATOL
    assert np.ptp(answer.probabilities) > 10 * PROBABILITY_ATOL  # a constant would agree with anything


def test_film_with_words(astronaut: Path, astronaut_srt: Path, server: EmbeddedServer, repository: Path):
    assert_agrees(astronaut, astronaut_srt, server, repository)


@pytest.mark.parametrize(
    "name", ["WDA_KatieHill_000.mp4", "WolfgangLanger_Pexels.mp4", "single_face.mp4", "no_face.mp4"]
)
def test_real_films(name: str, shared_media: Path, server: EmbeddedServer, repository: Path):
    assert_agrees(shared_media / name, None, server, repository)
