"""The served models of a running Triton, asked about rows of one modality at a time."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton

from benchmarks.accuracy.branch import BranchName
from fv2es.address import checked_address
from fv2es.errors import ClipRejected, ModelUnavailable, SourceError
from fv2es.result import MODALITIES, ModelInfo
from fv2es.source import probe
from fv2es.wire import (
    CHANNEL_ARGUMENTS,
    CONNECT_TIMEOUT_S,
    MANIFEST_MODEL,
    MODEL,
    decode_manifest,
    decode_response,
    encode_manifest_request,
    encode_request,
    error_from_status,
    infer_inputs,
)

IN_FLIGHT: Final = 4
"""Requests under way at once: enough to keep a server busy while the next ones are made."""
TIMEOUT_S: Final = 300.0
"""For one request, waiting in queues included."""
FEATURES: Final = 64
"""Width of VISUAL and ACOUSTIC. Source: model_repository/README.md."""

Arrays = Mapping[str, npt.NDArray[Any]]

_DATA_TYPES: Final[Mapping[str, str]] = {
    "uint8": "UINT8",
    "int64": "INT64",
    "float32": "FP32",
    "float64": "FP64",
    "bool": "BOOL",
    "object": "BYTES",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What is said of n rows."""

    evidence: npt.NDArray[np.float32]
    """[n, C], the branch's logits as served."""
    fused: npt.NDArray[np.float32]
    """[n, C], probabilities as the ensemble serves them, nothing else being present."""
    lost: tuple[str, ...]
    """n; why a row was not scored by this branch alone, "" where it was."""


