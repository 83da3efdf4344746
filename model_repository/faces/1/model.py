"""`faces`: decodes the clip, finds the largest face of each sampled frame, crops it. Tensors: see the README of the repository."""

import triton_python_backend_utils as pb_utils

from fv2es_pipelines.adapter import adapt
from fv2es_pipelines.workers import load_faces as load

TritonPythonModel = adapt(pb_utils, load)
