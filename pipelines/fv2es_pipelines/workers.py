"""The workers of the media models: what `model_repository/*/1/model.py` loads, apart from the engines."""

import json

import numpy as np

from fv2es_pipelines import constants
from fv2es_pipelines.adapter import Arrays, ModelFolder, Worker, one_by_one
from fv2es_pipelines.engine import MissingWeights
from fv2es_pipelines.faces import FaceExtractor
from fv2es_pipelines.mel import MelGraph, MelPipeline
from fv2es_pipelines.mtcnn import ArrayPicture, Detector
from fv2es_pipelines.tokens import Tokenizer


def load_faces(folder: ModelFolder) -> Worker:
    """CLIP, UTTERANCES -> FACES, FACE_INDEX, FACE_MASK, FRAME_*, VIDEO_ERRORS."""
    detector = Detector(folder.path)
    detector.largest_faces([ArrayPicture(np.zeros((64, 64, 3), np.uint8))])  # warm-up
    extractor = FaceExtractor(detector)
    return one_by_one(lambda request: extractor(request["CLIP"], request["UTTERANCES"]).to_arrays())


def load_mel(folder: ModelFolder) -> Worker:
    """CLIP, UTTERANCES -> PIECES, PIECE_INDEX, PIECE_MASK, AUDIO_ERRORS."""
    del folder  # nothing is learnt here
    graph = MelGraph()
    graph([np.zeros(constants.SAMPLE_RATE_HZ, np.float32)])  # warm-up
    pipeline = MelPipeline(graph)
    return one_by_one(lambda request: pipeline(request["CLIP"], request["UTTERANCES"]).to_arrays())


def load_tokenizer(folder: ModelFolder) -> Worker:
    """WORDS -> INPUT_IDS, ATTENTION_MASK, WORDS_MASK."""
    tokenizer = Tokenizer(folder.path / "tokenizer.json")
    return one_by_one(lambda request: tokenizer(request["WORDS"]).to_arrays())


def load_manifest(folder: ModelFolder) -> Worker:
    """UTTERANCES -> MANIFEST."""
    path = folder.path / "manifest.json"
    if not path.is_file():
        raise MissingWeights(f"{path}: no such file; make it with `fv2es build --output REPOSITORY`")
    manifest = json.dumps(json.loads(path.read_text(encoding="utf-8")), separators=(",", ":")).encode()
    answer: Arrays = {"MANIFEST": np.array([manifest], np.object_)}
    return one_by_one(lambda request: answer)
