"""What a served model must agree with: its torch modules on the same frames, sound and words, in one process."""

from pathlib import Path

import numpy as np

from fv2es import Client, ClipRule, EmbeddedServer
from fv2es_builders.reference import Answer, Reference, analyse_in_process
from fv2es_pipelines.faces import FaceExtractor
from fv2es_pipelines.mel import MelPipeline
from fv2es_pipelines.mtcnn import Detector


def in_process(
    film: Path, spans: list[tuple[float, float]], words: list[str], repository: Path, reference: Reference
) -> Answer:
    """The whole way without client, cutting, ONNX of the model, and Triton."""
    data = np.fromfile(film, np.uint8)
    faces = FaceExtractor(Detector(repository / "faces" / "1"))(data, spans)
    pieces = MelPipeline()(data, spans)
    return analyse_in_process(
        reference,
        faces=[faces.faces[index[mask]] for index, mask in zip(faces.face_index, faces.face_mask, strict=True)],
        pieces=[pieces.pieces[index[mask]] for index, mask in zip(pieces.piece_index, pieces.piece_mask, strict=True)],
        words=words,
    )


def assert_agrees(
    film: Path, transcript: Path | None, server: EmbeddedServer, reference: Reference, *, atol: float
) -> None:
    """Ask a server about a film, and compare probabilities and present modalities."""
    with Client(server.address, clip_rule=ClipRule(target_length_s=5.0)) as client:
        result = client.analyze(film, transcript=transcript)
    assert not result.lost
    spans = [(each.start_s, each.end_s) for each in result.utterances]
    answer = in_process(film, spans, [each.text for each in result.utterances], server.repository, reference)
    served = np.array([list(each.probabilities.values()) for each in result.utterances])
    present = [[each.modalities[name].present for name in ("text", "visual", "acoustic")] for each in result.utterances]
    assert present == answer.present.tolist()
    assert np.abs(served - answer.probabilities).max() <= atol
    assert np.ptp(answer.probabilities) > 10 * atol  # a constant would agree with anything
