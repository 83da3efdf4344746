"""`speech`: the words of a stretch of sound with their times, and where a voice is heard; no step of `emotion`. Tensors: see the README of the repository."""

import triton_python_backend_utils as pb_utils

from fv2es_pipelines.adapter import adapt
from fv2es_pipelines.workers import load_speech as load

TritonPythonModel = adapt(pb_utils, load)
