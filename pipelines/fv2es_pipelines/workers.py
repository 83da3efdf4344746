"""The workers of the media models: what `model_repository/*/1/model.py` loads, apart from the engines."""

import json
import os
from collections.abc import Mapping

import numpy as np

from fv2es_pipelines import constants
from fv2es_pipelines.adapter import Arrays, ModelFolder, Worker, one_by_one
from fv2es_pipelines.device_faces import DeviceFaceExtractor
from fv2es_pipelines.engine import MissingWeights
from fv2es_pipelines.faces import FaceExtractor
from fv2es_pipelines.frame_index import Device
from fv2es_pipelines.frames import FramePlanner, View
from fv2es_pipelines.mtcnn import ArrayPicture, Detector
from fv2es_pipelines.plan_check import Machine, check_manifest
from fv2es_pipelines.sound import read_stretches
from fv2es_pipelines.speech import SpeechPipeline, settings_from
from fv2es_pipelines.tokens import Tokenizer


def load_faces(folder: ModelFolder) -> Worker:
    """CLIP, UTTERANCES -> FACES, FACE_INDEX, FACE_MASK, FRAME_*, VIDEO_ERRORS, FALLBACK_FRAMES."""
    extractor = FaceExtractor(_warm_detector(folder))
    return one_by_one(lambda request: extractor(request["CLIP"], request["UTTERANCES"]).to_arrays())


def _warm_detector(folder: ModelFolder) -> Detector:
    detector = Detector(folder.path)
    detector.largest_faces([ArrayPicture(np.zeros((64, 64, 3), np.uint8))])
    return detector


def load_mel(folder: ModelFolder) -> Worker:
    """CLIP, UTTERANCES -> PIECES, PIECE_INDEX, PIECE_MASK, AUDIO_ERRORS."""
    # Only here: it brings DALI, which no other worker needs, and which the gpu profile's server has as a backend alone.
    from fv2es_pipelines.mel import MelGraph, MelPipeline

    del folder  # nothing is learnt here
    graph = MelGraph()
    graph([np.zeros(constants.SAMPLE_RATE_HZ, np.float32)])  # warm-up
    pipeline = MelPipeline(graph)
    return one_by_one(lambda request: pipeline(request["CLIP"], request["UTTERANCES"]).to_arrays())


_DEVICES: Mapping[str, Device] = {"cpu": "cpu", "gpu": "gpu"}


def load_frames(folder: ModelFolder) -> Worker:
    """CLIP, UTTERANCES -> VIDEO, FRAMES, SIZE, PICTURE_TIMES, SAMPLE_PICTURE, VIEW, REST."""
    planner = FramePlanner(device=_DEVICES[folder.parameters["device"]])
    return one_by_one(lambda request: planner(request["CLIP"], request["UTTERANCES"]).to_arrays())


def load_device_faces(folder: ModelFolder) -> Worker:
    """UTTERANCES, PICTURES, PICTURE_TIMES, SAMPLE_PICTURE, VIEW, REST -> FACES, FACE_INDEX, FACE_MASK, FRAME_*, VIDEO_ERRORS, ..."""
    extractor = DeviceFaceExtractor(_warm_detector(folder))

    def answer(request: Arrays) -> Arrays:
        return extractor(
            request["UTTERANCES"],
            pictures=request["PICTURES"][0],
            picture_times_s=request["PICTURE_TIMES"],
            sample_picture=request["SAMPLE_PICTURE"],
            view=View.from_array(request["VIEW"]),
            rest=request["REST"],
        ).to_arrays()

    return one_by_one(answer)


def load_sound(folder: ModelFolder) -> Worker:
    """CLIP, UTTERANCES -> WAVES, WAVE_FRAMES, PIECE_INDEX, PIECE_MASK, AUDIO_ERRORS."""
    del folder  # nothing is learnt here
    return one_by_one(lambda request: read_stretches(request["CLIP"], request["UTTERANCES"]).to_arrays())


def load_tokenizer(folder: ModelFolder) -> Worker:
    """WORDS -> INPUT_IDS, ATTENTION_MASK, WORDS_MASK."""
    tokenizer = Tokenizer(folder.path / "tokenizer.json")
    return one_by_one(lambda request: tokenizer(request["WORDS"]).to_arrays())


def load_speech(folder: ModelFolder) -> Worker:
    """CLIP, STRETCH, LANGUAGE -> SPOKEN, WORD_TIMES, WORD_PROBABILITIES, SPEECH, ..., SPEECH_INFO.

    Without the packages or the model it loads all the same, and SPEECH_INFO says what is missing.
    """
    pipeline = SpeechPipeline(settings_from(folder.parameters, os.environ))
    return one_by_one(lambda request: pipeline(request["CLIP"], request["STRETCH"], request["LANGUAGE"][0]))


def load_manifest(folder: ModelFolder, machine: Machine | None = None) -> Worker:
    """UTTERANCES -> MANIFEST.

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
    return one_by_one(lambda request: answer)
