"""`manifest`: says which weights are being served. Tensors: see the README of the repository."""

import triton_python_backend_utils as pb_utils

from fv2es_pipelines.adapter import adapt
from fv2es_pipelines.workers import load_manifest as load

TritonPythonModel = adapt(pb_utils, load)
