"""The repository's graphs on ONNX Runtime with its default options."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import tokenizers
from torch import Tensor

from benchmarks.peers.mtcnn import Floats, Net
from benchmarks.peers.nets import Features
from benchmarks.peers.weights import read_manifest
from fv2es_builders.graphs import DETECTOR_FILES, ENGINES, TOKENIZER_PATH, graph_path
from fv2es_pipelines.constants import MAX_TOKENS


class OnnxNets:
    """See `benchmarks.peers.nets.Nets`."""

    def __init__(self, repository: Path) -> None:
        """Load.

        Raises:
            RepositoryUnusable: as `read_manifest`.
        """
        self.labels = tuple(read_manifest(repository)["labels"])
        self._sessions = {name: _session(repository / graph_path(name)) for name in ENGINES}
        self.detector = {Path(name).stem: _detector(_session(repository / name)) for name in DETECTOR_FILES}
        self._tokenizer = tokenizers.Tokenizer.from_file(str(repository / TOKENIZER_PATH))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def visual(self, faces: npt.NDArray[np.uint8]) -> Features:
        """As `Nets.visual`."""
        return self._sessions["visual"].run(None, {"FACES": faces})[0]

    def acoustic(self, pieces: Tensor) -> Features:
        """As `Nets.acoustic`."""
        return self._sessions["acoustic"].run(None, {"PIECES": pieces.contiguous().numpy()})[0]

    def text(self, words: str) -> Features:
        """As `Nets.text`: [1, C]."""
        ids = np.array([self._tokenizer.encode(words.strip()).ids], np.int64)
        return self._sessions["text"].run(None, {"INPUT_IDS": ids, "ATTENTION_MASK": np.ones_like(ids)})[0]

    def fuse(self, visual: Features | None, acoustic: Features | None, text: Features | None) -> tuple[Floats, Floats]:
        """As `Nets.fuse`."""
        inputs = {
            "TEXT": np.zeros((1, len(self.labels)), np.float32) if text is None else text,
            "WORDS_MASK": np.array([text is not None]),
        }
        for rows, name, place in ((visual, "VISUAL", "FACE"), (acoustic, "ACOUSTIC", "PIECE")):
            inputs[name] = np.zeros((1, 64), np.float32) if rows is None else rows
            inputs[f"{place}_INDEX"] = np.arange(len(inputs[name]))[None]
            inputs[f"{place}_MASK"] = np.full((1, len(inputs[name])), rows is not None)
        probabilities, modality_logits = self._sessions["fusion"].run(["PROBABILITIES", "MODALITY_LOGITS"], inputs)
        return probabilities[0], modality_logits[0]


def _session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _detector(session: onnxruntime.InferenceSession) -> Net:
    def run(images: Floats) -> tuple[Floats, Floats]:
        probability, offsets = session.run(["probability", "offsets"], {"images": images})
        return probability, offsets

    return run
