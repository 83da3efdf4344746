"""Films of the kind that will be served, as utterances from which engines take their ranges."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import av
import numpy as np

from fv2es_builders.errors import CalibrationError
from fv2es_builders.utterances import Utterance
from fv2es_pipelines.errors import PipelineError
from fv2es_pipelines.faces import FaceExtractor
from fv2es_pipelines.mel import MelPipeline
from fv2es_pipelines.mtcnn import Detector

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW_S: Final = 5.0
"""Length of an utterance."""

MOST_S: Final = 60.0
"""So much of a film is looked at, from its beginning."""


def film_utterances(film: Path, detector: Path) -> Sequence[Utterance]:
    """Faces and sound of a film in windows; it has no words.

    Args:
        film: media file.
        detector: folder with the face detector's nets.

    Raises:
        CalibrationError: the file can't be used, or holds neither a face nor sound.
    """
    try:
        data = np.fromfile(film, np.uint8)
        spans = _windows(film)
        faces = FaceExtractor(Detector(detector))(data, spans)
        sound = MelPipeline()(data, spans)
    except (PipelineError, av.FFmpegError, OSError) as error:
        raise CalibrationError(str(film), f"{error}; give another film") from error
    utterances = [
        Utterance(
            name=f"{film.name} from {start_s:g} s",
            faces=faces.faces[faces.face_index[row][faces.face_mask[row]]],
            pieces=sound.pieces[sound.piece_index[row][sound.piece_mask[row]]],
            words="",
        )
        for row, (start_s, _) in enumerate(spans)
    ]
    if not any(len(each.faces) or len(each.pieces) for each in utterances):
        raise CalibrationError(str(film), "neither a face nor sound was found in it; give another film")
    return utterances


def _windows(film: Path) -> "NDArray[np.float64]":
    """[U, 2] start and end in seconds."""
    with av.open(str(film)) as container:
        length_s = min((container.duration or 0) / av.time_base, MOST_S)
    starts = np.arange(0, max(length_s, WINDOW_S) - 0.5 * WINDOW_S, WINDOW_S)
    return np.stack([starts, starts + WINDOW_S], axis=1)
