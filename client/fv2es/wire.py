"""What goes over gRPC: requests to and answers of the model `emotion`, and Triton's failures as typed errors."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput, InferResult, service_pb2
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

from fv2es.errors import (
    ClipRejected,
    DeadlineExceeded,
    InferenceFailed,
    ModelUnavailable,
    ServerError,
    ServerUnreachable,
)

MODEL = "emotion"
MANIFEST_MODEL = "manifest"
FUSION_MODEL = "fusion"
CONNECT_TIMEOUT_S = 10.0
"""For the small questions: which model, is it alive."""
FUSION_INPUTS = {
    "VISUAL": "FP32",
    "FACE_INDEX": "INT64",
    "FACE_MASK": "BOOL",
    "ACOUSTIC": "FP32",
    "PIECE_INDEX": "INT64",
    "PIECE_MASK": "BOOL",
    "TEXT": "FP32",
    "WORDS_MASK": "BOOL",
}
"""With their types."""

INFER_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_RAW_INPUT_CONTENTS = bytes([service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | 2])
"""Protobuf's tag of that field: a length and so many bytes follow."""

CHANNEL_ARGUMENTS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
"""For every channel. Given arguments replace those of tritonclient, so its unlimited messages are said again; gRPC's own
waits between tries to connect grow to two minutes, a restarted server would be found long after it is back."""

_OUTPUTS = {
    "LOGITS": 2,
    "PROBABILITIES": 2,
    "MODALITY_LOGITS": 3,
    "PRESENT": 2,
    "FRAME_TIMES": 1,
    "FRAME_UTTERANCE": 1,
    "FRAME_BOXES": 2,
    "FRAME_SCORES": 1,
    "VIDEO_ERRORS": 1,
    "FALLBACK_FRAMES": 1,
    "AUDIO_ERRORS": 1,
    "MANIFEST": 1,
    "VISUAL": 2,
    "FACE_INDEX": 2,
    "FACE_MASK": 2,
    "ACOUSTIC": 2,
    "PIECE_INDEX": 2,
    "PIECE_MASK": 2,
    "TEXT": 2,
    "WORDS_MASK": 1,
}
"""Outputs of `emotion` that the client reads, with their number of axes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipAnswer:
    """The answer to one clip: U utterances, K sampled pictures, C labels."""

    logits: np.ndarray[Any, Any]
    """[U, C] float32."""
    probabilities: np.ndarray[Any, Any]
    """[U, C] float32, 0..1."""
    modality_logits: np.ndarray[Any, Any]
    """[U, 3, C] float32: text, visual, acoustic."""
    present: np.ndarray[Any, Any]
    """[U, 3] bool, in the same order."""
    frame_times_s: np.ndarray[Any, Any]
    """[K] float64, seconds on the clip's clock."""
    frame_utterance: np.ndarray[Any, Any]
    """[K] int32: index of the utterance in the request."""
    frame_boxes_px: np.ndarray[Any, Any]
    """[K, 4] float32: x0, y0, x1, y1; zeros where no face was found."""
    frame_scores: np.ndarray[Any, Any]
    """[K] float32: 0 where no face was found."""
    num_video_errors: int
    num_fallback_frames: int
    """Sampled pictures that the CPU decoded because the GPU's decoder can't."""
    num_audio_errors: int
    manifest: dict[str, Any]
    """Which weights answered."""
    features: dict[str, np.ndarray[Any, Any]]
    """The inputs of `fusion` that led to it, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """One input of a model."""

    name: str
    data_type: str
    """Triton's name of it."""
    shape: tuple[int, ...]
    content: bytes
    """As Triton's `raw_input_contents`: numbers in rows, the last axis fastest; before each of BYTES its length, uint32."""

    @classmethod
    def of(cls, name: str, data_type: str, array: np.ndarray[Any, Any]) -> "Tensor":
        """The numbers of an array of that type; of BYTES one of `bytes`."""
        content = (
            b"".join(len(each).to_bytes(4, "little") + each for each in array.flat)
            if data_type == "BYTES"
            else array.tobytes()
        )
        return cls(name=name, data_type=data_type, shape=array.shape, content=content)


def encode_message(model_name: str, tensors: Sequence[Tensor]) -> bytes:
    """An `inference.ModelInferRequest` as gRPC sends it. No clip is copied but into this message."""
    head = service_pb2.ModelInferRequest(model_name=model_name)
    for each in tensors:
        head.inputs.add(name=each.name, datatype=each.data_type, shape=each.shape)
    parts = [head.SerializeToString()]
    for each in tensors:  # fields of a message may follow each other in any order
        parts += [_RAW_INPUT_CONTENTS, _varint(len(each.content)), each.content]
    return b"".join(parts)


def _varint(number: int) -> bytes:
    """By seven bits, the lowest first; all bytes but the last have the highest bit set."""
    *more, last = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(each | 0x80 for each in more), last])


def decode_message(message: bytes) -> InferResult:
    """The answer to such a message."""
    return InferResult(service_pb2.ModelInferResponse.FromString(message))


def infer_inputs(tensors: Sequence[Tensor]) -> list[InferInput]:
    """The same as tritonclient takes them."""
    inputs = []
    for each in tensors:
        inputs.append(InferInput(each.name, list(each.shape), each.data_type))
        array = (
            deserialize_bytes_tensor(each.content)
            if each.data_type == "BYTES"
            else np.frombuffer(each.content, triton_to_np_dtype(each.data_type))
        )
        inputs[-1].set_data_from_numpy(array.reshape(each.shape))
    return inputs


