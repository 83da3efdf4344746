"""What the branches of a built repository say about validation data: a fusion can be found without the runs that trained them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fv2es_builders.assets import load_tokenizer
from fv2es_builders.errors import TrainingError
from fv2es_builders.graphs import ENGINES, TOKENIZER_PATH, graph_path
from fv2es_builders.parity import session_of
from fv2es_builders.presets import MODALITIES, Preset
from fv2es_builders.training.comments import Comments, comment_halves, load_comments
from fv2es_builders.training.faces import Faces, halves, load_faces
from fv2es_builders.training.pairs import Answers
from fv2es_builders.training.scores import Matrix
from fv2es_builders.utterances import Utterance, answers

_NO_FACES = np.zeros((0, 48, 48, 3), np.uint8)
_NO_PIECES = np.zeros((0, 4, 32, 32), np.float32)


class ServedBranches:
    """A repository's branches, asked one at a time: a face or a text is an utterance, as in `benchmarks.accuracy`.

    There is no acoustic one here: the weights that ship have heard all the speakers that there are.
    """

    def __init__(self, repository: Path, preset: Preset) -> None:
        """Load the graphs.

        Args:
            repository: of profile cpu.
            preset: the repository's.

        Raises:
            TrainingError: it holds no graphs that ONNX Runtime can run.
        """
        try:
            self._runners = {model: session_of(str(repository / graph_path(model))) for model in ENGINES}
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            raise TrainingError(
                f"{repository}: its graphs can't be run ({error}); name a repository of profile cpu"
            ) from error
        self._tokenizer = load_tokenizer(repository / TOKENIZER_PATH, vocabulary=int(preset.text.config["vocab_size"]))
        self._labels = preset.labels

    def halves(self, data: Path, *, seed: int) -> Mapping[str, tuple[Answers, Answers]]:
        """Of `text` and `visual`, answers to the half of the validation data that is chosen by, and to that which is reported on.

        Args:
            data: folder with `fer2013` and `goemotions_ekman`.
            seed: of the halves.

        Raises:
            TrainingDataError: the data are absent or not as expected.
        """
        comments = comment_halves(load_comments(data / "goemotions_ekman" / "dev.tsv", self._labels), seed=seed)
        faces = halves(load_faces(data / "fer2013" / "public_test.npz", self._labels), seed=seed)
        return {
            "text": (self._of_comments(comments[0]), self._of_comments(comments[1])),
            "visual": (self._of_faces(faces[0]), self._of_faces(faces[1])),
        }

    def _of_comments(self, comments: Comments) -> Answers:
        utterances = [Utterance(name="", faces=_NO_FACES, pieces=_NO_PIECES, words=text) for text in comments.texts]
        return Answers(evidence=self._evidence("text", utterances), targets=comments.targets.numpy())

    def _of_faces(self, faces: Faces) -> Answers:
        rgb = np.repeat(faces.images.numpy()[:, None, :, :, None], 3, axis=-1)  # [N, 1, 48, 48, 3]
        utterances = [Utterance(name="", faces=own, pieces=_NO_PIECES, words="") for own in rgb]
        targets = np.eye(len(self._labels), dtype=np.float32)[faces.labels.numpy()]
        return Answers(evidence=self._evidence("visual", utterances), targets=targets)

    def _evidence(self, modality: str, utterances: Sequence[Utterance]) -> Matrix:
        said = answers(utterances, self._tokenizer, self._runners)["MODALITY_LOGITS"]  # [N, 3, C]
        evidence: Matrix = said[:, MODALITIES.index(modality)]
        return evidence
