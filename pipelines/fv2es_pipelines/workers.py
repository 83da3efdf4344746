"""The workers of the media models: what `model_repository/*/1/model.py` loads, apart from the engines.

A worker is a process of its own and imports what it needs alone, where it is loaded: PyAV, ONNX Runtime and DALI take 15 to 70 MB each,
and the gpu profile's server has DALI as a backend alone.
"""

from __future__ import annotations  # names of types are imported for checking alone

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fv2es_pipelines import constants
from fv2es_pipelines.adapter import Arrays, ModelFolder, Worker, keep_one_heap, one_by_one
from fv2es_pipelines.errors import ClipTooLarge, MissingWeights, WordsMismatch
from fv2es_pipelines.limits import MediaLimits, checked_utterances
from fv2es_pipelines.plan_check import Machine, check_manifest
from fv2es_pipelines.refusal import num_rows, raise_refusals, refusing, usable_utterances
from fv2es_pipelines.specification import MAX_ROWS

if TYPE_CHECKING:
    from fv2es_pipelines.frame_index import Device
    from fv2es_pipelines.mtcnn import Detector


def load_faces(folder: ModelFolder) -> Worker:
    """CLIP, UTTERANCES -> FACES, FACE_INDEX, FACE_MASK, FRAME_*, VIDEO_ERRORS, FALLBACK_FRAMES, PICTURES_REFUSAL."""
    from fv2es_pipelines.faces import FaceExtractor

    extractor = FaceExtractor(_warm_detector(folder))
    return refusing(
        lambda request: _within("FACES", extractor(request["CLIP"], request["UTTERANCES"]).to_arrays()),
        _no_faces,
        output="PICTURES_REFUSAL",
    )


def _no_faces(request: Arrays) -> Arrays:
    from fv2es_pipelines.faces import no_faces

    return no_faces(num_rows(request["UTTERANCES"])).to_arrays()


def _within(name: str, arrays: Arrays) -> Arrays:
    """The same arrays, of which one becomes an engine's batch.

    Raises:
        ClipTooLarge: it has more rows than the engine takes.
    """
    rows = len(arrays[name])
    if rows > MAX_ROWS:
        raise ClipTooLarge(f"rows of {name}", value=rows, limit=MAX_ROWS)
    return arrays


def _warm_detector(folder: ModelFolder) -> Detector:
    from fv2es_pipelines.mtcnn import ArrayPicture, Detector

    detector = Detector(folder.path)
    detector.largest_faces([ArrayPicture(np.zeros((64, 64, 3), np.uint8))])
    return detector


def load_mel(folder: ModelFolder) -> Worker:
    """CLIP, UTTERANCES -> PIECES, PIECE_INDEX, PIECE_MASK, AUDIO_ERRORS, SOUND_REFUSAL."""
    from fv2es_pipelines.mel import MelGraph, MelPipeline, piece_batch

    del folder  # nothing is learnt here
    graph = MelGraph()
    graph([np.zeros(constants.SAMPLE_RATE_HZ, np.float32)])  # warm-up
    pipeline = MelPipeline(graph)
    return refusing(
        lambda request: _within("PIECES", pipeline(request["CLIP"], request["UTTERANCES"]).to_arrays()),
        lambda request: piece_batch(graph, [None] * num_rows(request["UTTERANCES"])).to_arrays(),
        output="SOUND_REFUSAL",
    )


def load_frames(folder: ModelFolder) -> Worker:
    """CLIP, UTTERANCES -> VIDEO, FRAMES, SIZE, PICTURE_TIMES, SAMPLE_PICTURE, VIEW, REST, FRAMES_REFUSAL."""
    from fv2es_pipelines.frames import FramePlanner, refused_frames

    devices: Mapping[str, Device] = {"cpu": "cpu", "gpu": "gpu"}
    planner = FramePlanner(device=devices[folder.parameters["device"]])
    return refusing(
        lambda request: planner(request["CLIP"], request["UTTERANCES"]).to_arrays(),
        lambda request: refused_frames(usable_utterances(request["UTTERANCES"])).to_arrays(),
        output="FRAMES_REFUSAL",
    )