def encode_request(clip: bytes, spans_s: Sequence[tuple[float, float]], words: Sequence[str]) -> list[Tensor]:
    """The inputs of `emotion`.

    Args:
        clip: encoded bytes.
        spans_s: start and end of each utterance on the clip's clock.
        words: of each utterance; "" where none are known.
    """
    return [
        Tensor(name="CLIP", data_type="UINT8", shape=(len(clip),), content=clip),
        Tensor.of("UTTERANCES", "FP64", np.array(spans_s, np.float64).reshape(-1, 2)),
        Tensor.of("WORDS", "BYTES", np.array([each.encode() for each in words], np.object_)),
    ]


def encode_manifest_request() -> list[Tensor]:
    """The inputs of `manifest` alone, where no other model has refused anything."""
    nothing = np.array([b"", b""], np.object_)
    return [
        Tensor.of("PRESENT", "BOOL", np.zeros((1, 3), np.bool_)),
        *(Tensor.of(name, "BYTES", nothing) for name in ("PICTURES_REFUSAL", "SOUND_REFUSAL", "WORDS_REFUSAL")),
    ]


def decode_response(response: InferResult, *, address: str) -> ClipAnswer:
    """The answer in `response`.

    Raises:
        ModelUnavailable: the server's `emotion` is not of the form that this client knows.
    """
    arrays = {}
    for name, num_axes in _OUTPUTS.items():
        array = response.as_numpy(name)
        if array is None or array.ndim != num_axes:
            found = "is missing" if array is None else f"has shape {list(array.shape)}"
            raise ModelUnavailable(
                address,
                f"output {name} of model `{MODEL}` {found}, expected {num_axes} axes; client and model repository must be of one version",
            )
        arrays[name] = array
    return ClipAnswer(
        logits=arrays["LOGITS"],
        probabilities=arrays["PROBABILITIES"],
        modality_logits=arrays["MODALITY_LOGITS"],
        present=arrays["PRESENT"],
        frame_times_s=arrays["FRAME_TIMES"],
        frame_utterance=arrays["FRAME_UTTERANCE"],
        frame_boxes_px=arrays["FRAME_BOXES"],
        frame_scores=arrays["FRAME_SCORES"],
        num_video_errors=int(arrays["VIDEO_ERRORS"][0]),
        num_fallback_frames=int(arrays["FALLBACK_FRAMES"][0]),
        num_audio_errors=int(arrays["AUDIO_ERRORS"][0]),
        manifest=decode_manifest(response, address=address),
        features={name: arrays[name] for name in FUSION_INPUTS},
    )


def encode_fusion_request(arrays: Mapping[str, np.ndarray[Any, Any]]) -> list[Tensor]:
    """The inputs of `fusion`, for arrays by name."""
    return [Tensor.of(name, data_type, arrays[name]) for name, data_type in FUSION_INPUTS.items()]


def decode_fusion_response(response: InferResult, *, address: str) -> dict[str, np.ndarray[Any, Any]]:
    """LOGITS, PROBABILITIES and PRESENT of W rows.

    Raises:
        ModelUnavailable: one is missing.
    """
    arrays = {name: response.as_numpy(name) for name in ("LOGITS", "PROBABILITIES", "PRESENT")}
    for name, array in arrays.items():
        if array is None:
            raise ModelUnavailable(
                address,
                f"output {name} of model `{FUSION_MODEL}` is missing; client and repository must be of one version",
            )
    return arrays


def decode_manifest(response: InferResult, *, address: str) -> dict[str, Any]:
    """The manifest in `response`.

    Raises:
        ModelUnavailable: there is none.
    """
    array = response.as_numpy("MANIFEST")
    if array is None:
        raise ModelUnavailable(
            address, "the answer holds no MANIFEST; client and model repository must be of one version"
        )
    manifest: dict[str, Any] = json.loads(array[0])
    return manifest


_ERRORS: dict[str, Callable[[str, str], ServerError]] = {
    "INVALID_ARGUMENT": ClipRejected,
    "RESOURCE_EXHAUSTED": ClipRejected,
    "NOT_FOUND": ModelUnavailable,
    "UNIMPLEMENTED": ModelUnavailable,
    "UNAVAILABLE": ServerUnreachable,
}


def error_from_status(status: str | None, message: str, *, address: str, timeout_s: float) -> ServerError:
    """The typed error for a gRPC status.

    UNAVAILABLE means on Triton 2.51 that the connection failed, that a queue is full or that a request waited too long in
    one: here it becomes `ServerUnreachable`; whoever can ask the server's health tells them apart.

    Args:
        status: as tritonclient gives it, such as "StatusCode.INVALID_ARGUMENT"; None where it gives none.
        message: of the server, shown to people and never interpreted.
        address: HOST:PORT.
        timeout_s: the deadline that had been set.
    """
    code = (status or "").rpartition(".")[2]
    if code == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(
            address, f"no answer within {timeout_s:g} s; allow more time or send less at once", timeout_s=timeout_s
        )
    return _ERRORS.get(code, InferenceFailed)(address, f"{message} ({code or 'no status'})")
