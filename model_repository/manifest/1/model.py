"""`manifest`: answers last: fails the request that another model refused, else says which weights answered. Tensors: see the README of the repository."""

import triton_python_backend_utils as pb_utils

from fv2es_pipelines.adapter import adapt
from fv2es_pipelines.workers import load_manifest as load

TritonPythonModel = adapt(pb_utils, load)