class Served:
    """A connection to a Triton that serves `emotion` and its steps. Thread-safe; closing it ends what is under way.

    Args:
        server: HOST:PORT of its gRPC.

    Raises:
        UsageError: `server` is no HOST:PORT.
    """

    def __init__(self, server: str) -> None:
        self.address = checked_address(server)
        self._triton = triton.InferenceServerClient(self.address, channel_args=CHANNEL_ARGUMENTS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._triton.close()

    def manifest(self) -> tuple[dict[str, Any], ModelInfo]:
        """Which weights are served: all that is known of them, and what is put into results.

        Raises:
            ServerUnreachable: nobody answers.
            ModelUnavailable: a server without our models answers.
        """
        try:
            version = self._triton.get_server_metadata(client_timeout=CONNECT_TIMEOUT_S).version
            answer = self._triton.infer(
                MANIFEST_MODEL, infer_inputs(encode_manifest_request()), client_timeout=CONNECT_TIMEOUT_S
            )
        except triton.InferenceServerException as error:
            raise error_from_status(
                error.status(), error.message(), address=self.address, timeout_s=CONNECT_TIMEOUT_S
            ) from error
        manifest = decode_manifest(answer, address=self.address)
        return manifest, ModelInfo.from_manifest(manifest, server_version=version, address=self.address)

    def faces(self, faces: Sequence[npt.NDArray[np.uint8]], *, num_labels: int) -> Answers:
        """Grey faces, uint8 [48, 48] each, through `visual` and `fusion`: every face is an utterance, without sound or words.

        Raises:
            ServerError: no answer can be had.
        """
        rgb = np.repeat(np.stack(faces)[..., None], 3, axis=-1)  # [F, 48, 48] -> [F, 48, 48, 3]
        visual = self._ask("visual", {"FACES": rgb}, "VISUAL")["VISUAL"]  # [F, 64]
        inputs = _nothing(len(faces), num_labels) | {
            "VISUAL": visual,
            "FACE_INDEX": np.arange(len(faces), dtype=np.int64)[:, None],  # [F, 1]
            "FACE_MASK": np.ones((len(faces), 1), np.bool_),
        }
        return self._fused(inputs, "visual")

    def comments(self, texts: Sequence[str], *, num_labels: int) -> Answers:
        """Words through `tokenizer`, `text` and `fusion`: every text is an utterance, without faces or sound.

        Raises:
            ServerError: no answer can be had.
        """
        words = np.array([text.encode() for text in texts], np.object_)  # [U]
        spans_s = np.tile([0.0, 1.0], (len(texts), 1))  # [U, 2]; of no matter for words
        inputs = {"WORDS": words, "UTTERANCES": spans_s}
        tokens = self._ask("tokenizer", inputs, "INPUT_IDS", "ATTENTION_MASK", "WORDS_MASK")
        text = self._ask("text", {name: tokens[name] for name in ("INPUT_IDS", "ATTENTION_MASK")}, "TEXT")["TEXT"]
        features = _nothing(len(texts), num_labels) | {"TEXT": text, "WORDS_MASK": tokens["WORDS_MASK"]}
        return self._fused(features, "text")

    def sounds(self, files: Sequence[Path], *, num_labels: int) -> Answers:
        """Sound files as clips through the ensemble `emotion`: each whole file is an utterance, without words.

        A file that can't be decoded is lost, with the reason.

        Raises:
            ServerError: no answer can be had.
        """
        answers = [self._sound(file, num_labels) for file in files]
        return Answers(
            evidence=np.concatenate([each.evidence for each in answers]),
            fused=np.concatenate([each.fused for each in answers]),
            lost=tuple(reason for each in answers for reason in each.lost),
        )

    def _sound(self, file: Path, num_labels: int) -> Answers:
        try:
            info = probe(file)
            inputs = infer_inputs(encode_request(file.read_bytes(), [(info.start_s, info.end_s)], [""]))
            answer = decode_response(self._infer(MODEL, inputs), address=self.address)
        except (SourceError, ClipRejected) as error:
            nothing = np.zeros((1, num_labels), np.float32)
            return Answers(evidence=nothing, fused=nothing, lost=(str(error),))
        answers = _answers(answer.modality_logits, answer.probabilities, answer.present, "acoustic")
        if answer.num_audio_errors and not answers.lost[0]:
            return Answers(
                evidence=answers.evidence,
                fused=answers.fused,
                lost=(f"{answer.num_audio_errors} packets of its sound could not be decoded",),
            )
        return answers

    def _fused(self, inputs: Arrays, branch: BranchName) -> Answers:
        answer = self._ask("fusion", inputs, "MODALITY_LOGITS", "PROBABILITIES", "PRESENT")
        return _answers(answer["MODALITY_LOGITS"], answer["PROBABILITIES"], answer["PRESENT"], branch)

    def _ask(self, model: str, inputs: Arrays, *outputs: str) -> dict[str, npt.NDArray[Any]]:
        """Arrays in and out by tensor name.

        Raises:
            ModelUnavailable: the model lacks an output.
        """
        tensors = []
        for name, array in inputs.items():
            tensors.append(triton.InferInput(name, list(array.shape), _DATA_TYPES[array.dtype.name]))
            tensors[-1].set_data_from_numpy(array)
        result = self._infer(model, tensors)
        arrays = {name: result.as_numpy(name) for name in outputs}
        if missing := [name for name, array in arrays.items() if array is None]:
            raise ModelUnavailable(
                self.address,
                f"model `{model}` gives no {', '.join(missing)}; benchmarks and model repository must be of one version",
            )
        return arrays

    def _infer(self, model: str, tensors: list[triton.InferInput]) -> triton.InferResult:
        try:
            return self._triton.infer(model, tensors, client_timeout=TIMEOUT_S)
        except triton.InferenceServerException as error:
            raise error_from_status(
                error.status(), f"model `{model}`: {error.message()}", address=self.address, timeout_s=TIMEOUT_S
            ) from error


def _nothing(num_rows: int, num_labels: int) -> dict[str, npt.NDArray[Any]]:
    """Inputs of `fusion` for utterances of which nothing is known; one row of features stands in for none."""
    index, mask = np.zeros((num_rows, 1), np.int64), np.zeros((num_rows, 1), np.bool_)
    return {
        "VISUAL": np.zeros((1, FEATURES), np.float32),
        "FACE_INDEX": index,
        "FACE_MASK": mask,
        "ACOUSTIC": np.zeros((1, FEATURES), np.float32),
        "PIECE_INDEX": index,
        "PIECE_MASK": mask,
        "TEXT": np.zeros((num_rows, num_labels), np.float32),
        "WORDS_MASK": mask[:, 0],
    }


def _answers(
    modality_logits: npt.NDArray[Any], probabilities: npt.NDArray[Any], present: npt.NDArray[Any], branch: BranchName
) -> Answers:
    """The branch's part of [n, 3, C]; a row is lost unless the branch, and it alone, was present in [n, 3]."""
    return Answers(
        evidence=modality_logits[:, MODALITIES.index(branch)],
        fused=probabilities,
        lost=tuple(_fault(dict(zip(MODALITIES, row, strict=True)), branch) for row in present.tolist()),
    )


def _fault(present: Mapping[str, bool], branch: BranchName) -> str:
    if not present[branch]:
        return {"visual": "no face", "acoustic": "no sound", "text": "no words"}[branch] + " that the server could use"
    others = [name for name, took_part in present.items() if took_part and name != branch]
    return f"{' and '.join(others)} took part as well" if others else ""


def ask_all(
    rows: Sequence[Any],
    batches: Sequence[npt.NDArray[np.int64]],
    ask: Callable[[Sequence[Any]], Answers],
    *,
    on_rows: Callable[[int], None],
) -> Answers:
    """Ask about all rows, a handful of batches at a time; the answers are in the order of the rows.

    Args:
        rows: N of them.
        batches: positions of rows, each in one batch.
        ask: gives the answers to a batch.
        on_rows: called with the number of rows that were answered since the last call.

    Raises:
        Fv2esError: the first that `ask` raised; no further batches are sent. Those under way are not waited for: closing
            the connection ends them.
    """
    answers = []
    pool = ThreadPoolExecutor(IN_FLIGHT)
    try:
        futures = [pool.submit(lambda own: ask([rows[row] for row in own]), batch) for batch in batches]
        for future, batch in zip(futures, batches, strict=True):
            answers.append(future.result())
            on_rows(len(batch))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    order = np.argsort(np.concatenate(batches), kind="stable")
    lost = [reason for each in answers for reason in each.lost]
    return Answers(
        evidence=np.concatenate([each.evidence for each in answers])[order],
        fused=np.concatenate([each.fused for each in answers])[order],
        lost=tuple(lost[place] for place in order),
    )