def load_device_faces(folder: ModelFolder) -> Worker:
    """UTTERANCES, PICTURES, PICTURE_TIMES, SAMPLE_PICTURE, VIEW, REST, FRAMES_REFUSAL -> as `load_faces`."""
    from fv2es_pipelines.device_faces import DeviceFaceExtractor
    from fv2es_pipelines.frames import View

    extractor = DeviceFaceExtractor(_warm_detector(folder))

    def answer(request: Arrays) -> Arrays:
        raise_refusals(request, "FRAMES_REFUSAL")
        batch = extractor(
            request["UTTERANCES"],
            pictures=request["PICTURES"][0],
            picture_times_s=request["PICTURE_TIMES"],
            sample_picture=request["SAMPLE_PICTURE"],
            view=View.from_array(request["VIEW"]),
            rest=request["REST"],
        )
        return _within("FACES", batch.to_arrays())

    return refusing(answer, _no_faces, output="PICTURES_REFUSAL")


def load_sound(folder: ModelFolder) -> Worker:
    """CLIP, UTTERANCES -> WAVES, WAVE_FRAMES, PIECE_INDEX, PIECE_MASK, AUDIO_ERRORS, SOUND_REFUSAL."""
    from fv2es_pipelines.sound import read_stretches, stretch_batch

    del folder  # nothing is learnt here
    return refusing(
        lambda request: _within("WAVES", read_stretches(request["CLIP"], request["UTTERANCES"]).to_arrays()),
        lambda request: stretch_batch([None] * num_rows(request["UTTERANCES"])).to_arrays(),
        output="SOUND_REFUSAL",
    )


def load_tokenizer(folder: ModelFolder) -> Worker:
    """WORDS, UTTERANCES -> INPUT_IDS, ATTENTION_MASK, WORDS_MASK, WORDS_REFUSAL."""
    from fv2es_pipelines.tokens import Tokenizer

    tokenizer = Tokenizer(folder.path / "tokenizer.json")

    def answer(request: Arrays) -> Arrays:
        words, num_utterances = request["WORDS"], len(checked_utterances(request["UTTERANCES"], MediaLimits()))
        if len(words) != num_utterances:
            raise WordsMismatch(num_words=len(words), num_utterances=num_utterances)
        return tokenizer(words).to_arrays()

    return refusing(
        answer, lambda request: tokenizer([""] * num_rows(request["UTTERANCES"])).to_arrays(), output="WORDS_REFUSAL"
    )


def load_speech(folder: ModelFolder) -> Worker:
    """CLIP, STRETCH, LANGUAGE -> SPOKEN, WORD_TIMES, WORD_PROBABILITIES, SPEECH, ..., SPEECH_INFO.

    Without the packages or the model it loads all the same, and SPEECH_INFO says what is missing.
    """
    from fv2es_pipelines.speech import SpeechPipeline, settings_from

    pipeline = SpeechPipeline(settings_from(folder.parameters, os.environ))
    keep_one_heap()
    return one_by_one(lambda request: pipeline(request["CLIP"], request["STRETCH"], request["LANGUAGE"][0]))


def load_manifest(folder: ModelFolder, machine: Machine | None = None) -> Worker:
    """PRESENT, *_REFUSAL -> MANIFEST. It fails a request that was refused, see `fv2es_pipelines.refusal`.

    It sees when a server starts whether the repository's plans are made for it: a model that can't be loaded keeps Triton from
    becoming ready.

    Args:
        folder: of the model, beside the other models' ones.
        machine: what plans must be made for; None: this one.

    Raises:
        MissingWeights: there is no manifest.
        NoPlans, PlanMismatch, NoGpu: see `fv2es_pipelines.plan_check.check_manifest`.
    """
    path = folder.path / "manifest.json"
    if not path.is_file():
        raise MissingWeights(f"{path}: no such file; make it with `fv2es build --output REPOSITORY`")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    check_manifest(folder.path.parents[1], manifest, machine)
    text = json.dumps(manifest, separators=(",", ":")).encode()
    answer: Arrays = {"MANIFEST": np.array([text], np.object_)}

    def settle(request: Arrays) -> Arrays:
        raise_refusals(request, "WORDS_REFUSAL", "PICTURES_REFUSAL", "SOUND_REFUSAL")
        return answer

    return one_by_one(settle)
